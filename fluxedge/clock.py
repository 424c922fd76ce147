"""Clocks: UTC for stamps, CLOCK_BOOTTIME for scheduling, and whether UTC can be trusted yet.

Scheduling never looks at UTC: an NTP step must not move a poll. Stamps carry both, with a boot number, so that records
taken before the clock was set can be placed later (docs/time.md). Ages are counted in a time of their own, `AgeClock`:
what is dropped is gone, and a clock that leaps for a minute must not take thirty days of log with it.
"""

from __future__ import annotations

import ctypes
import platform
import time
import typing
from pathlib import Path

BUILD_DATE_NS = 1_764_000_000 * 10**9  # 2025-11-24; a clock before this was never set
_STA_UNSYNC = 0x0040  # <sys/timex.h>: the kernel's clock is not disciplined
_TIMEX_BYTES = 208  # sizeof(struct timex) on 64-bit Linux; only `status` is read
_TIMEX_STATUS_OFFSET = 40  # modes(4)+pad(4), offset, freq, maxerror, esterror (8 each), then status
_SYNC_FLAG = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd(8): made at the first synchronisation
_RTC_APART_NS = 15 * 3600 * 10**9  # an RTC that keeps local time is up to 14 hours away
_ASK_NS = 10 * 10**9
_STEADY_NS = 100 * 10**6  # below it the two clocks were not read at quite the same time
_AWAY_MS = 2 * 86_400_000  # counted as age at most for the time in which nothing ran


class Clock(typing.Protocol):
    """What the rest of fluxedge may ask about time."""

    def wall_ns(self) -> int:
        """Return UTC in ns since 1970-01-01."""
        ...

    def mono_ns(self) -> int:
        """Return CLOCK_BOOTTIME in ns: monotonic, counts suspend."""
        ...

    def trusted(self) -> bool:
        """Tell whether `wall_ns` may be believed."""
        ...


def ntp_synchronised() -> bool:
    """Ask the kernel whether NTP disciplines the clock; False when it cannot be asked."""
    if _SYNC_FLAG.exists():
        return True
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: read only
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(buffer) < 0:
        return False
    status = int.from_bytes(buffer.raw[_TIMEX_STATUS_OFFSET : _TIMEX_STATUS_OFFSET + 4], "little")
    return not status & _STA_UNSYNC


def rtc_ns(rtc: Path) -> int | None:
    """Return what a real-time clock says, UTC; None when it cannot tell (its oscillator had stopped, for instance)."""
    try:
        return int((rtc / "since_epoch").read_text()) * 10**9
    except (OSError, ValueError):
        return None


class SystemClock:
    """The machine's clocks. Until UTC can be trusted it is asked again every 10 s; trust then lasts.

    It lasts because a clock that was right drifts by seconds a day, and steps are seen (clock_watch.py). The kernel
    takes the flag of NTP back nine hours after the last answer of a server; that must not make good stamps unsynced.
    """

    def __init__(self, rtc: Path = Path("/sys/class/rtc/rtc0"), machine: str | None = None) -> None:
        """`machine` is the architecture: an x86 kernel always reads a clock at boot (CMOS or the hypervisor's), whether
        or not a driver shows it as rtc0; a board such as the Raspberry Pi 4 has none.
        """
        self._rtc = rtc
        self._machine = machine or platform.machine()
        self._trusted = False
        self._asked_mono_ns = -(10**18)

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def trusted(self) -> bool:
        if not self._trusted and (now_ns := self.mono_ns()) - self._asked_mono_ns > _ASK_NS:
            self._asked_mono_ns = now_ns
            self._trusted = ntp_synchronised() or self._kept()
        return self._trusted

    def _kept(self) -> bool:
        """Tell whether UTC is what a clock with a battery has kept.

        Not with a flat battery, nor where systemd-timesyncd or fake-hwclock carried the time of the last shutdown over:
        then the system's clock is past the build date, but its RTC is not, or is elsewhere.
        """
        wall_ns = self.wall_ns()
        if wall_ns <= BUILD_DATE_NS:
            return False
        if not self._rtc.exists():
            return self._machine in ("x86_64", "i686")
        kept_ns = rtc_ns(self._rtc)
        return kept_ns is not None and kept_ns > BUILD_DATE_NS and abs(wall_ns - kept_ns) < _RTC_APART_NS


class AgeClock:
    """The time that has passed for the log: it follows UTC, but neither leaps nor goes back.

    While the gateway runs it counts CLOCK_BOOTTIME. At the start it goes on from the newest stamp in the log; what lies
    between counts for two days at most, because nobody can tell a machine that was off from a clock that is wrong. So
    records may live longer than asked for, but never shorter.
    """

    def __init__(self, clock: Clock, newest_ms: int) -> None:
        """`newest_ms` is the newest time in the log that this clock gave; 0 = none."""
        self._clock = clock
        self._newest_ms = newest_ms
        self._ahead_ms: int | None = None  # of CLOCK_BOOTTIME

    def now_ms(self) -> int | None:
        """Return the time by which to stamp and to compare; None while UTC was never trusted."""
        if not self._clock.trusted():
            return None
        mono_ms = self._clock.mono_ns() // 10**6
        if self._ahead_ms is None:
            wall_ms, newest_ms = self._clock.wall_ns() // 10**6, self._newest_ms
            begin_ms = newest_ms + min(max(0, wall_ms - newest_ms), _AWAY_MS) if newest_ms else wall_ms
            self._ahead_ms = begin_ms - mono_ms
        return mono_ms + self._ahead_ms

    def careful_ms(self) -> int | None:
        """Return the time by which records with stamps in UTC are too old: UTC, or `now_ms` where that is before it."""
        now_ms = self.now_ms()
        return None if now_ms is None else min(now_ms, self._clock.wall_ns() // 10**6)


class UtcOf:
    """UTC of what has happened, by the clock as it is now: what began before the clock was set began then, not in 1970.

    Instants are kept on CLOCK_BOOTTIME, so that an age made from the answer holds whatever UTC does. The answer is the
    same each time while the clock is not set.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ns = clock.wall_ns() - clock.mono_ns()  # of CLOCK_BOOTTIME

    def __call__(self, mono_ns: int) -> int:
        """Return the UTC of an instant on CLOCK_BOOTTIME; 0 = never stays 0."""
        if not mono_ns:
            return 0
        ahead_ns = self._clock.wall_ns() - self._clock.mono_ns()
        if abs(ahead_ns - self._ahead_ns) > _STEADY_NS:
            self._ahead_ns = ahead_ns
        return mono_ns + self._ahead_ns


def boot_id() -> str:
    """Return the kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def machine_id() -> str:
    """Return the id of this installation, empty when the system has none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
