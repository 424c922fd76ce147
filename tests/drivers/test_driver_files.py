"""The shipped driver files: complete, sourced, and plans of legal requests."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxedge.config.structs import ID_PATTERN, DeviceCfg, DriverCfg, ModbusOptionsCfg, ModbusPointCfg
from fluxedge.protocols.modbus import ModbusProtocol, compile_mistakes
from fluxedge.protocols.modbus.address import Area, parse
from fluxedge.protocols.modbus.compile import compile_device

DRIVERS = Path(__file__).parents[2] / "drivers"
CHINESE = ("eastron-", "chint-", "huawei-", "waveshare-", "xy-", "tuf-")  # vendors whose customers read Chinese
UCUM = {
    "1", "%", "A", "Bd", "Cel", "Hz", "MOhm", "V", "V.A", "W", "/min", "deg", "h", "kPa", "kV.A", "kW", "kW.h",
    "kvar", "kvar.h", "m/s", "m3", "m3/h", "min", "ms", "s", "var",
}  # fmt: skip


def modbus_points(driver: DriverCfg) -> dict[str, ModbusPointCfg]:
    return typing.cast(dict[str, ModbusPointCfg], driver.points)


def test_the_folder_holds_driver_files_and_notes_only() -> None:
    assert {path.suffix for path in DRIVERS.iterdir()} == {".toml", ".md"}


def test_at_least_ten_products_are_shipped() -> None:
    assert len(list(DRIVERS.glob("*.toml"))) >= 10


def test_names_of_files_and_points_are_valid_ids(driver: DriverCfg) -> None:
    for name in (driver.id, *driver.points, *driver.groups):
        assert re.fullmatch(ID_PATTERN, name), name


def test_a_file_says_where_its_registers_come_from(driver: DriverCfg, driver_name: str) -> None:
    assert len(driver.source) > 20
    head = (DRIVERS / f"{driver_name}.toml").read_text(encoding="utf-8").split("\nname")[0]
    assert head.startswith("# ")
    if driver.verified == "document" and driver.protocol == "modbus":
        assert "ross-checked" in head  # by what
    if driver.verified == "none":
        assert "Source" in head


def test_every_point_has_a_label_and_every_number_a_unit(modbus: DriverCfg) -> None:
    for name, point in modbus_points(modbus).items():
        assert point.label, name
        number = point.type not in ("string", "bytes", "bool") and not point.enum and not point.bits
        number = number and not parse(point.at).area.one_bit and parse(point.at).bit is None
        assert (point.unit in UCUM) if number else not point.unit, name


def test_labels_of_chinese_products_are_in_both_languages(driver: DriverCfg, driver_name: str) -> None:
    if driver_name.startswith(CHINESE):
        for name, point in driver.points.items():
            chinese, separator, english = point.label.partition(" / ")
            assert separator, name
            assert re.search(r"[\u4e00-\u9fff]", chinese), name
            assert english.isascii(), name


def test_no_two_points_are_the_same_place_with_the_same_type(modbus: DriverCfg) -> None:
    seen: dict[object, str] = {}
    for name, point in modbus_points(modbus).items():
        key = (parse(point.at), point.type)
        assert key not in seen, f"{name} and {seen[key]}"
        seen[key] = name


def test_a_command_stays_within_the_validity_limits(modbus: DriverCfg) -> None:
    for name, point in modbus_points(modbus).items():
        if point.write is not False and point.low is not None and point.min is not None:
            assert point.min >= point.low, name
        if point.write is not False and point.high is not None and point.max is not None:
            assert point.max <= point.high, name


@pytest.mark.parametrize("framing", ["tcp", "rtu", "rtu-tcp"])
def test_a_file_compiles_without_a_mistake(modbus: DriverCfg, framing: str) -> None:
    assert compile_mistakes("d1", DeviceCfg(driver=modbus.id), modbus, framing=framing) == []


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
def test_requests_are_legal_and_within_the_devices_limits(modbus: DriverCfg, framing: str) -> None:
    options = typing.cast(ModbusOptionsCfg, modbus.options)
    compiled = compile_device("d1", DeviceCfg(driver=modbus.id), modbus, framing=framing)
    barriers = [parse(text) for text in options.barriers]
    assert sum(len(group.points) for group in compiled.groups.values()) == len(modbus.points)
    for group in compiled.groups.values():
        assert sorted(i for request in group.requests for i in request.members) == list(range(len(group.points)))
        for request in group.requests:
            most = min(options.max_bits, 2000) if request.area.one_bit else min(options.max_registers, 125)
            assert 1 <= request.count <= most
            assert request.start >= 0
            assert request.end <= 65536
            inside = [b for b in barriers if b.area is request.area and request.start < b.number < request.end]
            assert not inside


def test_a_protocol_is_built_with_a_group_per_period(modbus: DriverCfg) -> None:
    protocol = ModbusProtocol.build("d1", DeviceCfg(driver=modbus.id), modbus, framing="tcp", timeout_s=1.0)
    assert sum(len(group.points) for group in protocol.groups) == len(modbus.points)
    assert {group.name for group in protocol.groups} <= {"main", *modbus.groups}
    for name, cfg in modbus.groups.items():
        assert protocol.periods_s[name] == cfg.every_s
    assert protocol.describe()


def test_the_set_covers_functions_types_and_features(load_driver: Callable[[str], DriverCfg]) -> None:
    drivers = [load_driver(path.stem) for path in DRIVERS.glob("*.toml")]
    points = [point for driver in drivers if driver.protocol == "modbus" for point in modbus_points(driver).values()]
    areas = {parse(point.at).area for point in points}
    types = {point.type for point in points if isinstance(point.type, str)}
    assert areas == set(Area)
    assert types >= {"int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string", "bytes"}
    assert {point.write for point in points} == {False, True, "single", "multiple"}
    assert any(point.enum for point in points)
    assert any(point.bits for point in points)
    assert any(point.scale != 1.0 for point in points)
    assert any(point.low is not None for point in points)
    assert any(point.group for point in points)
    options = [typing.cast(ModbusOptionsCfg, driver.options) for driver in drivers if driver.protocol == "modbus"]
    assert {option.order for option in options} >= {"ABCD", "CDAB"}
    assert any(option.max_registers < 125 for option in options)
    assert any(option.barriers for option in options)


def test_the_readme_lists_every_driver_with_how_far_it_is_verified(driver: DriverCfg, driver_name: str) -> None:
    table = (DRIVERS / "README.md").read_text(encoding="utf-8").split("## Shipped drivers")[1]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    mine = [row for row in rows if row.startswith(f"| `{driver_name}` |")]
    assert len(mine) == 1
    assert f"| {driver.verified} |" in mine[0]
    assert len(rows) == len(list(DRIVERS.glob("*.toml")))
