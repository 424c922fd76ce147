"""Simulated units behind pymodbus's servers, with faults on purpose."""

from __future__ import annotations

import asyncio
import collections
import typing
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.server.base import ModbusBaseServer
from pymodbus.server.requesthandler import ServerRequestHandler

from fluxedge.columns import Value
from fluxedge.config.structs import DriverCfg
from fluxedge.protocols.modbus.address import Area
from fluxedge.protocols.modbus.framing import silence_pymodbus
from fluxedge.simulate.device import DriverSimulator
from fluxedge.simulate.pty import PtyPair

_AREA_OF_FUNCTION = {
    1: Area.COILS, 5: Area.COILS, 15: Area.COILS, 2: Area.DISCRETE_INPUTS, 4: Area.INPUT_REGISTERS,
    3: Area.HOLDING_REGISTERS, 6: Area.HOLDING_REGISTERS, 16: Area.HOLDING_REGISTERS, 22: Area.HOLDING_REGISTERS,
    23: Area.HOLDING_REGISTERS,
}  # fmt: skip


@dataclass
class Faults:
    """What goes wrong on purpose; change it while the server runs."""

    silent: set[int] = field(default_factory=set)  # units that do not answer
    delay_s: dict[int, float] = field(default_factory=dict)  # unit -> how late its answers are sent
    exceptions: dict[int, int] = field(default_factory=dict)  # unit -> exception code of every answer


