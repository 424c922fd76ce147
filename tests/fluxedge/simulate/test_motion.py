"""How a simulated point moves."""

from __future__ import annotations

import random
import typing

import pytest

from fluxedge.config.structs import DeviceCfg, DriverCfg, ModbusPointCfg
from fluxedge.protocols.modbus.compile import CompiledPoint, compile_device
from fluxedge.simulate.motion import motion_of, raw_of


def compiled(**point: typing.Any) -> CompiledPoint:
    cfg = ModbusPointCfg(at="hr:0", **point)
    driver = DriverCfg(id="d", name="D", protocol="modbus", source="a test", points={"p": cfg})
    return compile_device("d", DeviceCfg(driver="d"), driver, framing="tcp").points["p"]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint64", "bcd16", "float32"])
@pytest.mark.parametrize("unit", ["V", "kW.h", "", "%"])
def test_every_type_holds_the_values_of_every_unit(kind: str, unit: str) -> None:
    point = compiled(type=kind, unit=unit)
    motion = motion_of(point, random.Random(5))
    for second in range(0, 400, 7):
        raw = motion(float(second))
        assert raw == raw_of(point, raw)


def test_a_writable_point_stands_still_inside_its_command_limits() -> None:
    motion = motion_of(compiled(type="int16", unit="V", write=True, min=1, max=10), random.Random(1))
    assert {motion(float(second)) for second in range(300)} == {10}


def test_an_input_changes_from_time_to_time() -> None:
    motion = motion_of(compiled(type="bool"), random.Random(1))
    assert {motion(float(second)) for second in range(60)} == {True, False}
