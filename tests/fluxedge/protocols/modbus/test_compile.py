import typing
from collections.abc import Callable

import pytest

from fluxedge.config.mistakes import path_text
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, DriverCfg, GroupCfg, ModbusOptionsCfg, ModbusPointCfg, PointOverrideCfg
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.modbus import ModbusProtocol, compile_mistakes
from fluxedge.protocols.modbus.address import Area
from fluxedge.protocols.modbus.compile import Compiled, compile_device

Driver = Callable[..., DriverCfg]
PLAIN = {"u": {"at": "30001"}}


def compile_it(driver: DriverCfg, framing: str = "tcp", **device: typing.Any) -> Compiled:
    return compile_device("m1", DeviceCfg(driver="acme", **device), driver, framing=framing)


def mistakes(driver: DriverCfg, **device: typing.Any) -> list[tuple[str, str, str]]:
    found = compile_mistakes("m1", DeviceCfg(driver="acme", **device), driver)
    return [(finding.item, path_text(finding.path), finding.message) for finding in found]


@pytest.mark.parametrize(
    ("point", "key", "words"),
    [
        ({"at": "1"}, "at", "convention"),
        ({"at": "30001", "type": "float32", "order": "AB"}, "order", "not an order"),
        ({"at": "30001", "write": True}, "write", "can only be read"),
        ({"at": "10001", "write": True}, "write", "discrete inputs"),
        ({"at": "40001", "type": "float32", "write": "single"}, "write", "go in one request"),
        ({"at": "40001", "type": "string", "length": 248, "write": True}, "write", "at most 123"),
        ({"at": "40001", "min": 2.0, "max": 1.0}, "min", "above max"),
        ({"at": "40001", "enum": {"on": "1"}}, "enum.on", "not an integer"),
        ({"at": "40001", "type": "float32", "enum": {"1": "on"}}, "enum", "only an integer"),
        ({"at": "40001", "scale": 0.1, "enum": {"1": "on"}}, "scale", "is its integer"),
        ({"at": "40001", "offset": 1.0, "bits": {"1": "on"}}, "offset", "is its integer"),
        ({"at": "40001", "bits": {"16": "on"}}, "bits", "bits 0 to 15"),
        ({"at": "40001", "bits": {"-1": "on"}}, "bits", "bits 0 to 15"),
        ({"at": "00001", "scale": 2.0}, "scale", "a bool has no scale"),
        ({"at": "00001", "low": 0.0}, "low", "a bool has no low"),
        ({"at": "00001", "min": 0.0}, "min", "a bool has no min"),
        ({"at": "40001", "type": "string", "length": 2, "precision": 0}, "precision", "a string has no precision"),
    ],
)
def test_each_mistake_in_a_point_is_named_with_its_key(
    driver: Driver, point: dict[str, typing.Any], key: str, words: str
) -> None:
    ((item, path, message),) = mistakes(driver({"x": point}))
    assert (item, path) == ("driver:acme", f"points.x.{key}")
    assert words in message


def test_all_mistakes_are_found_at_once(driver: Driver) -> None:
    points = {"a": {"at": "1"}, "b": {"at": "30001", "order": "XY"}, "c": {"at": "hr:1"}, "d": {"at": "00001"}}
    found = mistakes(driver(points, barriers=["9"]), points={"d": PointOverrideCfg(scale=2.0, rename="e")})
    assert [(item, path) for item, path, _ in found] == [
        ("driver:acme", "options.barriers[0]"),
        ("driver:acme", "points.a.at"),
        ("driver:acme", "points.b.order"),
        ("device:m1", "points.d.scale"),  # under the driver file's name
    ]


def test_build_refuses_what_has_mistakes_and_names_the_first(driver: Driver) -> None:
    wrong = driver({"a": {"at": "1"}, "b": {"at": "2"}})
    with pytest.raises(ConfigProblem) as caught:
        ModbusProtocol.build("m1", DeviceCfg(driver="acme"), wrong, framing="tcp", timeout_s=1.0)
    assert caught.value.code == "config-invalid"
    assert caught.value.message.startswith("points.a.at: '1' does not say its convention")
    assert caught.value.message.endswith("(and 1 more)")


def test_build_refuses_options_that_the_loader_would_have_refused(driver: Driver) -> None:
    device = DeviceCfg(driver="acme", options={"max_registers": 0})
    with pytest.raises(ConfigProblem, match=r"devices.m1: .*max_registers"):
        ModbusProtocol.build("m1", device, driver(PLAIN), framing="tcp", timeout_s=1.0)


def test_a_device_changes_what_it_says_differently(driver: Driver) -> None:
    both = driver({"u": {"at": "30001", "unit": "V", "low": 0.0}, "v": {"at": "30002"}, "w": {"at": "30003"}})
    changes = {
        "u": PointOverrideCfg(rename="u_l1", scale=0.1, label="电压", high=300.0),
        "w": PointOverrideCfg(drop=True),
    }
    points = compile_it(both, points=changes).groups["main"].points
    assert [(p.name, p.scale, p.label, p.unit, p.low, p.high) for p in points] == [
        ("u_l1", 0.1, "电压", "V", 0.0, 300.0),
        ("v", 1.0, "", "", None, None),
    ]


