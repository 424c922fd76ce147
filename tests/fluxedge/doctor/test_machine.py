"""Looking at the machine: fake trees, and this one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fluxedge.doctor import machine
from fluxedge.doctor.machine import Ask


def answer(code: int, text: str) -> Ask:
    return lambda command: (code, text)


@pytest.fixture
def booted(tmp_path: Path) -> Path:
    """A root directory of a machine that systemd runs."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_versions_are_those_that_are_loaded() -> None:
    found = machine.versions()
    assert found.sqlite == sqlite3.sqlite_version
    assert all(found.libraries.values())


def test_without_systemd_nobody_is_asked(tmp_path: Path) -> None:
    def never(command: Sequence[str]) -> tuple[int, str]:
        raise AssertionError(command)

    assert machine.unit(tmp_path, never).systemd is False
    assert machine.journal(tmp_path, never).unseen == "systemd does not run here"
    machine.clocks(tmp_path, never)


def test_the_unit_is_what_systemctl_shows(booted: Path) -> None:
    asked: list[Sequence[str]] = []

    def systemctl(command: Sequence[str]) -> tuple[int, str]:
        asked.append(command)
        return 0, "LoadState=loaded\nActiveState=active\nStatusText=2 devices, a=b\n"

    assert machine.unit(booted, systemctl).fields["StatusText"] == "2 devices, a=b"
    assert asked[0][:3] == ("systemctl", "show", "fluxedge.service")
    assert machine.unit(booted, answer(1, "Failed to connect to bus\n")).unseen == "Failed to connect to bus"


def test_the_clocks_are_what_timedatectl_and_the_rtc_say(booted: Path) -> None:
    put(booted, "sys/class/rtc/rtc0/since_epoch", "1700000000\n")
    found = machine.clocks(booted, answer(0, "LocalRTC=yes\nNTP=no\nNTPSynchronized=yes\n"))
    assert (found.ntp_on, found.synchronised, found.local_rtc) == (False, True, True)
    assert (found.rtc_present, found.rtc_s) == (True, 1_700_000_000.0)


@pytest.mark.parametrize(
    ("line", "off"),
    [
        ("quiet cgroup_disable=memory", True),
        ("cgroup_disable=memory cgroup_enable=memory", False),  # what a user adds behind the firmware's word
        ("cgroup_disable=cpu,memory", True),
        ("cgroup_enable=memory swapaccount=1", False),
        ("", False),
    ],
)
def test_the_last_word_on_the_memory_controller_counts(tmp_path: Path, line: str, off: bool) -> None:
    put(tmp_path, "proc/cmdline", line + "\n")
    assert machine.board(tmp_path).memory_off is off


def test_a_raspberry_pi_is_known_by_its_device_tree_and_its_supply_by_its_sensor(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    found = machine.board(tmp_path)
    assert found.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found.cgroup_v2, found.controllers, found.undervoltage) == (True, ("cpuset", "cpu", "io", "pids"), True)


def test_no_sensor_is_not_a_good_supply(tmp_path: Path) -> None:
    assert machine.board(tmp_path).undervoltage is None


@pytest.mark.parametrize(("soft", "hard", "limit"), [("1024", "65536", 65536), ("1024", "unlimited", -1)])
def test_the_hard_limit_counts_because_the_gateway_raises_the_soft_one(
    tmp_path: Path, soft: str, hard: str, limit: int
) -> None:
    put(tmp_path, "proc/7/limits", f"Limit   Soft Limit  Hard Limit  Units\nMax open files   {soft}   {hard}   files\n")
    assert machine.files(7, 300, tmp_path).limit == limit
    assert machine.files(0, 300, tmp_path).limit is None
    assert machine.files(8, 300, tmp_path).limit is None


def test_a_journal_that_may_not_be_read_is_not_an_empty_one(booted: Path) -> None:
    hint = "Hint: You are currently not seeing messages from other users and the system.\n-- No entries --\n"
    for code in (0, 1):
        assert machine.journal(booted, answer(code, hint)).unseen == "this user may not read the journal"
    none = "No journal files were opened due to insufficient permissions.\n"
    assert machine.journal(booted, answer(1, none)).unseen == "this user may not read the journal"
    assert machine.journal(booted, answer(0, "No journal files were found.\n")).unseen == "there is no journal"
    assert machine.journal(booted, answer(0, "-- No entries --\n")).errors == ()
    assert machine.journal(booted, answer(0, "2027-01-01 a\n2027-01-02 b\n")).errors[-1] == "2027-01-02 b"
    assert machine.journal(booted, answer(127, "journalctl: no such file\n")).unseen == "journalctl: no such file"


def test_a_program_that_is_missing_or_hangs_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.ask(("no-such-program-of-fluxedge",))[0] == 127
    monkeypatch.setattr(machine, "ASK_S", 0.2)
    begun_s = time.monotonic()
    assert machine.ask(("sleep", "30"))[0] == 124
    assert time.monotonic() - begun_s < 5
    assert machine.ask(("false",)) == (1, "")
    assert machine.ask(("echo", "é"))[0] == 0


def test_the_last_lines_of_the_journal_are_those_of_the_unit() -> None:
    assert machine.journal_tail(lambda command: (0, " ".join(command))).startswith("journalctl --unit=fluxedge.service")
