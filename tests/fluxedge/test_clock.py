"""The clock: what is trusted, and that scheduling time cannot jump."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from fluxedge import clock
from fluxedge.clock import BUILD_DATE_NS, SystemClock


class Stopped(SystemClock):
    """A clock whose time the test sets."""

    def __init__(self, wall_ns: int, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.now_ns = wall_ns
        self.up_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return self.up_ns


@pytest.fixture
def unsynchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "ntp_synchronised", lambda: False)


@pytest.mark.usefixtures("unsynchronised")
def test_without_ntp_and_rtc_the_clock_is_not_trusted(tmp_path: Path) -> None:
    assert not Stopped(BUILD_DATE_NS + 1, rtc=tmp_path / "none", machine="aarch64").trusted()


@pytest.mark.usefixtures("unsynchronised")
def test_an_rtc_with_a_time_after_the_build_is_trusted(tmp_path: Path) -> None:
    assert Stopped(BUILD_DATE_NS + 1, rtc=tmp_path, machine="aarch64").trusted()


@pytest.mark.usefixtures("unsynchronised")
def test_an_rtc_with_an_empty_battery_is_not_trusted(tmp_path: Path) -> None:
    assert not Stopped(BUILD_DATE_NS - 1, rtc=tmp_path, machine="aarch64").trusted()


@pytest.mark.usefixtures("unsynchronised")
def test_an_x86_kernel_has_read_a_clock_at_boot_though_no_driver_shows_it(tmp_path: Path) -> None:
    assert Stopped(BUILD_DATE_NS + 1, rtc=tmp_path / "none", machine="x86_64").trusted()


def test_ntp_alone_makes_the_clock_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, True]
    monkeypatch.setattr(clock, "ntp_synchronised", lambda: answers.pop(0))
    board = Stopped(BUILD_DATE_NS + 1, rtc=tmp_path / "none", machine="aarch64")
    assert not board.trusted()
    board.up_ns += 9 * 10**9
    assert not board.trusted()  # asked at most once in ten seconds
    board.up_ns += 2 * 10**9
    assert board.trusted()


def test_the_kernel_answers_whether_ntp_disciplines_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clock, "_SYNC_FLAG", tmp_path / "none")
    buffer = ctypes.create_string_buffer(208)
    assert ctypes.CDLL(None).adjtimex(buffer) >= 0
    unsynchronised = int.from_bytes(buffer.raw[40:44], "little") & 0x40
    assert clock.ntp_synchronised() is not bool(unsynchronised)


def test_the_flag_of_timesyncd_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clock, "_SYNC_FLAG", tmp_path)
    assert clock.ntp_synchronised()


def test_scheduling_time_only_grows() -> None:
    system = SystemClock()
    assert system.mono_ns() <= system.mono_ns()
