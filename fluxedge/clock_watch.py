"""The watch on the clock: it notes when UTC came to be trusted, and where it was moved.

    looked at once a second: UTC - CLOCK_BOOTTIME, which only a step changes; slewing moves both alike
      not trusted                                   problem clock-unsynced; records go out as they are, marked
      trusted after records of this boot were not   event clock-set and a clock row, in one commit
      away by more than 2 s from the last row       event clock-set and a clock row, in one commit
      away by more than 0.5 s, or no row yet        a clock row

Rows and events never change a record: they say where records belong (log/placing.py). Nothing here moves a poll, a
commit or an age.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import typing
from collections.abc import Callable
from functools import partial

from fluxedge.clock import Clock, ntp_synchronised
from fluxedge.log import Log, LogFault, placing
from fluxedge.log.placing import ClockRow
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Problem, ProblemBook

LOOK_S = 1.0
STEP_NS = 2 * 10**9
DRIFT_NS = 5 * 10**8  # small steps add up; placement stays within a second

_log = logging.getLogger("fluxedge.clock")


class Submit(typing.Protocol):
    """The pipeline's door for events."""

    def __call__(
        self, kind: str, item: str, data: dict[str, typing.Any] | None = None, *, clock: ClockRow | None = None
    ) -> asyncio.Future[None]: ...


class ClockWatch:
    """Look at the clock, and note what a reader must know of it."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        problems: ProblemBook,
        submit: Submit,
        synchronised: Callable[[], bool] = ntp_synchronised,
    ) -> None:
        """Made before the first event of this start is committed."""
        self._log = log
        self._clock = clock
        self._problems = problems
        self._submit = submit
        self._synchronised = synchronised
        self._before = [s for s in log.segments() if s.lane is Lane.EVENTS and s.last >= s.first][-1:]
        self._offset_ns: int | None = None  # UTC - CLOCK_BOOTTIME as of the newest row of this boot
        self._unsynced = False  # records of this boot were stamped while UTC was not trusted, and no row places them
        self.stepped_at_ns = 0  # when UTC was stepped last, since the start, by the clock after it
        self.step_ns = 0  # by how much; forward is positive

    async def run(self) -> None:
        """Look until cancelled."""
        await self._remember()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def _remember(self) -> None:
        """Take up what an earlier start in this boot has left."""
        boot = self._log.boot
        with contextlib.suppress(LinkProblem):  # it cannot be read: then this start notes its own row
            mine = [row for row in await self._log.look(placing.rows_of) if row[0] == boot]
            if mine:
                _, mono_ms, utc_ms, _ = max(mine, key=lambda row: row[1])
                self._offset_ns = (utc_ms - mono_ms) * 10**6
            elif self._before:
                last = self._before[0]
                before = await self._log.look(partial(placing.boot_of, table=last.table, seq=last.last))
                self._unsynced = before == boot  # it would have left a row, had it trusted the clock

    async def look(self) -> None:
        """Compare the clocks, and note what changed."""
        trusted = self._clock.trusted()
        mono_ns, utc_ns = self._clock.mono_ns(), self._clock.wall_ns()
        if not trusted:
            self._unsynced = True
            hint = "Is NTP running and reachable? `timedatectl` tells. Or fit a clock with a battery."
            self._problems.hold("clock", Problem("clock-unsynced", "the clock is not known to be right", hint))
            return
        self._problems.clear("clock")
        moved_ns = 0 if self._offset_ns is None else utc_ns - mono_ns - self._offset_ns
        stepped = abs(moved_ns) > STEP_NS
        if not (self._unsynced or stepped or self._offset_ns is None or abs(moved_ns) > DRIFT_NS):
            return
        source = "ntp" if self._synchronised() else "rtc"
        if not self._unsynced and self._offset_ns is not None:
            source = "step" if stepped else "drift"
        row = (self._log.boot, mono_ns // 10**6, utc_ns // 10**6, source)
        if not (self._say(row, mono_ns, utc_ns, moved_ns) if self._unsynced or stepped else await self._write(row)):
            return  # tried again at the next look
        if stepped:
            self.stepped_at_ns, self.step_ns = utc_ns, moved_ns
            _log.warning("the clock was stepped by %+.3f s", moved_ns / 10**9)
        self._offset_ns = utc_ns - mono_ns
        self._unsynced = False

    def _say(self, row: ClockRow, mono_ns: int, utc_ns: int, moved_ns: int) -> bool:
        """Submit the event that lets every reader place records; tell whether it was taken."""
        mono_us, utc_us = mono_ns // 1000, utc_ns // 1000
        data = {"boot": row[0], "offset_us": utc_us - mono_us, "mono_us": mono_us, "utc_us": utc_us, "source": row[3]}
        if abs(moved_ns) > STEP_NS:
            data["step_us"] = moved_ns // 1000
        return not self._submit("clock-set", "gateway", data, clock=row).done()

    async def _write(self, row: ClockRow) -> bool:
        """Write a row that no event goes with; tell whether it is durable."""
        try:
            await self._log.write(partial(placing.note, row=row))
        except LogFault:  # the pipeline says what is wrong with the disk
            return False
        return True
