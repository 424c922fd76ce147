"""Metrics of the machine: pure parts by literals, the rest against the machine itself."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from fluxedge.protocols.host.metrics import (
    METRICS,
    Machine,
    Sample,
    busy_percent,
    look_at,
)

# Example line of Documentation/block/stat.rst's fields: sectors written is field 7.
STAT = "  446216   784926  9550688  4382310   894801  1078848  15791112  16310440  0  1160816  20691472\n"
BEFORE = {"user": 10.0, "nice": 0.0, "system": 5.0, "idle": 80.0, "iowait": 5.0, "guest": 4.0}


def test_busy_time_is_what_was_neither_idle_nor_waiting() -> None:
    after = {"user": 12.0, "nice": 0.0, "system": 6.0, "idle": 86.0, "iowait": 6.0, "guest": 4.0}
    assert busy_percent(BEFORE, after) == pytest.approx(30.0)


def test_guest_time_is_not_counted_twice() -> None:
    after = BEFORE | {"user": 14.0, "guest": 8.0, "idle": 84.0}
    assert busy_percent(BEFORE, after) == pytest.approx(50.0)


def test_without_passed_time_there_is_no_load() -> None:
    assert busy_percent(BEFORE, BEFORE) is None


def test_a_path_on_no_block_device_has_no_wear(tmp_path: Path) -> None:
    (tmp_path / "dev" / "block").mkdir(parents=True)
    machine = Machine(disk=str(tmp_path), interface="", sys=tmp_path)
    assert look_at(METRICS["disk_written"], Sample(machine)) is None


def test_the_bytes_written_to_the_disk_are_those_of_its_block_device(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    (tmp_path / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").mkdir(parents=True)
    (tmp_path / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}" / "stat").write_text(STAT)
    machine = Machine(disk=str(tmp_path), interface="", sys=tmp_path)
    assert look_at(METRICS["disk_written"], Sample(machine)) == 15791112 * 512


class Flash:
    """What a ledger tells; of some of it nothing."""

    gateway_bytes = 5
    device_bytes: int | None = 6
    lifetime_bytes: int | None = 7
    bytes_per_point: float | None = 7.5
    bytes_per_day: float | None = 8.5
    device_bytes_per_day: float | None = 9.5
    used_percent: float | None = 10.0
    life_days: float | None = None


def test_the_flash_ledger_is_asked_where_there_is_one() -> None:
    machine = Machine(disk="/", interface="")
    names = [name for name in METRICS if name.startswith("flash_")]
    assert {look_at(METRICS[name], Sample(machine)) for name in names} == {None}
    machine.flash = Flash()
    assert {name: look_at(METRICS[name], Sample(machine)) for name in names} == {
        "flash_written": 5,
        "flash_lifetime_written": 7,
        "flash_bytes_per_point": 7.5,
        "flash_bytes_per_day": 8.5,
        "flash_device_bytes_per_day": 9.5,
        "flash_used_percent": 10.0,
        "flash_life_days": None,
    }


def test_every_metric_gives_its_type_or_nothing() -> None:
    machine = Machine(disk="/", interface="")
    sample = Sample(machine)
    types = {"d": float, "q": int}
    for name, metric in METRICS.items():
        value = look_at(metric, sample)
        assert value is None or isinstance(value, types[metric.wire]), name


def test_the_machine_and_the_metrics_agree() -> None:
    sample = Sample(Machine(disk="/", interface=""))
    value = {name: look_at(metric, sample) for name, metric in METRICS.items()}
    assert value["memory_total"] == psutil.virtual_memory().total
    assert value["disk_total"] == psutil.disk_usage("/").total
    assert value["process_threads"] == psutil.Process().num_threads()
    assert value["boot_time"] == pytest.approx(psutil.boot_time(), abs=2)
    assert value["process_pss"] <= value["process_rss"] * 1.5  # type: ignore[operator]
    assert value["process_fds"] > 0  # type: ignore[operator]


def test_an_interface_of_its_own_and_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = type(psutil.net_io_counters())
    found = {"lo": counters(9, 9, 9, 9, 0, 0, 0, 0), "eth0": counters(1, 2, 3, 4, 5, 6, 0, 0)}
    found["eth1"] = counters(10, 20, 30, 40, 50, 60, 0, 0)
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: found)

    def look(name: str, interface: str) -> object:
        return look_at(METRICS[name], Sample(Machine(disk="/", interface=interface)))

    assert look("network_sent", "") == 11
    assert look("network_received", "eth0") == 2
    assert look("network_errors_received", "") == 55
    assert look("network_sent", "lo") == 9
    assert look("network_sent", "wlan7") is None


def test_the_hottest_sensor_counts_and_none_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, current: float | None) -> None:
            self.current = current

    sample = Sample(Machine(disk="/", interface=""))
    monkeypatch.setattr(
        psutil, "sensors_temperatures", lambda: {"cpu": [Entry(41.5), Entry(None)], "nvme": [Entry(50.0)]}
    )
    assert look_at(METRICS["temperature"], sample) == 50.0
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    assert look_at(METRICS["temperature"], sample) is None
