from __future__ import annotations

import pytest

from fluxedge.config.drivers import merged_options, merged_points
from fluxedge.config.structs import (
    DeviceCfg,
    DriverCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    PointOverrideCfg,
)

DRIVER = DriverCfg(
    name="x",
    protocol="modbus",
    source="none",
    options=ModbusOptionsCfg(order="CDAB", max_registers=20),
    points={
        "a": ModbusPointCfg(at="30001", unit="V"),
        "b": ModbusPointCfg(at="30002"),
        "c": ModbusPointCfg(at="30003"),
    },
)


def test_a_devices_options_lie_over_the_drivers() -> None:
    device = DeviceCfg(driver="x", options={"max_registers": 10, "turnaround": "5ms"})
    options = merged_options(DRIVER, device)
    assert isinstance(options, ModbusOptionsCfg)
    assert (options.order, options.max_registers, options.turnaround_s) == ("CDAB", 10, 0.005)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="126 is not in"):
        merged_options(DRIVER, DeviceCfg(driver="x", options={"max_registers": 126}))


def test_a_devices_points_are_the_drivers_with_its_changes_in_the_drivers_order() -> None:
    device = DeviceCfg(
        driver="x",
        points={"b": PointOverrideCfg(drop=True), "a": PointOverrideCfg(rename="z", unit="mV", scale=0.001)},
    )
    points = merged_points(DRIVER, device)
    assert list(points) == ["z", "c"]
    assert points["z"] == ModbusPointCfg(at="30001", unit="mV", scale=0.001)
    assert points["c"] is DRIVER.points["c"]


def test_the_drivers_name_may_be_given_to_another_point_when_it_is_free() -> None:
    device = DeviceCfg(driver="x", points={"a": PointOverrideCfg(rename="b"), "b": PointOverrideCfg(rename="a")})
    assert {
        name: point.at for name, point in merged_points(DRIVER, device).items() if isinstance(point, ModbusPointCfg)
    } == {
        "b": "30001",
        "a": "30002",
        "c": "30003",
    }
