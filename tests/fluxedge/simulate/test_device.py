"""One simulated unit: what its registers hold and what requests may do with them."""

from __future__ import annotations

import math
import typing

import pytest

from fluxedge.config.structs import DriverCfg, ModbusOptionsCfg, ModbusPointCfg
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.modbus.address import Area
from fluxedge.simulate import DriverSimulator

REFUSED_ADDRESS, REFUSED_VALUE = 2, 3


class Time:
    """Seconds that pass when a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def driver(points: dict[str, dict[str, typing.Any]], **options: typing.Any) -> DriverCfg:
    cfgs = {name: ModbusPointCfg(**point) for name, point in points.items()}
    opts = ModbusOptionsCfg(**options)
    return DriverCfg(id="acme", name="Acme", protocol="modbus", source="a test", options=opts, points=dict(cfgs))


def test_an_address_outside_the_map_is_refused() -> None:
    unit = DriverSimulator(driver({"a": {"at": "hr:10"}, "b": {"at": "hr:12"}}))
    assert len(typing.cast(list[int], unit.read(Area.HOLDING_REGISTERS, 10, 1))) == 1
    assert unit.read(Area.HOLDING_REGISTERS, 10, 3) == REFUSED_ADDRESS
    assert unit.read(Area.INPUT_REGISTERS, 10, 1) == REFUSED_ADDRESS


def test_holes_up_to_a_size_read_as_zero_where_that_is_asked_for() -> None:
    unit = DriverSimulator(driver({"a": {"at": "hr:10"}, "b": {"at": "hr:12"}, "c": {"at": "hr:16"}}), holes=2)
    assert typing.cast(list[int], unit.read(Area.HOLDING_REGISTERS, 10, 3))[1] == 0
    assert unit.read(Area.HOLDING_REGISTERS, 12, 5) == REFUSED_ADDRESS


def test_a_request_longer_than_the_products_maximum_is_refused() -> None:
    unit = DriverSimulator(driver({f"p{i}": {"at": f"hr:{i}"} for i in range(4)}, max_registers=3))
    assert len(typing.cast(list[int], unit.read(Area.HOLDING_REGISTERS, 0, 3))) == 3
    assert unit.read(Area.HOLDING_REGISTERS, 0, 4) == REFUSED_VALUE


def test_a_request_over_a_barrier_is_refused() -> None:
    unit = DriverSimulator(driver({f"p{i}": {"at": f"hr:{i}"} for i in range(4)}, barriers=["hr:2"]))
    assert isinstance(unit.read(Area.HOLDING_REGISTERS, 0, 2), list)
    assert isinstance(unit.read(Area.HOLDING_REGISTERS, 2, 2), list)
    assert unit.read(Area.HOLDING_REGISTERS, 1, 2) == REFUSED_ADDRESS


def test_only_writable_points_take_a_write_and_keep_it() -> None:
    clock = Time()
    unit = DriverSimulator(
        driver(
            {"fixed": {"at": "hr:0"}, "knob": {"at": "hr:1", "write": True}, "relay": {"at": "co:0", "write": True}}
        ),
        clock=clock,
    )
    assert unit.write(Area.HOLDING_REGISTERS, 0, [5]) == REFUSED_ADDRESS
    assert unit.write(Area.HOLDING_REGISTERS, 1, [5]) is None
    assert unit.write(Area.COILS, 0, [True]) is None
    clock.now_s = 1000.0
    assert (unit.get("knob"), unit.get("relay")) == (5, True)


def test_values_move_within_the_validity_limits() -> None:
    clock = Time()
    points = {"u": {"at": "hr:0", "type": "uint16", "unit": "V", "scale": 0.1, "low": 229.0, "high": 231.0}}
    unit = DriverSimulator(driver(points), clock=clock)
    seen = set()
    for second in range(300):
        clock.now_s = float(second)
        seen.add(typing.cast(float, unit.get("u")))
    assert len(seen) > 5
    assert 229.0 <= min(seen) <= max(seen) <= 231.0


def test_counters_never_go_back() -> None:
    clock = Time()
    unit = DriverSimulator(driver({"e": {"at": "hr:0", "type": "uint32", "unit": "kW.h", "scale": 0.01}}), clock=clock)
    values = []
    for minute in range(30):
        clock.now_s = 60.0 * minute
        values.append(typing.cast(float, unit.get("e")))
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_enums_and_bits_go_through_their_names_only() -> None:
    clock = Time()
    points: dict[str, dict[str, typing.Any]] = {
        "mode": {"at": "hr:0", "enum": {"1": "off", "7": "on"}},
        "flags": {"at": "hr:1", "bits": {"0": "low", "9": "high"}},
    }
    unit = DriverSimulator(driver(points), clock=clock)
    modes, flags = set(), set()
    for second in range(0, 200, 5):
        clock.now_s = float(second)
        modes.add(unit.get("mode"))
        flags.add(unit.get("flags"))
    assert modes == {1, 7}
    assert flags == {1, 512}


def test_the_same_seed_makes_the_same_device_and_another_seed_another_one() -> None:
    points = {"u": {"at": "hr:0", "type": "float32", "unit": "V"}, "id": {"at": "hr:2", "type": "string", "length": 12}}
    first, again, other = (DriverSimulator(driver(points), seed, clock=Time()) for seed in (1, 1, 2))
    assert [first.get(name) for name in points] == [again.get(name) for name in points]
    assert first.get("u") != other.get("u")


def test_a_point_that_is_set_stays_where_it_was_put() -> None:
    clock = Time()
    unit = DriverSimulator(driver({"u": {"at": "hr:0", "unit": "V", "scale": 0.1}}), clock=clock)
    unit.set("u", 123.4)
    clock.now_s = 500.0
    assert unit.get("u") == 123.4
    assert unit.words(Area.HOLDING_REGISTERS, 0, 1) == [1234]


def test_an_enum_is_set_by_its_name_too() -> None:
    unit = DriverSimulator(driver({"mode": {"at": "hr:0", "enum": {"1": "off", "7": "on"}}}))
    unit.set("mode", "on")
    assert unit.get("mode") == 7


@pytest.mark.parametrize(
    ("point", "value"),
    [
        ({"type": "uint16"}, 65536),
        ({"type": "int16"}, -32769),
        ({"type": "uint16"}, "text"),
        ({"type": "string", "length": 3}, "long"),
        ({"type": "string", "length": 3}, b"abc"),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused(point: dict[str, typing.Any], value: typing.Any) -> None:
    unit = DriverSimulator(driver({"p": {"at": "hr:0", **point}}))
    before = unit.get("p")
    with pytest.raises(ValueError, match=r"65536|-32769|text|long|abc"):
        unit.set("p", value)
    assert type(unit.get("p")) is type(before)


def test_a_float_that_is_no_number_can_be_put_into_the_registers() -> None:
    unit = DriverSimulator(driver({"p": {"at": "hr:0", "type": "float32"}}))
    unit.set("p", math.nan)
    assert unit.words(Area.HOLDING_REGISTERS, 0, 2)[0] & 0x7F80 == 0x7F80
    assert unit.get("p") is None


def test_bits_of_one_register_do_not_disturb_each_other() -> None:
    unit = DriverSimulator(driver({"a": {"at": "hr:0.3"}, "b": {"at": "hr:0.12"}}))
    unit.set("a", True)
    unit.set("b", False)
    assert unit.words(Area.HOLDING_REGISTERS, 0, 1) == [8]


def test_a_driver_file_that_cannot_be_used_is_refused_with_the_place_of_the_mistake() -> None:
    with pytest.raises(ConfigProblem, match=r"points\.p\.at"):
        DriverSimulator(driver({"p": {"at": "90001"}}))


def test_a_driver_of_another_protocol_is_refused() -> None:
    host = DriverCfg(id="host", name="Host", protocol="host", source="a test")
    with pytest.raises(ConfigProblem, match="Modbus"):
        DriverSimulator(host)
