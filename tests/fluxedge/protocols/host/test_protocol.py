"""The host protocol: rounds of the machine, nothing to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.clock import SystemClock
from fluxedge.config.load import load
from fluxedge.config.quantities import Seconds
from fluxedge.config.sources import Layout
from fluxedge.config.structs import (
    DeviceCfg,
    DriverCfg,
    GroupCfg,
    HostOptionsCfg,
    HostPointCfg,
    PointCfg,
    PointOverrideCfg,
)
from fluxedge.model import Quality
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.host import HostProtocol, compile_mistakes
from fluxedge.protocols.host.metrics import METRICS


def driver(**points: PointCfg) -> DriverCfg:
    groups = {"slow": GroupCfg(every_s=Seconds(60.0))}
    return DriverCfg(
        id="host", name="n", protocol="host", source="s", options=HostOptionsCfg(), groups=groups, points=points
    )


async def test_a_round_has_the_machines_values_and_our_stamps() -> None:
    clock = SystemClock()
    made = driver(mem=HostPointCfg(metric="memory_total", unit="By"), up=HostPointCfg(metric="uptime"))
    protocol = HostProtocol.build("gw", DeviceCfg(driver="host", label="L"), made, clock=clock)
    (group,) = protocol.groups
    before_ns = clock.wall_ns()
    read = await protocol.read(None, group)
    assert read.quality == b""
    assert before_ns <= read.at_ns <= clock.wall_ns()
    assert read.values[1] == pytest.approx(clock.mono_ns() / 1e9, abs=2)
    assert (group.device, group.name, group.label, group.names) == ("gw", "main", "L", ("mem", "up"))


async def test_what_the_machine_does_not_have_is_bad_and_the_rest_is_good() -> None:
    made = driver(disk=HostPointCfg(metric="disk_total"), up=HostPointCfg(metric="uptime"))
    device = DeviceCfg(driver="host", options={"disk": "/no/such/path"})
    protocol = HostProtocol.build("gw", device, made)
    read = await protocol.read(None, protocol.groups[0])
    assert read.quality == bytes([Quality.BAD, Quality.GOOD])
    assert read.values[0] is None


def test_groups_have_their_periods_and_overrides_hold() -> None:
    made = driver(
        a=HostPointCfg(metric="load_1"),
        b=HostPointCfg(metric="load_5"),
        c=HostPointCfg(metric="process_pss", group="slow"),
    )
    overrides = {"a": PointOverrideCfg(rename="load", precision=1), "b": PointOverrideCfg(drop=True)}
    protocol = HostProtocol.build("gw", DeviceCfg(driver="host", every_s=Seconds(5.0), points=overrides), made)
    assert [(group.name, group.names) for group in protocol.groups] == [("main", ("load",)), ("slow", ("c",))]
    assert protocol.groups[0].points[0].precision == 1
    assert protocol.periods_s == {"main": 5.0, "slow": 60.0}
    assert len(protocol.describe()) == 2


def test_an_unknown_metric_is_found_at_load_with_what_was_meant() -> None:
    made = driver(a=HostPointCfg(metric="cpu_procent"))
    (finding,) = compile_mistakes("gw", DeviceCfg(driver="host"), made)
    assert finding.item == "driver:host"
    assert finding.path == ("points", "a", "metric")
    assert 'did you mean "cpu_percent"' in finding.message
    with pytest.raises(ConfigProblem, match="config-invalid"):
        HostProtocol.build("gw", DeviceCfg(driver="host"), made)


async def test_nothing_of_the_machine_can_be_written() -> None:
    protocol = HostProtocol.build("gw", DeviceCfg(driver="host"), driver(a=HostPointCfg(metric="load_1")))
    with pytest.raises(ConfigProblem, match="command-refused"):
        protocol.encode("a", 1.0)
    with pytest.raises(ConfigProblem, match="command-refused"):
        await protocol.write(None, "a", 1.0)
    await protocol.check_link(None)


async def test_the_shipped_driver_loads_and_reads(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "a.toml").write_text('[devices.d1]\ndriver = "host"\n')
    loaded = load(Layout(tmp_path))
    assert loaded.mistakes == ()
    driver_cfg = loaded.config.drivers["host"]
    assert compile_mistakes("d1", loaded.config.devices["d1"], driver_cfg) == []
    protocol = HostProtocol.build("d1", loaded.config.devices["d1"], driver_cfg)
    unavailable = {"temperature"}  # of virtual machines; whatever else is BAD depends on the machine
    main = await protocol.read(None, protocol.groups[0])
    for name, value in zip(main.group.names, main.values, strict=True):
        assert value is not None or name in unavailable | {"disk_written", "cpu_percent"}, name
    for group in protocol.groups:
        for point in group.points:
            assert point.label, point.name
            assert point.unit, point.name
    metrics = {point.metric for point in driver_cfg.points.values() if isinstance(point, HostPointCfg)}
    assert metrics == set(METRICS), "the driver file lists them all"


async def test_the_flash_ledger_is_lent_by_the_gateway() -> None:
    made = driver(per_point=HostPointCfg(metric="flash_bytes_per_point"))
    protocol = HostProtocol.build("gw", DeviceCfg(driver="host"), made)
    (group,) = protocol.groups
    assert (await protocol.read(None, group)).quality == bytes([Quality.BAD])

    class Ledger:
        gateway_bytes = 0
        device_bytes = lifetime_bytes = None
        bytes_per_point = 7.5
        bytes_per_day = device_bytes_per_day = used_percent = life_days = None

    protocol.lend(Ledger())
    assert (await protocol.read(None, group)).values == (7.5,)
