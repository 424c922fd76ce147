"""Every driver, simulated over real wires, is read back by fluxedge's own stack."""

from __future__ import annotations

import math
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from fluxedge.channels import open_channel
from fluxedge.clock import SystemClock
from fluxedge.columns import Value
from fluxedge.config.structs import ChannelCfg, DeviceCfg, DriverCfg, ModbusPointCfg
from fluxedge.model import Quality
from fluxedge.protocols.modbus import ModbusProtocol
from fluxedge.protocols.modbus.address import Area
from fluxedge.simulate import DriverSimulator, Server, serve_pty, serve_tcp
from fluxedge.spi import ByteLink

UNIT = 7


def standing_still() -> float:
    return 0.0


@asynccontextmanager
async def simulated(driver: DriverCfg, wire: str = "tcp") -> AsyncIterator[tuple[Server, ModbusProtocol, ByteLink]]:
    units: dict[int, DriverCfg | DriverSimulator] = {UNIT: DriverSimulator(driver, seed=3, clock=standing_still)}
    server = await (serve_tcp(units) if wire == "tcp" else serve_pty(units, baud=115200))
    url = f"tcp://127.0.0.1:{server.port}" if wire == "tcp" else f"serial://{server.path}?baud=115200"
    device = DeviceCfg(driver=driver.id, unit=UNIT)
    channel = open_channel("c1", ChannelCfg(url=url), SystemClock())
    try:
        link = await channel.open()
        yield server, ModbusProtocol.build("d1", device, driver, framing=channel.framing, timeout_s=2.0), link
    finally:
        await channel.close()
        await server.close()


async def read_all(protocol: ModbusProtocol, link: ByteLink) -> dict[str, tuple[Value | None, int]]:
    """Return point -> (value, quality)."""
    found: dict[str, tuple[Value | None, int]] = {}
    for group in protocol.groups:
        read = await protocol.read(link, group)
        quality = read.quality or bytes(len(group.points))
        found |= dict(zip(group.names, zip(read.values, quality, strict=True), strict=True))
    return found


async def test_every_point_reads_back_what_the_device_holds(modbus: DriverCfg) -> None:
    async with simulated(modbus) as (server, protocol, link):
        found = await read_all(protocol, link)
        assert set(found) == set(modbus.points)
        for name, (value, quality) in found.items():
            assert quality == Quality.GOOD, name
            assert value == server.get(UNIT, name), name


async def test_values_are_plausible_from_the_first_read(modbus: DriverCfg) -> None:
    async with simulated(modbus) as (_server, protocol, link):
        for name, (value, _quality) in (await read_all(protocol, link)).items():
            point = modbus.points[name]
            if isinstance(value, int | float):
                assert point.low is None or value >= point.low, name
                assert point.high is None or value <= point.high, name
            else:
                assert value, name


async def test_a_second_read_needs_no_more_requests_than_it_learned(modbus: DriverCfg) -> None:
    async with simulated(modbus) as (server, protocol, link):
        await read_all(protocol, link)
        server.requests.clear()
        found = await read_all(protocol, link)
        assert all(quality == Quality.GOOD for _, quality in found.values())
        assert sum(server.requests.values()) == len(protocol.describe())


def written_values(point: ModbusPointCfg) -> list[Value]:
    if point.at.startswith("co:"):
        return [True, False]
    low, high = point.min or 0.0, 100.0 if point.max is None else point.max
    return [high, low]


async def test_writable_points_keep_what_a_command_writes(modbus: DriverCfg) -> None:
    async with simulated(modbus) as (server, protocol, link):
        points = typing.cast(dict[str, ModbusPointCfg], modbus.points)
        for name, point in points.items():
            if point.write is False:
                continue
            for value in written_values(point):
                written = await protocol.write(link, name, value)
                assert written.verified, name
                assert written.read_back == pytest.approx(value), name
                assert server.get(UNIT, name) == pytest.approx(value), name


@pytest.mark.parametrize("name", ["eastron-sdm120", "waveshare-modbus-rtu-relay-d", "xy-md02", "orno-or-we-516"])
async def test_rtu_on_a_serial_line_reads_and_writes_the_same(
    name: str, load_driver: Callable[[str], DriverCfg]
) -> None:
    driver = load_driver(name)
    async with simulated(driver, "rtu") as (server, protocol, link):
        for point, (value, quality) in (await read_all(protocol, link)).items():
            assert (value, quality) == (server.get(UNIT, point), Quality.GOOD), point
        for point, cfg in typing.cast(dict[str, ModbusPointCfg], driver.points).items():
            if cfg.write is not False:
                wanted = written_values(cfg)[0]
                assert (await protocol.write(link, point, wanted)).verified, point
                assert server.get(UNIT, point) == pytest.approx(wanted), point


# Registers worked out by hand from the vendors' tables, not by our own encoder.
WIRE = [
    ("eastron-sdm630", "u_l1", 230.2, Area.INPUT_REGISTERS, 0, [0x4366, 0x3333]),
    ("carlo-gavazzi-em24-e1", "u_l1", 230.1, Area.HOLDING_REGISTERS, 0, [2301, 0]),  # low word first
    ("carlo-gavazzi-em24-e1", "p", -1.5, Area.HOLDING_REGISTERS, 0x28, [0xFFF1, 0xFFFF]),
    ("abb-b23", "e_imp", 655360.01, Area.HOLDING_REGISTERS, 0x5000, [0, 0, 1000, 1]),  # 64 bits, 0.01 kWh
    ("schneider-iem3155", "e_imp", 1.234, Area.HOLDING_REGISTERS, 3203, [0, 0, 0, 1234]),
    ("chint-dtsu666", "f", 49.99, Area.HOLDING_REGISTERS, 0x2044, [0x459C, 0x3800]),  # 4999.0 as float32
    ("xy-md02", "temperature", -20.5, Area.INPUT_REGISTERS, 1, [0xFF33]),  # the example of the seller's sheet
    ("tuf-2000m", "t_in", 36.62540817, Area.HOLDING_REGISTERS, 32, [0x806B, 0x4212]),  # seen on a real meter
    ("huawei-sun2000", "model", "SUN2000-8KTL", Area.HOLDING_REGISTERS, 30000, [0x5355, 0x4E32, 0x3030, 0x302D]),
    ("moxa-iologik-e1212", "di_count_1", 65537, Area.INPUT_REGISTERS, 18, [1, 1]),
    ("vacon-10", "status", 0b1000011, Area.HOLDING_REGISTERS, 2100, [0x43]),
    ("cre-compact", "energy", 70000, Area.HOLDING_REGISTERS, 79, [4464, 1]),
]


@pytest.mark.parametrize(("name", "point", "value", "area", "start", "words"), WIRE)
async def test_registers_are_as_the_vendors_table_says(
    name: str,
    point: str,
    value: Value,
    area: Area,
    start: int,
    words: list[int],
    load_driver: Callable[[str], DriverCfg],
) -> None:
    async with simulated(load_driver(name)) as (server, protocol, link):
        server.set(UNIT, point, value)
        assert server.units[UNIT].words(area, start, len(words)) == words
        back = (await read_all(protocol, link))[point][0]
        same = math.isclose(back, value, rel_tol=1e-6) if isinstance(back, float) else back == value  # type: ignore[arg-type]
        assert same, back
