"""Simulated units on TCP and on a serial line: a client that is not ours sees a Modbus device."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
from pymodbus.client import AsyncModbusTcpClient

from fluxedge.config.structs import DriverCfg, ModbusOptionsCfg, ModbusPointCfg
from fluxedge.simulate import DriverSimulator, Server, serve_rtu, serve_tcp

METER = DriverCfg(
    id="meter",
    name="Meter",
    protocol="modbus",
    source="a test",
    options=ModbusOptionsCfg(),
    points={
        "u": ModbusPointCfg(at="ir:0", type="float32", unit="V"),
        "setpoint": ModbusPointCfg(at="hr:5", type="int32", unit="W", write=True),
        "flag": ModbusPointCfg(at="hr:9.4", write=True),
        "relay": ModbusPointCfg(at="co:3", write=True),
        "door": ModbusPointCfg(at="di:1"),
    },
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await serve_tcp({1: DriverSimulator(METER, 1), 2: DriverSimulator(METER, 2)})
    yield server
    await server.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient("127.0.0.1", port=server.port, timeout=0.3, retries=0)
    assert await client.connect()
    yield client
    client.close()
    await asyncio.sleep(0)


async def test_every_function_reads_its_own_table(server: Server, client: AsyncModbusTcpClient) -> None:
    server.set(1, "u", 12.5)
    server.set(1, "door", True)
    reply = await client.read_input_registers(0, count=2, device_id=1)
    assert struct.unpack(">f", struct.pack(">HH", *reply.registers)) == (12.5,)
    assert (await client.read_discrete_inputs(1, count=1, device_id=1)).bits[0] is True
    assert (await client.read_coils(3, count=1, device_id=1)).bits[0] is False


async def test_what_a_foreign_client_writes_is_read_back(server: Server, client: AsyncModbusTcpClient) -> None:
    await client.write_registers(5, [0xFFFF, 0xFFFE], device_id=1)
    await client.write_coil(3, True, device_id=1)
    await client.mask_write_register(address=9, and_mask=0xFFEF, or_mask=0x0010, device_id=1)
    assert [server.get(1, name) for name in ("setpoint", "relay", "flag")] == [-2, True, True]
    assert [server.get(2, name) for name in ("relay", "flag")] == [False, False]


async def test_addresses_outside_the_map_answer_exception_02(client: AsyncModbusTcpClient) -> None:
    assert (await client.read_holding_registers(7, count=1, device_id=1)).exception_code == 2
    assert (await client.write_register(0, 1, device_id=1)).exception_code == 2
    assert (await client.read_input_registers(0, count=3, device_id=1)).exception_code == 2


async def test_each_unit_is_a_device_of_its_own(server: Server) -> None:
    assert server.get(1, "u") != server.get(2, "u")


async def raw(server: Server, request: str, timeout_s: float = 0.3) -> bytes:
    """Send hexadecimal bytes, return what comes back within a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(bytes.fromhex(request))
        async with asyncio.timeout(timeout_s):
            return await reader.read(512)
    except TimeoutError:
        return b""
    finally:
        writer.close()
        await writer.wait_closed()


READ_COIL = "0007 0000 0006 {unit:02x} 01 0003 0001"


async def test_a_silent_unit_and_one_that_is_not_there_do_not_answer(server: Server) -> None:
    server.faults.silent.add(1)
    assert await raw(server, READ_COIL.format(unit=1)) == b""
    assert await raw(server, READ_COIL.format(unit=9)) == b""
    assert (await raw(server, READ_COIL.format(unit=2))).hex() == "00070000000402010100"
    assert server.requests[1, 1] == 1


async def test_a_unit_answers_with_the_exception_it_is_told(server: Server) -> None:
    server.faults.exceptions[1] = 6
    assert (await raw(server, READ_COIL.format(unit=1))).hex() == "000700000003018106"


async def test_a_slow_unit_answers_late_and_with_its_own_transaction_id(server: Server) -> None:
    server.faults.delay_s[1] = 0.1
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(bytes.fromhex("0001 0000 0006 01 01 0003 0001 0002 0000 0006 02 01 0003 0001"))
    first, second = await reader.readexactly(10), await reader.readexactly(10)
    writer.close()
    await writer.wait_closed()
    assert (first[:2].hex(), first[6]) == ("0002", 2)
    assert (second[:2].hex(), second[6]) == ("0001", 1)


async def test_requests_in_one_segment_and_in_pieces_are_all_answered(server: Server) -> None:
    frame = bytes.fromhex(READ_COIL.format(unit=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(frame * 3 + frame[:5])
    assert len(await reader.readexactly(30)) == 30
    writer.write(frame[5:])
    assert len(await reader.readexactly(10)) == 10
    writer.close()
    await writer.wait_closed()


async def test_a_function_that_nobody_knows_answers_exception_01(server: Server) -> None:
    reply = await raw(server, "0007 0000 0002 01 55")
    assert reply[-1] == 1


async def test_a_closed_server_frees_its_port_and_its_connections() -> None:
    server = await serve_tcp({1: METER})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(bytes.fromhex(READ_COIL.format(unit=1)))
    await reader.readexactly(10)
    port = server.port
    await server.close()
    assert await reader.read() == b""
    writer.close()
    again = await serve_tcp({1: METER}, port=port)
    assert again.port == port
    await again.close()


async def test_a_port_in_use_is_an_os_error() -> None:
    server = await serve_tcp({1: METER})
    with pytest.raises(OSError, match="cannot listen"):
        await serve_tcp({1: METER}, port=server.port)
    await server.close()


async def test_a_serial_port_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(OSError, match="no-such-port"):
        await serve_rtu({1: METER}, "/dev/no-such-port")
