"""What a device reads, group by group."""

from __future__ import annotations

from fluxedge.config.points import column_fields, grouped_points, periods_s
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, DriverCfg, GroupCfg, PointCfg, PointOverrideCfg

DRIVER = DriverCfg(
    name="n",
    protocol="host",
    source="s",
    every_s=Seconds(2.0),
    groups={"slow": GroupCfg(every_s=Seconds(60.0)), "unused": GroupCfg(every_s=Seconds(5.0))},
    points={"s": PointCfg(group="slow"), "a": PointCfg(unit="V", scale=0.1), "b": PointCfg(group="main")},
)


def test_main_comes_first_and_empty_groups_are_left_out() -> None:
    groups = grouped_points(DRIVER, DeviceCfg(driver="d"))
    assert [(name, list(points)) for name, points in groups.items()] == [("main", ["a", "b"]), ("slow", ["s"])]


def test_overrides_hold_and_a_group_can_be_dropped_whole() -> None:
    device = DeviceCfg(
        driver="d", points={"s": PointOverrideCfg(drop=True), "a": PointOverrideCfg(rename="z", unit="kV")}
    )
    groups = grouped_points(DRIVER, device)
    assert list(groups) == ["main"]
    assert list(groups["main"]) == ["z", "b"]
    assert groups["main"]["z"].unit == "kV"


def test_the_devices_period_is_that_of_main_only() -> None:
    assert periods_s(DRIVER, DeviceCfg(driver="d")) == {"main": 2.0, "slow": 60.0, "unused": 5.0}
    device = DeviceCfg(driver="d", every_s=Seconds(0.5))
    assert periods_s(DRIVER, device) == {"main": 0.5, "slow": 60.0, "unused": 5.0}


def test_a_column_takes_over_what_readers_must_know() -> None:
    assert column_fields(PointCfg(unit="V", scale=0.1, note="x", group="g")) == {
        "label": "",
        "unit": "V",
        "scale": 0.1,
        "offset": 0.0,
        "precision": None,
        "low": None,
        "high": None,
    }
