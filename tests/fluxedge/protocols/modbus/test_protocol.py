import asyncio
import struct
import typing
from collections.abc import Callable

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, DriverCfg
from fluxedge.problems import DeviceProblem
from fluxedge.protocols.modbus import ModbusProtocol
from fluxedge.spi import Reply

Build = Callable[..., ModbusProtocol]


def test_the_plan_is_described_a_line_per_request(build: Build) -> None:
    points = {f"p{i}": {"at": f"ir:{2 * i}", "type": "float32"} for i in range(40)} | {"on": {"at": "00001"}}
    assert build(points).describe() == [
        "FC01, unit 1: coil 0 (00001), 1 point",
        "FC04, unit 1: registers 0–79 (30001–30080), 40 points",
    ]


def test_each_point_is_described_as_it_goes_on_the_wire(build: Build) -> None:
    points = {"u": {"at": "30001", "type": "float32", "order": "CDAB"}, "s": {"at": "hr:3.0"}}
    assert build(points).describe_points() == [
        "u: 30001 → FC04, address 0, 2 registers, CDAB",
        "s: hr:3.0 → FC03, address 3, 1 register, bit 0",
    ]


def test_a_device_has_its_own_timeout_or_the_channels(driver: Callable[..., DriverCfg]) -> None:
    for given_s, used_s in ((None, 1.0), (Seconds(0.3), 0.3)):
        device = DeviceCfg(driver="acme", timeout_s=given_s)
        built = ModbusProtocol.build("m1", device, driver({"u": {"at": "30001"}}), framing="tcp", timeout_s=1.0)
        assert built.timeout_s == used_s


async def test_a_probe_asks_for_one_register(build: Build, link: typing.Any) -> None:
    protocol = build({"u": {"at": "ir:10", "type": "float64"}, "v": {"at": "ir:14"}}, link.framing)
    link.words["ir"] = dict.fromkeys(range(20), 0)
    await protocol.check_link(link)
    assert link.asked == [bytes.fromhex("04 000A 0001")]


async def test_a_probe_answered_by_an_exception_proves_the_device_alive(build: Build, link: typing.Any) -> None:
    protocol = build({"u": {"at": "ir:10"}}, link.framing)
    await protocol.check_link(link)
    assert len(link.asked) == 1


async def test_a_probe_without_an_answer_raises(build: Build, link: typing.Any) -> None:
    protocol = build({"u": {"at": "ir:10"}}, link.framing)
    link.silent = lambda pdu: True
    with pytest.raises(DeviceProblem, match="no answer"):
        await protocol.check_link(link)


async def test_equal_configurations_make_equal_groups(build: Build) -> None:
    points = {"u": {"at": "ir:10"}}
    assert build(points).groups == build(points).groups
    assert build(points).groups != build({"u": {"at": "ir:10", "unit": "V"}}).groups


async def test_two_devices_of_one_unit_id_on_two_channels_share_nothing(build: Build, scripted: typing.Any) -> None:
    dead, healthy = scripted("rtu"), scripted("rtu")
    dead.silent = lambda pdu: True
    healthy.words["ir"] = {10: 3}
    one, two = build({"u": {"at": "ir:10"}}, "rtu"), build({"u": {"at": "ir:10"}}, "rtu")
    with pytest.raises(DeviceProblem):
        await one.read(dead, one.groups[0])
    assert (await two.read(healthy, two.groups[0])).values == (3,)


class SocketLink:
    """The smallest ByteLink over a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def exchange(
        self, request: bytes, match: typing.Any, *, timeout_s: float, reply_bytes: int = 0, pause_s: float = 0.0
    ) -> Reply:
        self.writer.write(request)
        buffer = b""
        async with asyncio.timeout(timeout_s):
            while True:
                buffer += await self.reader.read(1000)
                used, found = match(buffer)
                buffer = buffer[used:]
                if found is not None:
                    return Reply(found, 1, 1)

    async def send(self, request: bytes, *, pause_s: float = 0.0) -> None:
        self.writer.write(request)


async def test_another_implementation_of_modbus_tcp_is_understood(build: Build) -> None:
    holding = [SimData(0, values=[0] * 20, datatype=DataType.REGISTERS)]
    inputs = [SimData(0, values=[*struct.unpack(">2H", struct.pack(">f", 21.5)), 0xFFFE], datatype=DataType.REGISTERS)]
    coils = [SimData(0, values=[True, False, True], datatype=DataType.BITS)]
    discrete = [SimData(0, values=[False, True], datatype=DataType.BITS)]
    server = ModbusTcpServer(SimDevice(1, (coils, discrete, holding, inputs)), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        assert server.transport is not None
        port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await talk(build, SocketLink(reader, writer))
        finally:
            writer.close()
            await writer.wait_closed()
    finally:
        await server.shutdown()


async def talk(build: Build, link: SocketLink) -> None:
    protocol = build(
        {
            "temperature": {"at": "30001", "type": "float32"},
            "level": {"at": "30003", "type": "int16"},
            "pump": {"at": "00003", "write": True},
            "valve": {"at": "00001", "write": "multiple"},
            "door": {"at": "10002"},
            "setpoint": {"at": "hr:0", "type": "int16", "scale": 0.1, "write": True},
            "total": {"at": "hr:2", "type": "uint64", "order": "GHEFCDAB", "write": True},
            "bit": {"at": "hr:8.9", "write": True},
            "name": {"at": "hr:10", "type": "string", "length": 6, "write": True},
        }
    )
    read = await protocol.read(link, protocol.groups[0])
    assert read.values == (21.5, -2, True, True, True, 0.0, 0, False, "")
    wanted = {"pump": False, "valve": False, "setpoint": -21.5, "total": 2**40 + 1, "bit": True, "name": "EM-340"}
    for name, value in wanted.items():
        assert (await protocol.write(link, name, value)).verified, name
    read = await protocol.read(link, protocol.groups[0])
    assert read.values == (21.5, -2, False, False, True, -21.5, 2**40 + 1, True, "EM-340")


async def test_the_turnaround_of_the_driver_file_goes_before_every_request(build: Build, link: typing.Any) -> None:
    protocol = build({"a": {"at": "hr:0", "write": True}}, link.framing, turnaround_s=0.02)
    link.words["hr"] = {0: 1}
    await protocol.read(link, protocol.groups[0])
    await protocol.check_link(link)
    await protocol.write(link, "a", 2)
    assert link.pauses_s == [0.02] * len(link.asked)
    assert len(link.asked) == 4
