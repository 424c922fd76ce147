"""Silence on a line: how long it must be, and a timer that is fine enough to keep it.

    character     start bit + data bits + parity bit + stop bits
    t3.5          3.5 characters; above 19200 baud fixed 1.750 ms
                  (MODBUS over Serial Line V1.02, 2.5.1.1)

Loop timers end up to a millisecond late, which doubles a gap of 1.75 ms; a timerfd ends 0.05 ms late (measured on
the selector loop and on uvloop). Python has os.timerfd_create from 3.13 on; until then libc is asked.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
import typing

from fluxedge.problems import LinkProblem

T35_FIXED_S = 0.001750  # MODBUS over Serial Line V1.02, 2.5.1.1: above 19200 baud
FASTEST_COUNTED_BAUD = 19200
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC have the same values
_ABSTIME = 1  # TFD_TIMER_ABSTIME
_AT_ONCE_S = 1e-9  # an it_value of zero would disarm the timer


def character_s(baud: int, *, bits: int = 8, parity: str = "N", stop: float = 1.0) -> float:
    """Return the time of one character on the line."""
    return (1 + bits + (parity != "N") + stop) / baud


def silence_s(baud: int, char_s: float) -> float:
    """Return t3.5, the silence that must separate two frames."""
    return T35_FIXED_S if baud > FASTEST_COUNTED_BAUD else 3.5 * char_s


class _Timerspec(ctypes.Structure):
    """struct itimerspec of 64-bit Linux: interval, then first expiry; each seconds and nanoseconds."""

    _fields_: typing.ClassVar = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    ]


class GapTimer:
    """Wait until an instant of CLOCK_MONOTONIC with a timerfd. One waiter at a time; must be closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._waiter: asyncio.Future[None] | None = None
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise LinkProblem("link-down", f"no timer for the line: {os.strerror(ctypes.get_errno())}")
        loop.add_reader(self._fd, self._expired)

    async def wait_until(self, at_s: float) -> None:
        """Return at `at_s` of time.monotonic(), or earlier when `wake` is called."""
        if self._fd < 0:
            return
        waiter = self._waiter = self._loop.create_future()
        self._arm(max(at_s, _AT_ONCE_S))
        try:
            await waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """End a wait now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End a wait and give the timer back; harmless when it is closed."""
        self.wake()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self, at_s: float) -> None:
        whole_s = int(at_s)
        spec = _Timerspec(0, 0, whole_s, int((at_s - whole_s) * 1e9) or 1)
        self._libc.timerfd_settime(self._fd, _ABSTIME, ctypes.byref(spec), None)

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed anew since: not this wait's end
            return
        self.wake()