class _Units(ModbusServerContext):
    """The units behind one wire, as pymodbus's requests see them."""

    def __init__(self, units: dict[int, DriverSimulator]) -> None:
        # Not the base's: it builds a data store of its own.
        self.units = units
        self.simdevices = []
        self.old_simulator = True  # pymodbus then asks this object itself

    async def async_getValues(
        self, device_id: int, func_code: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        answer = self.units[device_id].read(_AREA_OF_FUNCTION[func_code], address, count)
        return ExcCodes(answer) if isinstance(answer, int) else answer

    async def async_setValues(
        self, device_id: int, func_code: int, address: int, values: Sequence[int] | Sequence[bool]
    ) -> ExcCodes | None:
        refusal = self.units[device_id].write(_AREA_OF_FUNCTION[func_code], address, values)
        return None if refusal is None else ExcCodes(refusal)

    def device_ids(self) -> list[int]:
        return list(self.units)


class _Handler(ServerRequestHandler):
    """One connection.

    pymodbus's own handler keeps one request: where a second one arrives before the first is answered, it answers the
    second twice and the first never.
    """

    def __init__(self, owner: ModbusBaseServer, server: Server) -> None:
        super().__init__(owner, None, None, None)  # type: ignore[no-untyped-call]
        self._server = server

    def callback_data(self, data: bytes, addr: tuple[typing.Any, ...] | None = None) -> int:
        used = 0
        while used < len(data):
            try:
                size, pdu = self.framer.handleFrame(data[used:], 0, 0)
            except ModbusIOException as exc:
                refusal = ExceptionResponse(exc.fcode or 0, ExcCodes.ILLEGAL_FUNCTION, exc.dev_id, exc.transaction_id)
                self._send(refusal)
                return len(data)
            used += size
            if pdu is None:
                break
            self._answer(pdu)
        return used

    def _answer(self, request: ModbusPDU) -> None:
        reply = self._server.answer(request)
        if reply is None:
            return
        delay_s = self._server.faults.delay_s.get(request.dev_id, 0.0)
        if delay_s:
            self.loop.call_later(delay_s, self._send, reply)
        else:
            self._send(reply)

    def _send(self, reply: ModbusPDU) -> None:
        if self.is_active():  # not pdu_send: it drops what has been received of the next request
            typing.cast(asyncio.Transport, self.transport).write(self.framer.buildFrame(reply))


class Server:
    """Simulated units on one wire. Made by serve_tcp, serve_rtu and serve_pty."""

    def __init__(self, units: dict[int, DriverSimulator]) -> None:
        silence_pymodbus()
        self.units = units
        self.faults = Faults()
        self.port = 0  # TCP
        self.path = ""  # what the gateway opens: a device file
        self.requests: collections.Counter[tuple[int, int]] = collections.Counter()  # (unit, function) -> how many
        self.context = _Units(units)
        self._server: ModbusBaseServer | None = None
        self._pair: PtyPair | None = None

    def get(self, unit: int, point: str) -> Value | None:
        """Return an engineering value as the unit's registers hold it."""
        return self.units[unit].get(point)

    def set(self, unit: int, point: str, value: Value) -> None:
        """Hold a point at an engineering value.

        Raises:
            ValueError: its type cannot hold the value.
        """
        self.units[unit].set(point, value)

    def answer(self, request: ModbusPDU) -> ModbusPDU | None:
        """Return the reply to a request, None for silence."""
        unit = request.dev_id
        self.requests[unit, request.function_code] += 1
        if unit not in self.units or unit in self.faults.silent:
            return None
        if unit in self.faults.exceptions:
            reply: ModbusPDU = ExceptionResponse(request.function_code, self.faults.exceptions[unit])
        else:
            reply = _finished(request.datastore_update(self.context, unit))
        reply.dev_id, reply.transaction_id = unit, request.transaction_id
        return reply

    async def close(self) -> None:
        """Stop listening and close what is connected."""
        if self._server is not None:
            listener = self._server.transport
            await self._server.shutdown()  # type: ignore[no-untyped-call]
            if isinstance(listener, asyncio.AbstractServer):
                await listener.wait_closed()
            self._server = None
        if self._pair is not None:
            self._pair.close()
            self._pair = None
        await asyncio.sleep(0)  # transports tell their protocols in the next turn

    async def _listen(self, server: ModbusBaseServer, where: str) -> None:
        self._server = server
        server.callback_new_connection = lambda: _Handler(server, self)  # type: ignore[method-assign]
        try:
            await server.serve_forever(background=True)
        except RuntimeError as exc:
            raise OSError(f"a simulated device cannot listen on {where}") from exc


def _finished(coroutine: Coroutine[typing.Any, typing.Any, ModbusPDU]) -> ModbusPDU:
    """Return what a coroutine that never waits returns; our data store answers at once."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return typing.cast(ModbusPDU, done.value)
    raise RuntimeError("a pymodbus request waited for something")


def _units(drivers_by_unit: Mapping[int, DriverCfg | DriverSimulator]) -> dict[int, DriverSimulator]:
    return {
        unit: driver if isinstance(driver, DriverSimulator) else DriverSimulator(driver, seed=unit)
        for unit, driver in drivers_by_unit.items()
    }


async def serve_tcp(
    drivers_by_unit: Mapping[int, DriverCfg | DriverSimulator], host: str = "127.0.0.1", port: int = 0
) -> Server:
    """Serve units over Modbus TCP; port 0 = any free one, see `Server.port`.

    Raises:
        OSError: the port cannot be opened.
    """
    server = Server(_units(drivers_by_unit))
    tcp = ModbusTcpServer(server.context, address=(host, port))
    await server._listen(tcp, f"{host}:{port}")
    server.port = typing.cast(asyncio.Server, tcp.transport).sockets[0].getsockname()[1]
    return server


async def serve_rtu(
    drivers_by_unit: Mapping[int, DriverCfg | DriverSimulator], path: str, baud: int = 9600, parity: str = "N"
) -> Server:
    """Serve units as Modbus RTU on a serial port.

    Raises:
        OSError: the port cannot be opened.
    """
    server = Server(_units(drivers_by_unit))
    server.path = path
    await server._listen(ModbusSerialServer(server.context, port=path, baudrate=baud, parity=parity), path)
    return server


async def serve_pty(drivers_by_unit: Mapping[int, DriverCfg | DriverSimulator], baud: int = 9600) -> Server:
    """Serve units as Modbus RTU on a pty pair; the gateway opens `Server.path`.

    Raises:
        OSError: the system has no pty left.
    """
    pair = PtyPair()
    try:
        server = await serve_rtu(drivers_by_unit, pair.ends[1], baud)
    except OSError:
        pair.close()
        raise
    server.path, server._pair = pair.ends[0], pair
    return server
