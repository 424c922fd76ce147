"""What the benchmarks stand on: their workloads are configurations that load, and over budget is said to be so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import standard_yardstick
from bench.measure import Bench, Measurement
from bench.probe import quantile
from bench.workloads import WORKLOADS, Workload, host, write_config, write_idle_config
from fluxedge import apply
from fluxedge.config.load import Layout
from fluxedge.protocols.modbus import ModbusProtocol
from fluxedge.service import load_all


def measurement(program: str, cpu_us: float, **other: float) -> Measurement:
    return Measurement("W1", program, cpu_us, 100_000.0, 0.1, int(other.get("pss", 50e6)), int(60e6), start_s=1.0)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_a_workload_is_a_configuration_without_mistakes(workload: Workload, tmp_path: Path) -> None:
    write_config(tmp_path, workload, 502, 1883)
    loaded = load_all(Layout(tmp_path))
    assert loaded.mistakes == ()
    assert len(loaded.config.devices) == workload.devices
    assert len(loaded.config.channels) == workload.devices
    assert len(next(iter(loaded.config.drivers.values())).points) == workload.points


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_the_gateway_needs_as_many_requests_as_the_floor(workload: Workload, tmp_path: Path) -> None:
    from bench.floor import Plan

    write_config(tmp_path, workload, 502, 1883)
    config = load_all(Layout(tmp_path)).config
    name = next(iter(config.devices))
    protocol = apply.build(name, apply.made_of(config)[name])
    assert isinstance(protocol, ModbusProtocol)
    assert len(protocol.describe()) == len(Plan(workload).frames)


def test_the_idle_gateway_is_a_configuration_without_mistakes(tmp_path: Path) -> None:
    write_idle_config(tmp_path, 1883)
    loaded = load_all(Layout(tmp_path))
    assert loaded.mistakes == ()
    assert list(loaded.config.devices) == ["machine"]


def test_every_device_has_a_loopback_address_of_its_own() -> None:
    addresses = {host(number) for number in range(1000)}
    assert len(addresses) == 1000
    assert all(address.startswith("127.0.") and not address.startswith("127.0.0.") for address in addresses)


def test_the_ratio_to_the_floor_is_judged() -> None:
    for cpu_us, verdict in ((2.9, report.OK), (3.1, report.OVER)):
        rows = report.judge([measurement("floor", 1.0), measurement("gateway", cpu_us)])
        ratio = next(row for row in rows if row.what.startswith("CPU"))
        assert ratio.found == pytest.approx(cpu_us)
        assert ratio.verdict == verdict


def test_the_ratio_to_a_yardstick_is_information_and_never_over() -> None:
    measured = [measurement(name, cpu_us) for name, cpu_us in (("floor", 2.0), ("yardstick", 0.5), ("gateway", 2.5))]
    rows = report.judge(measured)
    ratio = next(row for row in rows if "yardstick" in row.what)
    assert (ratio.found, ratio.verdict) == (5.0, report.INFORMATION)
    assert [line for line in report.table(measured, rows) if "gateway to yardstick" in line and "5.00" in line]
    assert not [row for row in report.judge(measured[::2]) if "yardstick" in row.what]


def test_the_yardstick_beside_the_checkout_is_taken_when_it_is_there(tmp_path: Path) -> None:
    assert standard_yardstick(tmp_path / "floor.py") is None
    (tmp_path / "floor.py").touch()
    assert standard_yardstick(tmp_path / "floor.py") == tmp_path / "floor.py"


def test_a_yardstick_that_fails_costs_only_its_own_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "floor.py"
    script.write_text("print('no figures')")
    bench = Bench.__new__(Bench)
    bench.ours, bench.scratch, bench._seconds = min(os.sched_getaffinity(0)), tmp_path, 1.0
    assert bench._try_yardstick(script, WORKLOADS[0], 1, 2) == []
    assert "no yardstick for W1" in capsys.readouterr().err


def test_memory_over_the_budget_is_said_in_the_table() -> None:
    measured = [measurement("floor", 1.0), measurement("gateway", 1.5, pss=81e6)]
    lines = report.table(measured, report.judge(measured))
    assert [line for line in lines if "memory" in line and report.OVER in line]


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([5.0], 0.99) == 5.0
    assert quantile([], 0.5) == 0.0
