"""The pipeline: the one road from channels to the log.

    pollers --put--> RoundQueue (four rounds a channel) --> pipeline task: latest, pack --> batch --commit--> log
    everyone else --submit(event)--> the same batch

A batch closes every `commit` seconds (the first one at once), at 1 MiB, or early for urgent events: those come from a
bucket (one per second, burst 20), because forced commits are what wears a flash card out; beyond it they ride with the
next commit, at most 250 ms later.
"""

from __future__ import annotations

import asyncio
import typing
from collections import deque
from collections.abc import Callable

from fluxedge.clock import Clock
from fluxedge.latest import Latest
from fluxedge.log import Batch, Log, LogFault
from fluxedge.model import Event, Flag, Round
from fluxedge.problems import ProblemBook

QUEUED_ROUNDS_PER_CHANNEL = 4
BATCH_BYTES = 1 << 20
HELD_BYTES = 8 << 20  # while commits fail, rounds are taken until this much waits; then pollers wait
URGENT_BURST = 20
URGENT_PER_S = 1.0
URGENT_WAIT_S = 0.25
RETRY_S = 1.0  # after a failed commit
HOUSEKEEPING_S = 60.0
CURSORS_S = 5.0  # acknowledged ranges are saved after this time even if nothing else commits


class RoundQueue:
    """Rounds on their way to the pipeline, bounded per channel: a chatty channel waits, its neighbours do not."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[str, Round]] = deque()
        self._waiting: dict[str, int] = {}
        self._room = asyncio.Event()
        self.filled = asyncio.Event()
        self.waited: dict[str, int] = {}  # channel -> how often its poller had to wait, for metrics

    async def put(self, channel: str, round_: Round) -> None:
        """Queue a round; wait while the channel has four in the queue."""
        if self._waiting.get(channel, 0) >= QUEUED_ROUNDS_PER_CHANNEL:
            self.waited[channel] = self.waited.get(channel, 0) + 1
            while self._waiting.get(channel, 0) >= QUEUED_ROUNDS_PER_CHANNEL:
                self._room.clear()
                await self._room.wait()
        self._waiting[channel] = self._waiting.get(channel, 0) + 1
        self._rounds.append((channel, round_))
        self.filled.set()

    def take(self) -> Round | None:
        """Return the oldest round, None when there is none."""
        if not self._rounds:
            self.filled.clear()
            return None
        channel, round_ = self._rounds.popleft()
        self._waiting[channel] -= 1
        if not self._room.is_set():
            self._room.set()
        return round_

    def __len__(self) -> int:
        return len(self._rounds)


class UrgentBucket:
    """Permit a burst of early commits, then one per second."""

    def __init__(self) -> None:
        self._tokens = float(URGENT_BURST)
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Tell whether a commit may be forced now."""
        self._tokens = min(float(URGENT_BURST), self._tokens + (now_s - self._at_s) * URGENT_PER_S)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Pipeline:
    """Take rounds and events in, keep `latest`, commit."""

    def __init__(self, log: Log, latest: Latest, clock: Clock, problems: ProblemBook, commit_s: float) -> None:
        self._log = log
        self._latest = latest
        self._clock = clock
        self._problems = problems
        self._commit_s = commit_s
        self.queue = RoundQueue()
        self._batch = Batch()
        self._waiters: list[asyncio.Future[None]] = []
        self._close_at_s = 0.0  # loop time at which the batch must close
        self._bucket = UrgentBucket()
        self._stopping = False
        self._announcing: set[int] = set()  # gaps whose events are on their way
        self.uplinks: Callable[[], list[str]] = list  # configured uplinks, whose undelivered records make gaps
        self.points_total = 0
        self.rounds_total = 0
        self.events_total = 0
        self.commit_failures_total = 0
        self.last_outcome_s = 0.0  # loop time of the last commit's outcome: the watchdog looks at it

    # --- doors --------------------------------------------------------------------------------------------------------

    async def put(self, channel: str, round_: Round) -> None:
        """Take a round from a channel; waits while the channel has four in the queue."""
        await self.queue.put(channel, round_)

    def submit(
        self,
        kind: str,
        item: str,
        data: dict[str, typing.Any] | None = None,
        *,
        urgent: bool = False,
        intent: tuple[str, bytes] | None = None,
        result: tuple[str, bytes] | None = None,
    ) -> asyncio.Future[None]:
        """Take an event, and with it the intent (key, request) or the result (key, answer) of a command.

        The future is done when it is durable; nobody needs to await it. `urgent` closes the batch early.
        """
        flags = 0 if self._clock.trusted() else int(Flag.CLOCK_UNSYNCED)
        event = Event(kind, item, self._clock.wall_ns(), self._clock.mono_ns(), data or {}, flags)
        self._log.add_event(self._batch, event)
        self.events_total += 1
        if intent is not None:
            self._batch.intents.append((intent[0], event.at_ns // 10**6, intent[1]))
        if result is not None:
            self._batch.results.append(result)
        loop = asyncio.get_running_loop()
        if urgent:
            early = loop.time() if self._bucket.take(loop.time()) else loop.time() + URGENT_WAIT_S
            self._close_at_s = min(self._close_at_s, early)
        durable: asyncio.Future[None] = loop.create_future()
        self._waiters.append(durable)
        self.queue.filled.set()
        return durable

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take, pack and commit until `stop`; the pipeline's one task."""
        loop = asyncio.get_running_loop()
        housekeeping_at_s = loop.time() + HOUSEKEEPING_S / 10
        cursors_at_s = loop.time() + CURSORS_S
        self._announce_gaps()
        while True:
            self._take_rounds()
            now_s = loop.time()
            if self._batch and (now_s >= self._close_at_s or self._batch.packed_bytes >= BATCH_BYTES or self._stopping):
                await self._commit()
                continue
            if now_s >= cursors_at_s:
                cursors_at_s = now_s + CURSORS_S
                await self._save_cursors()
            if now_s >= housekeeping_at_s:
                housekeeping_at_s = now_s + HOUSEKEEPING_S
                await self._housekeep()
                continue
            if self._stopping and not self._batch and not len(self.queue):
                return
            deadline_s = min(cursors_at_s, housekeeping_at_s, self._close_at_s if self._batch else now_s + 60)
            await self._wait_until(loop, deadline_s)

    def stop(self) -> None:
        """Commit what is there and let `run` return."""
        self._stopping = True
        self.queue.filled.set()

    async def _wait_until(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """Wait for input or the deadline, whichever is first."""
        handle = loop.call_at(deadline_s, self.queue.filled.set)
        try:
            await self.queue.filled.wait()
        finally:
            handle.cancel()

    def _take_rounds(self) -> None:
        self.queue.filled.clear()
        while self._batch.packed_bytes < BATCH_BYTES and (round_ := self.queue.take()) is not None:
            self._latest.update(round_)
            self._log.add_round(self._batch, round_)
            self.rounds_total += 1
            self.points_total += len(round_.values)

    async def _commit(self) -> None:
        """Commit the batch; on failure keep it and try again, while rounds are still taken up to a bound."""
        loop = asyncio.get_running_loop()
        batch, self._batch = self._batch, Batch()
        waiters, self._waiters = self._waiters, []
        self._close_at_s = loop.time() + self._commit_s
        while True:
            try:
                await self._log.commit(batch)
            except LogFault as fault:
                self.commit_failures_total += 1
                self.last_outcome_s = loop.time()
                self._problems.report("log", fault)
                await self._housekeep()
                await asyncio.sleep(RETRY_S)
                continue
            break
        self.last_outcome_s = loop.time()
        self._problems.clear("log", "log-write-failed")
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _save_cursors(self) -> None:
        try:
            await self._log.save_cursors()
        except LogFault as fault:
            self._problems.report("log", fault)

    async def _housekeep(self) -> None:
        try:
            await self._log.housekeep(self.uplinks())
        except LogFault as fault:
            self._problems.report("log", fault)
            return
        self._announce_gaps()

    def _announce_gaps(self) -> None:
        """Submit an event for every gap that has none yet; it counts as announced when the event is durable."""
        for gap in self._log.unannounced:
            if gap.id not in self._announcing:
                self._announcing.add(gap.id)
                data = {
                    "uplink": gap.uplink,
                    "epoch": gap.epoch,
                    "lane": gap.lane.label,
                    "lo": gap.lo,
                    "hi": gap.hi,
                    "why": gap.why,
                }
                self.submit("gap", f"uplink:{gap.uplink}", data)
                self._batch.announced.append(gap.id)
