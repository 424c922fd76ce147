"""The pipeline: the one road from channels to the log.

    pollers --put--> RoundQueue (four rounds a channel) --> pipeline task: pack, latest --> open batch
    everyone else --submit(event)--> the open batch --closed--> writer (one commit at a time) --> futures, listeners

A batch closes every `commit` seconds (the first one at once), at 1 MiB, or early for urgent events: those come from a
bucket (one per second, burst 20), because forced commits are what wears a flash card out; beyond it they ride with the
next commit, intents of commands 250 ms at the latest.

Commits run beside the taking of rounds. While they are slow or fail, rounds are taken and `latest` is kept up to date
until HELD_BYTES wait for the disk; then pollers wait at their four rounds. Events go in up to HELD_EVENT_BYTES more;
beyond that they are dropped and counted, and an event "dropped" says how many as soon as the disk takes it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import typing
from collections import deque
from collections.abc import Callable

from fluxedge.clock import Clock
from fluxedge.housekeeping import Housekeeping
from fluxedge.intake import RoundQueue, UrgentBucket
from fluxedge.latest import Latest
from fluxedge.log import Batch, Log, LogFault, intents
from fluxedge.log.batch import ClockRow
from fluxedge.model import Event, Flag, Lane, Round
from fluxedge.problems import Problem, ProblemBook

TIMER_S = 0.001  # uvloop's timers and clock count whole milliseconds: what is due within one is due
CROWDED_S = 1.0  # a poller that waits this long to be rid of a round has a problem
BATCH_BYTES = 1 << 20
HELD_BYTES = 8 << 20  # packed; a minute of 60,000 points/s of 16-bit registers
HELD_EVENT_BYTES = 1 << 20
TURN_POINTS = 20_000  # packed before other tasks get their turn: about a millisecond
URGENT_WAIT_S = 0.25
RETRY_S = 1.0  # after a failed commit
IDLE_S = 60.0  # nothing is due; whatever comes wakes the task
CURSORS_S = 5.0  # acknowledged ranges are saved after this time even if nothing else commits


class _Open:
    """The batch that is being filled, and who waits for it."""

    def __init__(self) -> None:
        self.batch = Batch()
        self.waiters: list[asyncio.Future[None]] = []

    def answer(self, fault: LogFault | None) -> None:
        """Tell those who wait that their events are durable, or are not yet."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if fault is not None:
                _fail(waiter, fault)
            elif not waiter.done():
                waiter.set_result(None)


def _fail(waiter: asyncio.Future[None], fault: LogFault) -> None:
    if not waiter.done():
        waiter.set_exception(fault)
        waiter.exception()  # nobody needs to look


