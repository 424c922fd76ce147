"""The flash ledger: what the gateway costs the card that it lives on.

    /proc/self/io, write_bytes       what this process and its ended children had written: the log, without the journal
    .../stat of the block device     what reached the device, journal, other programs and all

Both are sampled once a minute. Rates are of the last 24 hours at most, and of whole hours of compaction with them; a
total for the device's life is kept in one state row, `flash`, written once an hour and at the end: a ledger that wears
the card itself would be a bad joke. What a device was written before fluxedge knew it, nobody knows; what a power cut
takes is at most an hour of one boot.

How long the device will last needs its endurance (`[log] endurance`, from its data sheet). eMMC says itself how much of
its life is used; cards and USB sticks do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from fluxedge.block_device import SYS, Wear, bytes_written, flash_of, identity_of, wear_of
from fluxedge.clock import Clock, boot_id
from fluxedge.log.damage import LogFault
from fluxedge.log.store import Log
from fluxedge.problems import LinkProblem, Problem, ProblemBook

SAMPLE_S = 60.0
SAVE_S = 3600.0
MARK_NS = 600 * 10**9  # the window of the rates is made of such marks ...
MARKS = 145  # ... 24 hours of them
SETTLED_NS = 60 * 10**9  # a rate over less than this says nothing
DAY_NS = 86_400 * 10**9
WORN_PERCENT = 90
_ROW = "flash"
_URGENT_RESERVE = 2  # PRE_EOL_INFO: 80 % of the reserved blocks are used


class Total(msgspec.Struct, frozen=True):
    """What is kept across restarts: the device's life as far as fluxedge has seen it."""

    device: str  # identity
    boot: str  # boot_id of `counter_bytes`
    counter_bytes: int  # of the device, since that boot
    device_bytes: int  # written in all boots up to `counter_bytes`
    gateway_bytes: int  # of it by the gateway; without what was never seen, as the device's
    points: int


class Mark(msgspec.Struct, frozen=True):
    """The counters at one instant."""

    mono_ns: int
    gateway_bytes: int
    device_bytes: int
    points: int


