"""The clock: what is trusted, and that scheduling time cannot jump."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from fluxedge import clock
from fluxedge.clock import BUILD_DATE_NS, AgeClock, SystemClock, UtcOf

HOUR_NS = 3600 * 10**9
DAY_MS = 86_400_000


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


def rtc_of(folder: Path, at_ns: int) -> Path:
    """Make /sys/class/rtc/rtc0 of a clock that says this."""
    (folder / "since_epoch").write_text(f"{at_ns // 10**9}\n")
    return folder


@pytest.mark.usefixtures("unsynchronised")
def test_an_rtc_with_a_time_after_the_build_is_trusted(tmp_path: Path) -> None:
    rtc = rtc_of(tmp_path, BUILD_DATE_NS + HOUR_NS)
    assert Stopped(BUILD_DATE_NS + HOUR_NS, rtc=rtc, machine="aarch64").trusted()
    assert Stopped(BUILD_DATE_NS + 9 * HOUR_NS, rtc=rtc, machine="aarch64").trusted()  # it keeps China's time


@pytest.mark.usefixtures("unsynchronised")
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_an_rtc_with_an_empty_battery_is_not_trusted(tmp_path: Path, machine: str) -> None:
    assert not Stopped(HOUR_NS, rtc=rtc_of(tmp_path, HOUR_NS), machine=machine).trusted()


@pytest.mark.usefixtures("unsynchronised")
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_the_time_of_the_last_shutdown_is_not_taken_for_that_of_an_rtc(tmp_path: Path, machine: str) -> None:
    carried_over_ns = BUILD_DATE_NS + 1000 * HOUR_NS  # systemd-timesyncd at boot
    assert not Stopped(carried_over_ns, rtc=rtc_of(tmp_path, HOUR_NS), machine=machine).trusted()
    fresh = rtc_of(tmp_path, carried_over_ns + 100 * HOUR_NS)
    assert not Stopped(carried_over_ns, rtc=fresh, machine=machine).trusted()


@pytest.mark.usefixtures("unsynchronised")
def test_an_rtc_that_cannot_tell_its_time_is_not_trusted(tmp_path: Path) -> None:
    assert not Stopped(BUILD_DATE_NS + 1, rtc=tmp_path, machine="x86_64").trusted()
    (tmp_path / "since_epoch").write_text("")
    assert not Stopped(BUILD_DATE_NS + 1, rtc=tmp_path, machine="x86_64").trusted()


@pytest.mark.usefixtures("unsynchronised")
def test_an_rtc_that_is_set_while_the_gateway_runs_is_noticed(tmp_path: Path) -> None:
    board = Stopped(BUILD_DATE_NS + HOUR_NS, rtc=rtc_of(tmp_path, HOUR_NS), machine="aarch64")
    assert not board.trusted()
    rtc_of(tmp_path, BUILD_DATE_NS + HOUR_NS)
    board.up_ns += 11 * 10**9
    assert board.trusted()


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


def test_trust_outlasts_the_loss_of_the_time_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True]
    monkeypatch.setattr(clock, "ntp_synchronised", lambda: answers.pop(0))
    board = Stopped(BUILD_DATE_NS + 1, rtc=tmp_path / "none", machine="aarch64")
    assert board.trusted()
    board.up_ns += 24 * HOUR_NS
    board.now_ns = 0
    assert board.trusted()
    assert answers == []  # it was not asked again


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


# --- the time that ages are counted in --------------------------------------------------------------------------------


class Machine:
    """Clocks that the test moves."""

    def __init__(self, wall_ms: int) -> None:
        self.wall_ms = wall_ms
        self.up_ms = 5_000
        self.sure = True

    def wall_ns(self) -> int:
        return self.wall_ms * 10**6

    def mono_ns(self) -> int:
        return self.up_ms * 10**6

    def trusted(self) -> bool:
        return self.sure

    def run(self, ms: int) -> None:
        self.wall_ms += ms
        self.up_ms += ms


NOW_MS = 1_800_000_000_000
Y2038_MS = 2_147_483_648_000


def test_ages_follow_utc_in_a_new_log() -> None:
    machine = Machine(NOW_MS)
    age = AgeClock(machine, 0)
    assert age.now_ms() == NOW_MS
    machine.run(DAY_MS)
    assert age.now_ms() == NOW_MS + DAY_MS


@pytest.mark.parametrize("leap_ms", [Y2038_MS - NOW_MS, -400 * DAY_MS])
def test_a_leap_of_utc_makes_nothing_old_or_young(leap_ms: int) -> None:
    machine = Machine(NOW_MS)
    age = AgeClock(machine, NOW_MS - 1000)
    assert age.now_ms() == NOW_MS
    machine.wall_ms += leap_ms
    assert age.now_ms() == NOW_MS
    machine.run(1000)
    assert age.now_ms() == NOW_MS + 1000
    assert age.careful_ms() == min(NOW_MS, NOW_MS + leap_ms) + 1000


def test_a_start_in_2038_counts_two_days_at_most() -> None:
    assert AgeClock(Machine(Y2038_MS), NOW_MS).now_ms() == NOW_MS + 2 * DAY_MS


def test_a_night_without_power_counts_as_a_night() -> None:
    assert AgeClock(Machine(NOW_MS + DAY_MS // 2), NOW_MS).now_ms() == NOW_MS + DAY_MS // 2


def test_a_start_before_the_newest_stamp_goes_on_from_there() -> None:
    machine = Machine(NOW_MS - DAY_MS)
    age = AgeClock(machine, NOW_MS)
    assert age.now_ms() == NOW_MS
    assert age.careful_ms() == NOW_MS - DAY_MS


def test_while_the_clock_is_not_trusted_there_is_no_age() -> None:
    machine = Machine(0)
    machine.sure = False
    age = AgeClock(machine, NOW_MS)
    assert age.now_ms() is None
    assert age.careful_ms() is None
    machine.sure, machine.wall_ms = True, NOW_MS + 1000
    assert age.now_ms() == NOW_MS + 1000


def test_what_began_before_the_clock_was_set_is_as_old_as_it_is() -> None:
    machine = Stopped(0)
    machine.up_ns = 5 * 10**9
    utc_of = UtcOf(machine)
    assert utc_of(machine.up_ns) == 0
    machine.up_ns += 60 * 10**9
    machine.now_ns = BUILD_DATE_NS
    assert utc_of(5 * 10**9) == BUILD_DATE_NS - 60 * 10**9


def test_while_the_clock_is_not_set_an_instant_has_the_same_stamp_each_time() -> None:
    machine = Stopped(BUILD_DATE_NS)
    utc_of = UtcOf(machine)
    first = utc_of(10**9)
    machine.now_ns += 1000  # read a little later than the other clock
    assert utc_of(10**9) == first


def test_never_has_no_stamp() -> None:
    assert UtcOf(Stopped(BUILD_DATE_NS))(0) == 0
