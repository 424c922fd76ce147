"""The forward loop: one cursor of the log, one uplink; back-off, window, order and settling live here.

    log.read (reader thread: decode, encode) --> messages --> uplink.send --> PUBACK --> cursors.settle

First publications go in seq order per lane and session. A connection that dies gives back what it did not acknowledge:
the next one starts at the lowest seq that is still to do. An uplink that raises anything but a LinkProblem has a bug:
it costs the uplink a session, not the daemon its life.
"""

from __future__ import annotations

import asyncio
import logging
import random
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from fluxedge.clock import Clock
from fluxedge.log import Log
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem, Problem, ProblemBook, Refused
from fluxedge.spi import Message, Uplink
from fluxedge.uplinks.messages import Cut, Cutter, Size

_log = logging.getLogger(__name__)

READ_BYTES = 256 << 10  # stored bodies a read: a batch of a second at 100,000 points/s
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0
STABLE_S = 60.0  # a session that ran this long resets the back-off and the window
PROVEN_S = 5.0  # a session that ran this long without a word of refusal works, even if there was nothing to send
DRAIN_S = 3.0  # when the uplink stops, what is under way may still be acknowledged

# What a session that works has disproved. Others stand: a record in quarantine is there, whether or not we connect.
_DISPROVED = (
    "uplink-down", "uplink-refused", "uplink-tls", "uplink-clash", "log-damaged", "bug",
)  # fmt: skip
_ACKNOWLEDGED = ("uplink-throttled", "uplink-silent")  # what nothing but an acknowledgement disproves


@dataclass(slots=True)
class ForwardCounters:
    """What metrics and `status` show of an uplink."""

    messages: int = 0
    records: int = 0
    points: int = 0
    payload_bytes: int = 0
    sessions: int = 0
    refused: int = 0
    last_ack_ns: int = 0
    ack_latency_ns: int = 0  # of the latest message: oldest record's stamp to PUBACK


class OpenUplink(Uplink, typing.Protocol):
    """What the loop needs beyond spi.Uplink."""

    condition: Callable[[str, Problem | None], None]
    """Set by the loop before `open`: told a problem, or None when it is over, that does not end the session."""

    async def room(self) -> None: ...
    @property
    def maximum_message_bytes(self) -> int: ...


Tell = Callable[[str, str, dict[str, typing.Any]], object]  # (event kind, item, data)
Connect = Callable[[int, bool], OpenUplink]
"""(number, older version wanted) -> an uplink that is not open yet.

`number` modulo the count of brokers chooses one: it grows by one with every attempt that failed.
"""


class Backoff:
    """Decorrelated jitter: pause = min(most, random(first, 3 x the pause before))."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Return how long to pause now."""
        self._last_s = min(BACKOFF_MOST_S, self._rng.uniform(BACKOFF_FIRST_S, self._last_s * 3))
        return self._last_s

    def longest_s(self) -> float:
        """Return the longest pause, and go on from there."""
        self._last_s = BACKOFF_MOST_S
        return self._last_s

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._last_s = BACKOFF_FIRST_S


