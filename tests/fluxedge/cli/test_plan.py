"""The plan says in plain words what a configuration would do."""

from __future__ import annotations

from pathlib import Path

from fluxedge.cli import plan
from fluxedge.config.load import Layout
from fluxedge.config.structs import Config, GatewayCfg
from fluxedge.service import load_all
from tests.fluxedge.cli.sites import Folder

DEVICES = """
    [channels.bus]
    url = "serial:///dev/ttyS0?baud=9600"
    [devices.bank]
    driver = "eastron-sdm120"
    channel = "bus"
    units = "1-2"
    [devices.resting]
    driver = "xy-md02"
    channel = "bus"
    unit = 9
    enabled = false
    [devices.here]
    driver = "host"
"""
MAIN = """
    [uplinks.cloud]
    url = ["mqtt://a", "mqtt://b"]
    lanes = ["events"]
    commands = ["bank-1.*"]
"""


def made(tmp_path: Path) -> plan.Plan:
    folder = Folder(tmp_path)
    folder.write("fluxedge.toml", MAIN)
    folder.write("devices/a.toml", DEVICES)
    loaded = load_all(Layout(folder.etc, folder.state))
    assert loaded.mistakes == ()
    return plan.plan_of(loaded.config, "gw")


def test_devices_stand_below_their_channel_with_what_goes_on_the_wire(tmp_path: Path) -> None:
    lines = list(plan.lines(made(tmp_path), points=False))
    at = lines.index("  device bank-1: eastron-sdm120, unit 1, 13 points, every 1s; slow every 1m")
    assert lines[at - 1] == "channel bus: serial:///dev/ttyS0?baud=9600"
    assert "FC04, unit 1: registers 0–31 (30001–30032), 6 points" in lines[at + 1]


def test_a_device_that_is_read_like_another_says_so_instead_of_repeating_it(tmp_path: Path) -> None:
    lines = list(plan.lines(made(tmp_path), points=False))
    assert "    read like bank-1" in lines
    assert sum("FC04, unit" in line for line in lines) == 4


def test_points_can_be_listed_with_their_addresses(tmp_path: Path) -> None:
    lines = list(plan.lines(made(tmp_path), points=True))
    assert any("u: 30001 → FC04, address 0, 2 registers, ABCD" in line for line in lines)


def test_uplinks_say_where_what_goes_and_what_may_be_commanded(tmp_path: Path) -> None:
    lines = list(plan.lines(made(tmp_path), points=False))
    assert "uplink cloud: mqtt://a or mqtt://b, json → fluxedge/gw/events" in lines
    assert "  may command bank-1.*" in lines


def test_disabled_devices_are_named_and_not_counted(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert found.disabled == ["resting"]
    assert found.counts() == "1 channel, 3 devices, 64 points, 1 uplink"


def test_the_gateways_name_is_given_remembered_or_open(tmp_path: Path) -> None:
    assert plan.gateway_name(Config(gateway=GatewayCfg(id="given")), tmp_path) == "given"
    assert plan.gateway_name(Config(), tmp_path) == "{gateway}"
    (tmp_path / "gateway-id").write_text("gw-1234\n")
    assert plan.gateway_name(Config(), tmp_path) == "gw-1234"
