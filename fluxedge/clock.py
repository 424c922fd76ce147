"""Clocks: UTC for stamps, CLOCK_BOOTTIME for scheduling, and whether UTC can be trusted yet.

Scheduling never looks at UTC: an NTP step must not move a poll. Stamps carry both, with a boot number, so that records
taken before the clock was set can be placed later (design, "Time").
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
_SYNC_FLAG = Path("/run/systemd/timesync/synchronized")


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


class SystemClock:
    """The machine's clocks. Trust is asked again at most once in 10 s: it costs a system call."""

    def __init__(self, rtc: Path = Path("/sys/class/rtc/rtc0"), machine: str | None = None) -> None:
        """`machine` is the architecture: an x86 kernel always reads a clock at boot (CMOS or the hypervisor's), whether
        or not a driver shows it as rtc0; a board such as the Raspberry Pi 4 has none.
        """
        machine = machine or platform.machine()
        self._keeps_time = rtc.exists() or machine in ("x86_64", "i686")
        self._trusted = False
        self._asked_mono_ns = -(10**18)

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def trusted(self) -> bool:
        now_ns = self.mono_ns()
        if now_ns - self._asked_mono_ns > 10 * 10**9:
            self._asked_mono_ns = now_ns
            self._trusted = ntp_synchronised() or (self._keeps_time and self.wall_ns() > BUILD_DATE_NS)
        return self._trusted


def boot_id() -> str:
    """Return the kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def machine_id() -> str:
    """Return the id of this installation, empty when the system has none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