class Forwarder:
    """Carry one uplink's records to its peer."""

    def __init__(
        self,
        uplink_id: str,
        gateway: str,
        form: str,
        message_bytes: int,
        lanes: list[Lane],
        connect: Connect,
        log: Log,
        problems: ProblemBook,
        clock: Clock,
        rng: random.Random,
        *,
        brokers: int = 1,
        tell: Tell = lambda kind, item, data: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.id = uplink_id
        self._item = f"uplink:{uplink_id}"
        self._message_bytes = message_bytes
        self._lanes = sorted(lanes, reverse=True)  # events first
        self._connect = connect
        self._brokers = brokers
        self._tell = tell
        self._log, self._problems = log, problems
        self._clock, self._sleep = clock, sleep
        self._backoff = Backoff(rng)
        self._news = asyncio.Event()
        self._attempts = 0  # failed ones: chooses the broker
        self._old: set[int] = set()  # brokers that speak the older version only
        self._window_most = 0  # 0 = what the broker permits
        self._target_bytes = message_bytes
        self._most_bytes = 0  # a broker that names no limit showed one
        # of the present session
        self._cutters = {lane: Cutter(gateway, form) for lane in self._lanes}
        self._begun: dict[Lane, int] = {}  # epoch of a read that has more messages
        self._positions: dict[tuple[int, Lane], int] = {}  # next seq to send
        self._unsettled: dict[asyncio.Future[None], Message] = {}
        self._fault: LinkProblem | None = None
        self._worked = False
        self._opened_s = 0.0
        self.uplink: OpenUplink | None = None
        self.connected_since_ns = 0
        self.counters = ForwardCounters()

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, forward, and connect again; the uplink's one task. Ends by cancellation only."""
        self._log.listeners.append(self._news.set)
        try:
            while True:
                problem = await self._attempt()
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # an uplink's bug in `close` hid the cancellation
                    raise asyncio.CancelledError
                pause_s = self._follow(problem)
                if pause_s:
                    await self._sleep(pause_s)
        finally:
            self._log.listeners.remove(self._news.set)

    async def _attempt(self) -> LinkProblem:
        """Run one session; return why it ended."""
        self._worked, self._opened_s = False, 0.0
        try:
            await self._session(self._connect(self._attempts, self._broker in self._old))
        except LinkProblem as problem:
            found = problem
        except Exception as defect:  # one uplink's bug must not end the daemon
            if not self._problems.stands(self._item, "bug"):
                _log.exception("uplink %s", self.id)
            found = LinkProblem("bug", repr(defect))
        self._problems.report(self._item, found)
        return found

    @property
    def _broker(self) -> int:
        return self._attempts % self._brokers

    def _follow(self, problem: LinkProblem) -> float:
        """Do what the end of a session demands; return how long to pause, 0 = not at all."""
        unsettled, self._unsettled = list(self._unsettled.values()), {}
        if problem.advice == "older-version" and self._broker not in self._old:
            self._old.add(self._broker)
            return 0.0
        if self._opened_s and asyncio.get_running_loop().time() - self._opened_s >= STABLE_S:
            self._backoff.reset()
            self._window_most = 0
        if problem.advice == "smaller-window":
            self._window_most = max(1, len(unsettled) // 2)
        elif problem.advice == "smaller-messages" and unsettled:
            self._shrink(max(unsettled, key=lambda message: len(message.payload)))
        if not self._worked:
            self._attempts += 1
        return self._backoff.longest_s() if problem.advice == "longer-pause" else self._backoff.next_s()

    def _shrink(self, largest: Message) -> None:
        """Make messages smaller than this one, which the broker did not take."""
        if largest.hi > largest.lo:
            self._target_bytes = max(1, min(self._target_bytes, len(largest.payload)) // 2)
        else:
            self._most_bytes = len(largest.payload) - 1  # a single record: it can never go

    async def _session(self, uplink: OpenUplink) -> None:
        """Open an uplink and forward until it closes.

        Raises:
            LinkProblem: why it closed.
        """
        loop = asyncio.get_running_loop()
        uplink.condition = self._condition
        proof: asyncio.TimerHandle | None = None
        try:
            await uplink.open()
            proof = loop.call_later(PROVEN_S, self._last)
            self._begin(uplink, loop.time())
            async with asyncio.TaskGroup() as group:
                group.create_task(_until_closed(uplink), name=f"{self._item}:closed")
                # In the body: a group that is only waited for counts its own cancellation as ours (Python 3.11.7).
                await self._send_all(uplink)
        except BaseExceptionGroup as failures:
            raise _first_problem(failures) from failures
        except asyncio.CancelledError:
            if self._unsettled:
                await asyncio.wait(list(self._unsettled), timeout=DRAIN_S)
            raise
        finally:
            if proof is not None:
                proof.cancel()
            if self.uplink is not None:
                self._tell("uplink-state", self._item, {"state": "disconnected"})
            self.uplink = None
            self.connected_since_ns = 0
            await uplink.close()

    def _begin(self, uplink: OpenUplink, now_s: float) -> None:
        self.uplink = uplink
        self._tell("uplink-state", self._item, {"state": "connected"})
        self._opened_s = now_s
        self.connected_since_ns = self._clock.wall_ns()
        self.counters.sessions += 1
        if self._window_most:
            uplink.window = min(uplink.window, self._window_most)
        self._begun.clear()
        self._positions.clear()
        self._unsettled.clear()
        self._fault = None

    def _last(self) -> None:
        """Note that a session has lasted; one whose messages wait for their acknowledgements has not worked yet."""
        if self._unsettled:
            self._problems.clear(self._item, *_DISPROVED)
        else:
            self._prove()

    def _prove(self) -> None:
        """Note that this session works: what kept earlier ones from it is over."""
        if not self._worked:
            self._worked = True
            self._problems.clear(self._item, *_DISPROVED)

    def _condition(self, code: str, problem: Problem | None) -> None:
        if problem is None:
            self._problems.clear(self._item, code)
        else:
            self._problems.report(self._item, problem)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _send_all(self, uplink: OpenUplink) -> None:
        """Send until the connection closes or the peer refuses to take more."""
        while True:
            self._news.clear()
            sent = False
            for lane in self._lanes:
                for message in await self._next_messages(lane, uplink):
                    await uplink.room()
                    if self._fault is not None:
                        raise self._fault
                    future = uplink.send(message)
                    self._unsettled[future] = message
                    future.add_done_callback(partial(self._settle, uplink, message))
                    sent = True
            if self._fault is not None:
                raise self._fault
            if not sent:
                await self._news.wait()

    async def _next_messages(self, lane: Lane, uplink: OpenUplink) -> list[Message]:
        """Return the next few messages of a lane; an empty list when everything is under way."""
        while True:
            cutter = self._cutters[lane]
            if lane in self._begun:
                epoch = self._begun[lane]
                # Beyond the head there is nothing to read: the next messages of what was read are made on that thread.
                cut = await self._log.read(epoch, lane, OPEN_END, 0, cutter.next)
            else:
                found = self._stretch(lane)
                if found is None:
                    return []
                epoch, lo, hi = found
                start = partial(cutter.start, lo=lo, hi=hi, size=self._size(uplink))
                cut = await self._log.read(epoch, lane, lo, READ_BYTES, start)
                if not cut.end:  # dropped by retention in the meantime, which makes a gap of it
                    return []
            self._take(epoch, lane, cut)
            if cut.messages:
                return cut.messages

    def _size(self, uplink: OpenUplink) -> Size:
        limits = [limit for limit in (uplink.maximum_message_bytes, self._most_bytes) if limit]
        most = min(limits, default=0)
        return Size(min([self._target_bytes, *limits]), most)

    def _stretch(self, lane: Lane) -> tuple[int, int, int] | None:
        """Return (epoch, lo, hi) of what comes next; give up what the log has not any more."""
        for epoch, ranges in self._log.cursors.of(self.id, lane):
            head = self._log.heads[lane] if epoch == self._log.epoch else None
            while (stretch := ranges.first_from(self._positions.get((epoch, lane), 1))) is not None:
                lo, hi = stretch[0], stretch[1] if head is None else min(stretch[1], head)
                if lo > hi:
                    break
                held = [s.first for s in self._log.segments() if s.epoch == epoch and s.lane is lane and s.last >= lo]
                if held and min(held) <= lo:
                    return epoch, lo, hi
                self._log.lose(self.id, epoch, lane, lo, min(hi, min(held) - 1) if held else hi)
        return None

    def _take(self, epoch: int, lane: Lane, cut: Cut) -> None:
        """Note how far a lane was read, and what of it cannot be sent."""
        if cut.more:
            self._begun[lane] = epoch
        else:
            self._begun.pop(lane, None)
        if cut.end:
            self._positions[(epoch, lane)] = cut.end + 1
        for lo, hi in cut.damaged:
            self._log.lose(self.id, epoch, lane, lo, hi)
        for message in cut.too_large:
            self._quarantine(message, f"{len(message.payload)} bytes are more than the peer takes in one message")
            self._log.cursors.settle(self.id, message.epoch, message.lane, message.lo, message.hi)

    # --- settling -----------------------------------------------------------------------------------------------------

    def _settle(self, uplink: OpenUplink, message: Message, sent: asyncio.Future[None]) -> None:
        """Let the cursor pass a message: the peer acknowledged it, or will never take it."""
        if sent.cancelled():
            self._fail(uplink, LinkProblem("bug", "an uplink cancelled a message"))
            return
        error = sent.exception()
        if isinstance(error, LinkProblem):
            self._fail(uplink, error)  # the message stays in `_unsettled`: `_follow` looks at it
            return
        if error is not None and not isinstance(error, Refused):
            self._fail(uplink, LinkProblem("bug", repr(error)))
            return
        self._unsettled.pop(sent, None)
        if error is None:
            self._prove()
            self._problems.clear(self._item, *_ACKNOWLEDGED)
            self._count(message)
        else:
            self._quarantine(message, next(iter(error.reasons.values()), "refused"))
        self._log.cursors.settle(self.id, message.epoch, message.lane, message.lo, message.hi)

    def _fail(self, uplink: OpenUplink, problem: LinkProblem) -> None:
        """End the session: the peer takes nothing more for now."""
        if self._fault is None and self.uplink is uplink:
            self._fault = problem
            self._news.set()

    def _quarantine(self, message: Message, reason: str) -> None:
        self.counters.refused += message.hi - message.lo + 1
        text = f"{message.lane.label} {message.lo}-{message.hi} of epoch {message.epoch}: {reason}"
        self._problems.report(self._item, Problem("record-refused", text, "They are kept in the log's quarantine."))
        self._log.quarantine(self.id, message, reason)

    def _count(self, message: Message) -> None:
        counters = self.counters
        counters.messages += 1
        counters.records += message.hi - message.lo + 1
        counters.points += message.points
        counters.payload_bytes += len(message.payload)
        counters.last_ack_ns = self._clock.wall_ns()
        counters.ack_latency_ns = counters.last_ack_ns - message.oldest_ns


async def _until_closed(uplink: OpenUplink) -> None:
    await uplink.wait_closed()
    raise LinkProblem("uplink-down", "the connection was closed")


def _first_problem(group: BaseExceptionGroup) -> BaseException:
    """Return the LinkProblem of a task group's failure; only a defect where there is one."""
    inner: BaseException = group.split(LinkProblem)[1] or group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