def test_the_unit_is_the_devices_or_the_products_or_one(driver: Driver) -> None:
    assert compile_it(driver(PLAIN)).unit == 1
    assert compile_it(driver(PLAIN, unit=7)).unit == 7
    assert compile_it(driver(PLAIN, unit=7), unit=9).unit == 9
    assert compile_it(driver(PLAIN), options={"unit": 5}).unit == 5


def test_unit_0_is_a_device_on_tcp_and_nobody_on_a_serial_line(driver: Driver) -> None:
    assert compile_it(driver(PLAIN), "tcp", unit=0).findings == ()
    (finding,) = compile_it(driver(PLAIN), "rtu", unit=0).findings
    assert (finding.item, finding.path) == ("device:m1", ("unit",))


def test_a_devices_options_lie_over_the_drivers(driver: Driver) -> None:
    compiled = compile_it(
        driver(PLAIN, max_registers=50, max_gap=3), options={"max_registers": 20, "turnaround": "20ms"}
    )
    assert (compiled.limits.max_registers, compiled.limits.max_gap, compiled.turnaround_s) == (20, 3, 0.02)


@pytest.mark.parametrize(("framing", "gap"), [("tcp", 31), ("rtu", 7), ("rtu-tcp", 7)])
def test_the_default_gap_follows_the_channels_cost(driver: Driver, framing: str, gap: int) -> None:
    assert compile_it(driver(PLAIN), framing).limits.max_gap == gap
    assert compile_it(driver(PLAIN, max_gap=0), framing).limits.max_gap == 0


def test_an_unknown_order_of_the_device_is_named_once_and_not_per_point(driver: Driver) -> None:
    wrong = driver({"a": {"at": "30001", "type": "float32"}, "b": {"at": "30003", "type": "float64"}}, order="swap")
    assert [(item, path) for item, path, _ in mistakes(wrong)] == [("driver:acme", "options.order")]
    found = mistakes(driver(PLAIN), options={"order": "BA"})
    assert [(item, path) for item, path, _ in found] == [("device:m1", "options.order")]


def test_barriers_are_addresses(driver: Driver) -> None:
    limits = compile_it(driver(PLAIN, barriers=["40011", "ir:0x20"])).limits
    assert limits.barriers == {(Area.HOLDING_REGISTERS, 10), (Area.INPUT_REGISTERS, 32)}
    ((_, path, message),) = mistakes(driver(PLAIN, barriers=["40011", "40012.3"]))
    assert path == "options.barriers[1]"
    assert "not a bit" in message


def test_groups_keep_the_order_of_the_file_and_have_their_own_periods() -> None:
    points = {
        "a": ModbusPointCfg(at="30003"),
        "b": ModbusPointCfg(at="30001", group="slow"),
        "c": ModbusPointCfg(at="30002"),
    }
    slow = {"unused": GroupCfg(every_s=Seconds(5)), "slow": GroupCfg(every_s=Seconds(60))}
    driver = DriverCfg(
        id="acme", name="A", protocol="modbus", source="s", points=points, groups=slow, options=ModbusOptionsCfg(),
        every_s=Seconds(2),
    )  # fmt: skip
    compiled = compile_it(driver)
    assert {name: [p.name for p in group.points] for name, group in compiled.groups.items()} == {
        "main": ["a", "c"],
        "slow": ["b"],
    }
    assert compiled.periods_s == {"main": 2.0, "slow": 60.0}
    assert compile_it(driver, every_s=Seconds(0.5)).periods_s == {"main": 0.5, "slow": 60.0}


def test_devices_of_one_kind_share_what_was_compiled(driver: Driver) -> None:
    one = driver({"u": {"at": "30001"}, "v": {"at": "1"}})
    first, second = (
        compile_device("a", DeviceCfg(driver="acme", unit=1), one, framing="tcp"),
        compile_device("b", DeviceCfg(driver="acme", unit=2, options={"max_gap": 31}), one, framing="tcp"),
    )
    assert (first.unit, second.unit) == (1, 2)
    alike = compile_device("c", DeviceCfg(driver="acme", unit=3), one, framing="tcp")
    assert alike.groups is first.groups
    assert second.groups is not first.groups
    renamed = DeviceCfg(driver="acme", points={"v": PointOverrideCfg(drop=True)})
    assert compile_device("d", renamed, one, framing="tcp").findings == ()


def test_a_devices_mistake_is_told_for_each_device_under_its_own_name(driver: Driver) -> None:
    one = driver({"on": {"at": "00001"}})
    for name in ("a", "b"):
        wrong = DeviceCfg(driver="acme", points={"on": PointOverrideCfg(scale=2.0)})
        (finding,) = compile_device(name, wrong, one, framing="tcp").findings
        assert finding.item == f"device:{name}"
