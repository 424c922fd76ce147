"""Housekeeping: the log's upkeep at its times, and what stands about the log's space and its disk.

It runs every minute, whenever a segment is full, and at once when a commit fails; while the log is in memory every
second, so that it comes home soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import typing
from collections.abc import Callable

from fluxedge.log import Gap, Log
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Problem, ProblemBook

HOUSEKEEPING_S = 60.0
VOLATILE_S = 1.0  # while the log is in memory
NO_ROOM = ("age", "backlog", "disk", "memory")  # why a gap was torn for want of room or by age
LOG_FULL_STANDS_S = 3600.0  # after undelivered records had to go

Tell = Callable[[str, str, dict[str, typing.Any]], object]  # (event kind, item, data)


class Housekeeping:
    """One task beside the pipeline's: it waits for the disk."""

    def __init__(
        self,
        log: Log,
        problems: ProblemBook,
        uplinks: Callable[[], list[str]],
        announce: Callable[[], None],
        tell: Tell,
    ) -> None:
        self._log = log
        self._problems = problems
        self._uplinks = uplinks  # configured ones, whose undelivered records make gaps
        self._announce = announce  # called when there may be gaps that no event tells of
        self._tell = tell
        self._due = asyncio.Event()  # there is something to do before its time
        self._stopping = False
        self._undelivered_at_s = -LOG_FULL_STANDS_S  # loop time at which undelivered records were dropped last
        self._unkept_said = 0  # of the log's unkept rounds

    def wake(self) -> None:
        """Let it look now."""
        self._due.set()

    def stop(self) -> None:
        """Let `run` return after its present step."""
        self._stopping = True
        self._due.set()

    async def run(self) -> None:
        """Keep house until `stop`."""
        while not self._stopping:
            self._due.clear()
            if await self._step():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(HOUSEKEEPING_S, VOLATILE_S) if self._volatile else HOUSEKEEPING_S):
                    await self._due.wait()

    @property
    def _volatile(self) -> bool:
        return self._log.volatile_because is not None

    async def _step(self) -> bool:
        """Let the log drop what must go; tell whether there is more."""
        known = {gap.id for gap in self._log.unannounced}
        try:
            busy = await self._log.housekeep(self._uplinks())
        except LinkProblem as fault:
            self._problems.report("log", fault)
            return False
        finally:
            self._judge_disk()
        self._judge_space([gap for gap in self._log.unannounced if gap.id not in known])
        self._say_unkept()
        self._announce()
        return busy

    def _judge_disk(self) -> None:
        """Raise and clear what stands about the medium."""
        log = self._log
        if log.memory is not None and log.volatile_because is not None:
            text = f"records are kept in memory only: {log.volatile_because.message}"
            hint = "Free space or check the disk (dmesg): a restart loses them. The log goes back to it by itself."
            self._problems.hold("log", Problem("log-volatile", text, hint))
            self._problems.clear("log", "log-write-failed")
        elif log.memory is None:
            self._problems.clear("log", "log-volatile")
        damaged = log.damaged
        if damaged is not None and not self._problems.stands("log", damaged.code):
            self._problems.report("log", damaged)

    def _judge_space(self, made: list[Gap]) -> None:
        """Raise and clear what stands about the log's space."""
        now_s = asyncio.get_running_loop().time()
        unread = [gap for gap in made if gap.why == "damaged"]
        told = any(self._problems.stands("log", code) for code in ("log-damaged", "log-replaced"))
        if unread and not told:
            text = f"{unread[-1].lane.label} {unread[-1].lo}-{unread[-1].hi} could not be read for {unread[-1].uplink}"
            self._problems.report("log", Problem("log-damaged", text, "Look after the disk's health."))
        made = [gap for gap in made if gap.why in NO_ROOM]
        if made:
            self._undelivered_at_s = now_s
            hint = "Is the uplink down? Raise log.backlog or log.keep, or free disk space."
            text = f"{made[-1].lane.label} {made[-1].lo}-{made[-1].hi} went before {made[-1].uplink} had them"
            self._problems.report("log", Problem("log-full", f"{text}: {made[-1].why}", hint))
        elif now_s - self._undelivered_at_s > LOG_FULL_STANDS_S:
            self._problems.clear("log", "log-full")
        if self._log.disk_low:
            free, floor = (n >> 20 for n in (self._log.usage.free_bytes, self._log.limits.free_space_bytes))
            text = f"{free} MiB are free, {floor} MiB should be (log.free_space): the log reuses its oldest segments"
            self._problems.hold("log", Problem("disk-low", text, "Find out who fills the disk, and free space."))
        else:
            self._problems.clear("log", "disk-low")

    def _say_unkept(self) -> None:
        """Leave a trace of rounds that had to go before they were in the history files."""
        count = self._log.unkept_rounds - self._unkept_said
        if count:
            self._unkept_said += count
            self._tell("history-lost", "log", {"lane": Lane.ROUNDS.label, "n": count})
