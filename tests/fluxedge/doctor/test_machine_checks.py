"""What is said of the machine."""

from __future__ import annotations

import typing

import pytest

from tests.fluxedge.doctor.healthy import ANSWERS, HEALTHY, NOW_S, answering, only, spoilt, wrong

GIB = 1 << 30


@pytest.mark.parametrize(
    ("part", "changes", "verdict", "words", "remedy"),
    [
        ("versions", {"sqlite": "3.40.1"}, "note", "WAL-reset", "no other program"),
        ("versions", {"sqlite": "3.51.2"}, "note", "WAL-reset", "no other program"),
        ("versions", {"libraries": {"aiohttp": ""}}, "bad", "missing: aiohttp", "Install"),
        ("unit", {"systemd": False}, "note", "systemd does not run here", ""),
        ("unit", {"unseen": "Connection timed out"}, "note", "Connection timed out", ""),
        ("state", {"kind": "nfs4"}, "bad", "network file system (nfs4)", "local disk"),
        ("state", {"kind": "overlay"}, "bad", "gone after a restart", "disk of its own"),
        ("state", {"kind": "tmpfs"}, "bad", "gone after a restart", "disk of its own"),
        ("state", {"read_only": True}, "bad", "read-only", "dmesg"),
        ("state", {"kind": ""}, "note", "could not be told", ""),
        ("state", {"unseen": "Permission denied"}, "note", "ann may not look into", "sudo"),
        ("state", {"is_dir": False}, "bad", "no directory", "Move it away"),
        ("state", {"exists": False}, "note", "there is no /var/lib/fluxedge yet", ""),
        ("state", {"owner": "root"}, "bad", "belongs to root, not to fluxedge", "chown -R fluxedge:"),
        ("state", {"mode": 0o777}, "bad", "every user", "chmod o-w"),
        ("state", {"free_bytes": 200 << 20}, "bad", "200 MiB of 30.0 GiB", "Make room"),
        ("state", {"free_bytes": 300 << 20}, "note", "300 MiB", "Make room before"),
        ("state", {"free_inodes": 3}, "bad", "3 inodes left", "df -i"),
        ("state", {"ballast_bytes": 0}, "note", "ballast", "by itself"),
        ("wear", {"device": ""}, "note", "no single disk", ""),
        ("wear", {"used_percent": None}, "note", "does not say", "smartctl -a /dev/mmcblk0"),
        ("wear", {"used_percent": 80}, "note", "80 %", "replacement"),
        ("wear", {"used_percent": 90}, "bad", "90 %", "fluxedge backup"),
        ("wear", {"reserve": 2}, "bad", "reserve of blocks", "fluxedge backup"),
        ("time", {"now_s": 0.5, "rtc_s": 0.5}, "bad", "never set", "timesync-status"),
        ("time", {"synchronised": False}, "note", "trusts it", "timesync-status"),
        ("time", {"synchronised": False, "ntp_on": False}, "note", "NTP", "timedatectl set-ntp true"),
        ("time", {"local_rtc": True}, "bad", "local time", "set-local-rtc 0"),
        ("time", {"rtc_s": NOW_S - 3600}, "note", "3,600 s away", "hwclock"),
        ("time", {"rtc_present": False, "rtc_s": None}, "note", "no real-time clock", "ds3231"),
        ("board", {"memory_off": True}, "note", "cgroup_disable=memory", "kernel's command line"),
        ("board", {"controllers": ("cpu",)}, "note", "no effect", "cgroup_enable=memory"),
        ("board", {"cgroup_v2": False}, "note", "no cgroup v2", ""),
        ("board", {"undervoltage": True}, "bad", "undervoltage", "supply"),
        ("journal", {"unseen": "not yours"}, "note", "not yours", "sudo journalctl"),
        ("journal", {"errors": ("a", "b")}, "note", "2 errors in the last day, the last: b", "journalctl"),
    ],
)
def test_what_is_spoilt_is_the_one_thing_that_is_told(
    part: str, changes: dict[str, typing.Any], verdict: str, words: str, remedy: str
) -> None:
    found = only(spoilt(part, **changes))
    assert (found.verdict, words in found.text, remedy in found.remedy) == (verdict, True, True), found


@pytest.mark.parametrize(
    ("fields", "verdict", "words", "remedy"),
    [
        ({"LoadState": "not-found"}, "note", "not installed", "apt install"),
        ({"LoadState": "masked"}, "bad", "masked", "unmask"),
        ({"ActiveState": "inactive"}, "bad", "inactive: nothing is read", "systemctl start"),
        ({"ActiveState": "failed", "ExecMainStatus": "78"}, "bad", "exit code 78", "fluxedge check"),
        ({"ActiveState": "failed", "Result": "watchdog"}, "bad", "watchdog", "journalctl"),
        ({"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "7"}, "bad", "7 times", "journalctl"),
        ({"ActiveState": "activating", "SubState": "start"}, "note", "starting", ""),
        ({"NRestarts": "1"}, "note", "again 1 time", "journal"),
        ({"UnitFileState": "disabled"}, "note", "not started at boot", "systemctl enable"),
    ],
)
def test_every_state_of_the_unit_has_its_remedy(fields: dict[str, str], verdict: str, words: str, remedy: str) -> None:
    found = only(spoilt("unit", fields={**HEALTHY.unit.fields, **fields}))
    assert (found.verdict, words in found.text, remedy in found.remedy) == (verdict, True, True), found


def test_on_a_raspberry_pi_the_file_of_the_kernel_command_line_is_named() -> None:
    found = only(spoilt("board", memory_off=True, model="Raspberry Pi 4 Model B Rev 1.4"))
    assert "/boot/firmware/cmdline.txt" in found.remedy


def test_a_daemon_of_another_version_than_the_installed_one_is_told() -> None:
    assert "0.9 is running" in only(answering(version={"fluxedge": "0.9"})).text


def test_an_untrusted_clock_is_bad_because_time_stamps_suffer() -> None:
    status = {**ANSWERS["status"], "gateway": {"id": "g", "started_us": 1, "clock_trusted": False}}
    assert only(answering(status=status)).subject == "time stamps"


def test_a_full_disk_is_no_matter_where_there_is_no_state_yet() -> None:
    assert [finding.subject for finding in wrong(spoilt("state", exists=False, free_bytes=0))] == ["state"]
