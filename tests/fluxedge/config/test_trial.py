"""What takes part in the trial; that all mistakes are told at once is in test_load."""

from __future__ import annotations

import typing
from pathlib import Path

from fluxedge.config.assemble import Assembly, assemble
from fluxedge.config.mistakes import Finding
from fluxedge.config.sources import Item, Layout
from fluxedge.config.structs import Config, PointOverrideCfg
from fluxedge.config.trial import ANY_CHANNEL

GOOD = {"a": {"at": "30001"}, "b": {"at": "30002"}}


def assembly(driver_points: dict[str, typing.Any], **device: typing.Any) -> Assembly:
    driver = {"name": "x", "protocol": "modbus", "source": "none", "points": driver_points}
    items = [Item("driver:x", driver, "x.toml")]
    if device:
        items.append(Item("device:m1", {"driver": "x", "channel": "tcp://a"} | device, "a.toml"))
    return assemble({item.key: item for item in items}, Layout(Path("/nowhere"), driver_dirs=()))


def test_what_has_no_mistakes_is_tried_as_it_runs() -> None:
    found = assembly(GOOD, unit=3)
    assert found.trial.config.devices == found.config.devices
    assert found.trial.config.drivers == found.config.drivers


def test_a_device_is_tried_without_its_wrong_keys() -> None:
    points = {"a": {"low": "x"}, "b": {"unit": "V"}, "z": {"unit": "V"}}
    found = assembly(GOOD, unit=300, channel="bus", points=points, options={"max_gap": -1, "order": "CDAB"})
    assert found.config.devices == {}
    device = found.trial.config.devices["m1"]
    assert (device.unit, device.channel, device.options) == (None, ANY_CHANNEL, {"order": "CDAB"})
    assert device.points == {"a": PointOverrideCfg(drop=True), "b": PointOverrideCfg(unit="V")}


def test_a_driver_that_nobody_names_is_tried_with_a_device_that_nobody_is_told_about() -> None:
    trial = assembly(GOOD).trial
    (name,) = trial.config.devices

    def compile(config: Config) -> list[Finding]:
        return [Finding(f"device:{name}", ("unit",), "x"), Finding("driver:x", ("points", "a", "at"), "y")]

    assert [finding.message for finding in trial.findings(compile)] == ["y"]


def test_of_a_point_that_lacks_keys_only_what_stands_alone_counts() -> None:
    trial = assembly({"a": {"at": "30001", "type": "flaot32", "order": "CDAB"}, "b": {"at": "30002"}}, unit=1).trial

    def compile(config: Config) -> list[Finding]:
        assert set(config.drivers["x"].points) == {"a", "b"}
        return [
            Finding(item, ("points", *path), "")
            for item in ("driver:x", "device:m1")
            for path in (("a", "order"), ("a", "at"), ("a", "enum", "x"), ("b", "order"))
        ]

    kept = [finding.path[1:] for finding in trial.findings(compile)]
    assert kept == 2 * [("a", "at"), ("a", "enum", "x"), ("b", "order")]