class Pipeline:
    """Take rounds and events in, keep `latest`, commit."""

    def __init__(self, log: Log, latest: Latest, clock: Clock, problems: ProblemBook, commit_s: float) -> None:
        self._log = log
        self._latest = latest
        self._clock = clock
        self._problems = problems
        self._commit_s = commit_s
        self.queue = RoundQueue()
        self._open = _Open()
        self._closed: deque[_Open] = deque()  # oldest first; the first one is with the writer or will be tried again
        self._commit: asyncio.Future[None] | None = None
        self._retry_at_s = 0.0  # loop time before which no commit is tried
        self._held_bytes = 0  # packed, in closed batches
        self._close_at_s = 0.0  # loop time at which the open batch closes
        self._bucket = UrgentBucket()
        self._stopping = False
        self._ended = False
        self._announcing: set[int] = set()  # gaps whose events are on their way
        self._crowded: set[str] = set()  # channels whose pollers had to wait for long
        self._unfit: set[str] = set()  # items whose rounds could not be stored as they were
        self._dropped_unsaid = 0
        self._cursors_saved_s = 0.0  # loop time
        self._defect: BaseException | None = None  # what a commit raised besides LogFault
        self.uplinks: Callable[[], list[str]] = list  # configured uplinks, whose undelivered records make gaps
        self._house = Housekeeping(
            log, problems, lambda: self.uplinks(), self._announce_gaps, lambda *event: self.submit(*event)
        )
        self.points_total = 0
        self.rounds_total = 0
        self.events_total = 0
        self.dropped_events_total = 0  # because nothing could be committed for too long
        self.dropped_rounds_total = 0  # because they could not be packed: a protocol's defect
        self.commit_failures_total = 0
        self.last_outcome_s = 0.0  # loop time of the writer's last outcome: the watchdog looks at it

    # --- doors --------------------------------------------------------------------------------------------------------

    async def put(self, channel: str, round_: Round) -> None:
        """Take a round from a channel; waits while the channel has four in the queue."""
        if not self.queue.full(channel):
            if channel in self._crowded:
                self._crowded.discard(channel)
                self._problems.clear(f"channel:{channel}", "queue-full")
            await self.queue.put(channel, round_)
            return
        alarm = asyncio.get_running_loop().call_later(CROWDED_S, self._complain, channel)
        try:
            await self.queue.put(channel, round_)
        finally:
            alarm.cancel()

    def _complain(self, channel: str) -> None:
        self._crowded.add(channel)
        hint = "Is the disk too slow, or the processor overloaded? Longer periods (every) help."
        self._problems.report(f"channel:{channel}", Problem("queue-full", "its rounds wait to be stored", hint))

    def submit(
        self,
        kind: str,
        item: str,
        data: dict[str, typing.Any] | None = None,
        *,
        urgent: bool = False,
        intent: tuple[str, bytes] | None = None,
        result: tuple[str, bytes] | None = None,
        clock: ClockRow | None = None,
    ) -> asyncio.Future[None]:
        """Take an event, and with it a clock row, or a command's intent (key, request) or result (key, answer).

        The future is done when it is durable; nobody needs to await it. It fails with LogFault as soon as a commit
        fails or cannot be tried: the event is kept and tried again (unless it was dropped), but whoever needs it on
        the disk before he goes on must not go on. `urgent` closes the batch early.
        """
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()
        full = self._held_bytes + self._open.batch.packed_bytes > HELD_BYTES + HELD_EVENT_BYTES
        if self._ended or full:
            self.dropped_events_total += 1
            self._dropped_unsaid += 1
            reason = "the gateway is stopping" if self._ended else "nothing could be written for too long"
            _fail(durable, LogFault("log-write-failed", f"an event was dropped: {reason}"))
            return durable
        flags = 0 if self._clock.trusted() else int(Flag.CLOCK_UNSYNCED)
        event = Event(kind, item, self._clock.wall_ns(), self._clock.mono_ns(), data or {}, flags)
        self._log.add_event(self._open.batch, event)
        self.events_total += 1
        if intent is not None:
            at_ms = intents.stamp_ms(self._log.trusted_ms(), event.mono_ns // 10**6)
            self._open.batch.intents.append((intent[0], at_ms, intent[1]))
        if result is not None:
            self._open.batch.results.append(result)
        if clock is not None:
            self._open.batch.clock.append(clock)
        if urgent:
            self._hurry(loop.time(), intent is not None)
        self._open.waiters.append(durable)
        self.queue.filled.set()
        return durable

    def _hurry(self, now_s: float, intent: bool) -> None:
        """Close the open batch early: at once if the bucket permits it, within 250 ms for an intent."""
        if self._close_at_s <= now_s:
            return  # it closes at once anyway
        if self._bucket.take(now_s):
            self._close_at_s = now_s
        elif intent:
            self._close_at_s = min(self._close_at_s, now_s + URGENT_WAIT_S)

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take, pack and commit until `stop`; housekeeping runs beside it, because it waits for the disk."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._house.run(), name="housekeeping")
                await self._take_and_commit()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            self._end()

    async def _take_and_commit(self) -> None:
        loop = asyncio.get_running_loop()
        self.last_outcome_s = self._cursors_saved_s = loop.time()
        self._announce_gaps()
        while True:
            self.queue.filled.clear()
            more = self._take_rounds()
            self._advance_commit(loop.time())
            if more:
                await asyncio.sleep(0)
            elif self._stopping and not self._open.batch and not self._closed and not len(self.queue):
                return
            else:
                await self._wait_until(loop, self._next_commit_s())

    def stop(self) -> None:
        """Commit what is there and let `run` return; while commits fail it goes on trying until it is cancelled."""
        self._stopping = True
        self.queue.filled.set()
        self._house.stop()

    def _end(self) -> None:
        self._ended = True
        fault = LogFault("log-write-failed", "the gateway stopped before the event was written")
        for held in (*self._closed, self._open):
            held.answer(fault)

    async def _wait_until(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """Wait for input, the end of a commit or the deadline, whichever is first."""
        handle = loop.call_at(deadline_s, self.queue.filled.set)
        try:
            await self.queue.filled.wait()
        finally:
            handle.cancel()

    def _take_rounds(self) -> bool:
        """Pack rounds; tell whether there are more that may be packed now."""
        points = 0
        while self._held_bytes + self._open.batch.packed_bytes < HELD_BYTES:
            if points >= TURN_POINTS:
                return True
            round_ = self.queue.take()
            if round_ is None:
                return False
            points += len(round_.values)
            self._take(round_)
            if self._open.batch.packed_bytes >= BATCH_BYTES:
                self._close_batch(asyncio.get_running_loop().time())
        return False

    def _take(self, round_: Round) -> None:
        try:
            self._log.add_round(self._open.batch, round_)
        except ValueError as exc:
            repaired = self._repair(round_, exc)
            if repaired is None:
                return
            round_ = repaired
        else:
            if self._unfit and (item := _item(round_)) in self._unfit:
                self._unfit.discard(item)
                self._problems.clear(item)
        self._latest.update(round_)
        if not self.rounds_total:  # the events of the start have taken "the first one at once"
            self._close_at_s = 0.0
        self.rounds_total += 1
        self.points_total += len(round_.values)

    def _repair(self, round_: Round, cause: ValueError) -> Round | None:
        """Store a round whose raws do not fit their wire types with those BAD; None when that fails too."""
        item = _item(round_)
        self._unfit.add(item)
        self._problems.report(item, Problem("bad-value", str(cause), "The protocol delivered it; please report it."))
        group = round_.group
        raws, quality = group.codec.without_unfit(round_.raws, round_.quality)
        repaired = dataclasses.replace(round_, raws=raws, quality=quality, values=group.codec.values(raws, quality))
        try:
            self._log.add_round(self._open.batch, repaired)
        except ValueError:
            self.dropped_rounds_total += 1
            return None
        return repaired

    # --- commits ------------------------------------------------------------------------------------------------------

    def _advance_commit(self, now_s: float) -> None:
        """Close the open batch when it is due, and hand the oldest closed one to the writer."""
        if self._defect is not None:
            raise self._defect
        if not self._closed and self._due(now_s):
            self._close_batch(now_s)
        if self._closed and self._commit is None and now_s >= self._retry_at_s:
            batch = self._closed[0].batch
            # Cursors ride with records; alone they go out no more often than records would.
            cursors = bool(batch) or now_s - self._cursors_saved_s >= max(CURSORS_S, self._commit_s)
            if cursors:
                self._cursors_saved_s = now_s
            self._commit = self._log.begin_commit(batch, cursors=cursors)
            self._commit.add_done_callback(self._committed)

    def _due(self, now_s: float) -> bool:
        """Tell whether the open batch must close; an empty one does so to save cursors and to hear from the writer."""
        if not self._open.batch:
            return not self._stopping and now_s + TIMER_S >= self.last_outcome_s + CURSORS_S
        return now_s + TIMER_S >= self._close_at_s or self._stopping or self._open.batch.packed_bytes >= BATCH_BYTES

    def _next_commit_s(self) -> float:
        """Return the loop time at which `_advance_commit` has something to do; the end of a commit wakes us too."""
        if self._commit is not None:
            return asyncio.get_running_loop().time() + IDLE_S
        if self._closed:
            return self._retry_at_s
        return self._close_at_s if self._open.batch else self.last_outcome_s + CURSORS_S

    def _close_batch(self, now_s: float) -> None:
        self._close_at_s = now_s + self._commit_s if self._open.batch else self._close_at_s
        self._held_bytes += self._open.batch.packed_bytes
        self._closed.append(self._open)
        self._open = _Open()

    def _committed(self, commit: asyncio.Future[None]) -> None:
        """Take the writer's outcome: answer who waits, or keep the batch and try again."""
        self._commit = None
        self.queue.filled.set()
        self.last_outcome_s = asyncio.get_running_loop().time()
        error = commit.exception()
        if isinstance(error, LogFault):
            self.commit_failures_total += 1
            self._retry_at_s = self.last_outcome_s + RETRY_S
            self._house.wake()  # perhaps something can be dropped
            for held in (*self._closed, self._open):
                held.answer(error)
            self._problems.report("log", error)
            return
        if error is not None:
            self._defect = error
            return
        if self._log.rotated:
            self._house.wake()  # the cap holds from segment to segment
        done = self._closed.popleft()
        self._held_bytes -= done.batch.packed_bytes
        done.answer(None)
        self._announcing -= {gap_id for gap_id, _ in done.batch.announced}
        self._problems.clear("log", "log-write-failed")
        self._say_dropped()
        self._announce_gaps()

    def _say_dropped(self) -> None:
        """Leave a trace of events that had to be dropped, now that the disk takes events again."""
        count, self._dropped_unsaid = self._dropped_unsaid, 0
        if count:
            self.submit("dropped", "log", {"lane": Lane.EVENTS.label, "n": count})

    # --- gaps ---------------------------------------------------------------------------------------------------------

    def _announce_gaps(self) -> None:
        """Submit an event for every gap that has none yet; it counts as announced when the event is durable."""
        for gap in self._log.unannounced:
            if gap.id in self._announcing or self._ended:
                continue
            data = {
                "uplink": gap.uplink, "epoch": gap.epoch, "lane": gap.lane.label, "lo": gap.lo, "hi": gap.hi,
                "why": gap.why,
            }  # fmt: skip
            before = self.events_total
            self.submit("gap", f"uplink:{gap.uplink}", data)
            if self.events_total > before:  # else there was no room; the next commit tries again
                self._announcing.add(gap.id)
                self._open.batch.announced.append((gap.id, len(self._open.batch.parts[Lane.EVENTS]) - 1))


def _item(round_: Round) -> str:
    """Return the problem item of a round's group; not its device's, which the poller clears at the next answer."""
    return f"device:{round_.group.device}/{round_.group.name}"