class FlashLedger:
    """Sample, add up, tell. Figures are None where they are not known."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        problems: ProblemBook,
        points: Callable[[], int],
        endurance_bytes: int = 0,
        *,
        sys: Path = SYS,
        io: Path = Path("/proc/self/io"),
        boot: str = "",
    ) -> None:
        """`points` counts what was stored since the start; an endurance of 0 is not known; `boot` is this boot's id."""
        self._log = log
        self._clock = clock
        self._problems = problems
        self._points = points
        self.endurance_bytes = endurance_bytes
        self._io = io
        self.device = flash_of(str(log.path.parent), sys)
        self.wear: Wear | None = wear_of(self.device) if self.device is not None else None  # as of the boot
        self._identity = identity_of(self.device) if self.device is not None else ""
        self._boot = boot or boot_id()
        self._before = Total("", "", 0, 0, 0, 0)
        self._marks: deque[Mark] = deque(maxlen=MARKS)
        self._now: Mark | None = None

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sample until cancelled; save now and then."""
        await self.load()
        left_s = SAVE_S
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_S)
            left_s -= SAMPLE_S
            if left_s <= 0:
                left_s = SAVE_S
                await self.save()

    async def load(self) -> None:
        """Take up the totals of earlier starts."""
        with contextlib.suppress(LinkProblem, msgspec.DecodeError, ValueError):  # then the life begins today
            rows = await self._log.look(partial(_find, key=_ROW))
            if rows:
                self._before = msgspec.msgpack.decode(rows[0][0], type=Total)
        if self._before.device not in ("", self._identity):
            self._before = Total("", "", 0, 0, 0, 0)  # the log was copied to another card

    async def save(self) -> None:
        """Keep the totals; nothing but time is lost when that fails."""
        total = self._total()
        if total is not None and total.device_bytes + total.gateway_bytes > 0:
            with contextlib.suppress(LogFault):
                await self._log.write(partial(_keep, key=_ROW, value=msgspec.msgpack.encode(total)))

    def sample(self) -> None:
        """Read the counters; takes 50 us."""
        device_bytes = 0
        if self.device is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                device_bytes = bytes_written(self.device / "stat")
        now = Mark(self._clock.mono_ns(), _process_bytes(self._io), device_bytes, self._points())
        self._now = now
        if not self._marks or now.mono_ns - self._marks[-1].mono_ns >= MARK_NS:
            self._marks.append(now)
        self._judge()

    def _judge(self) -> None:
        """Keep the problem that the device is worn out, as long as it is."""
        used = self.used_percent
        wear = self.wear
        if wear is not None and wear.reserve >= _URGENT_RESERVE:
            self._report("the device says that its reserve of blocks is nearly used up")
        elif used is not None and used >= WORN_PERCENT:
            self._report(f"{used:.0f} % of its life are used")
        else:
            self._problems.clear("flash", "flash-worn")

    def _report(self, text: str) -> None:
        name = self.device.name if self.device is not None else "the disk"
        hint = "Replace it before it fails: back up, copy, and see docs/log.md, Flash and SD cards."
        self._problems.report("flash", Problem("flash-worn", f"{name}: {text}", hint))

    # --- figures ------------------------------------------------------------------------------------------------------

    def _total(self) -> Total | None:
        """Return what to keep, as of the newest sample."""
        now = self._now
        if now is None:
            return None
        before = self._before
        same_boot = before.boot == self._boot and now.device_bytes >= before.counter_bytes
        return Total(
            device=self._identity,
            boot=self._boot,
            counter_bytes=now.device_bytes,
            device_bytes=before.device_bytes + now.device_bytes - (before.counter_bytes if same_boot else 0),
            gateway_bytes=before.gateway_bytes + now.gateway_bytes,  # both count from the start of the process
            points=before.points + now.points,
        )

    def _rate(self, count: Callable[[Mark], int], per: Callable[[Mark], int]) -> float | None:
        """Return how many of one there were for each of the other, within the window."""
        if self._now is None or not self._marks or self._now.mono_ns - self._marks[0].mono_ns < SETTLED_NS:
            return None
        passed = per(self._now) - per(self._marks[0])
        return (count(self._now) - count(self._marks[0])) / passed if passed > 0 else None

    @property
    def gateway_bytes(self) -> int:
        """Return what this process has written since its start."""
        return self._now.gateway_bytes if self._now is not None else 0

    @property
    def device_bytes(self) -> int | None:
        """Return what was written to the device since boot."""
        return self._now.device_bytes if self._now is not None and self.device is not None else None

    @property
    def lifetime_bytes(self) -> int | None:
        """Return what was written to the device since fluxedge knows it."""
        total = self._total()
        return total.device_bytes if total is not None and self.device is not None else None

    @property
    def bytes_per_point(self) -> float | None:
        """Return what the gateway writes for a stored point."""
        return self._rate(lambda mark: mark.gateway_bytes, lambda mark: mark.points)

    @property
    def bytes_per_day(self) -> float | None:
        """Return what the gateway writes in a day, at the pace of the window."""
        rate = self._rate(lambda mark: mark.gateway_bytes, lambda mark: mark.mono_ns)
        return rate * DAY_NS if rate is not None else None

    @property
    def device_bytes_per_day(self) -> float | None:
        """Return what the device is written in a day, by everybody."""
        rate = self._rate(lambda mark: mark.device_bytes, lambda mark: mark.mono_ns)
        return rate * DAY_NS if rate is not None and self.device is not None else None

    @property
    def used_percent(self) -> float | None:
        """Return how much of its life the device has used: by itself, or by its endurance."""
        if self.wear is not None:
            return float(self.wear.used_percent)
        written = self.lifetime_bytes
        return 100.0 * written / self.endurance_bytes if self.endurance_bytes and written is not None else None

    @property
    def life_days(self) -> float | None:
        """Return in how many days the endurance is used up, at the pace of the window."""
        pace, written = self.device_bytes_per_day, self.lifetime_bytes
        if not self.endurance_bytes or not pace or written is None:
            return None
        left_bytes = self.endurance_bytes - written
        if self.wear is not None:  # it has seen what was written before us
            left_bytes = min(left_bytes, int(self.endurance_bytes * (1 - self.wear.used_percent / 100)))
        return max(0.0, left_bytes / pace)


def _process_bytes(io: Path) -> int:
    """Return what a process and its ended children have had written; 0 where it does not say."""
    try:
        lines = dict(line.split(": ") for line in io.read_text().splitlines())
        return int(lines["write_bytes"])
    except (OSError, ValueError, KeyError):
        return 0


def _find(connection: sqlite3.Connection, key: str) -> list[tuple[bytes]]:
    return connection.execute("SELECT v FROM state WHERE k = ?", (key,)).fetchall()


def _keep(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))
