"""The forward loop: one cursor of the log, one uplink; sessions, back-off and what their ends mean live here.

    log.read (reader thread: decode, encode) --> messages --> uplink.send --> PUBACK --> cursors.settle
    \\____________________ delivery.py: one session ____________________________________________/

First publications go in seq order per lane, stream and session. A connection that dies gives back what it did not
acknowledge: the next one begins again with it. An uplink that raises anything but a LinkProblem has a bug: it costs the
uplink a session, not the daemon its life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import typing
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from fluxedge.clock import Clock
from fluxedge.log import Log, quarantine
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Problem, ProblemBook
from fluxedge.spi import Message
from fluxedge.uplinks.backoff import Backoff
from fluxedge.uplinks.budget import Budget
from fluxedge.uplinks.counters import CommitTimes, ForwardCounters
from fluxedge.uplinks.delivery import Delivery, Limits, OpenUplink, Sent, Terms
from fluxedge.uplinks.poison import State, Suspicion
from fluxedge.uplinks.retry import Retries

_log = logging.getLogger(__name__)

STABLE_S = 60.0  # a session that ran this long resets the back-off and the window
PROVEN_S = 5.0  # a session that ran this long without a word of refusal works, even if there was nothing to send
DRAIN_S = 3.0  # when the uplink stops, what is under way may still be acknowledged

# What a session that works has disproved. Others stand: a record in quarantine is there, whether or not we connect.
_DISPROVED = (
    "uplink-down", "uplink-refused", "uplink-tls", "uplink-clash", "log-damaged", "bug",
)  # fmt: skip
_ACKNOWLEDGED = ("uplink-throttled", "uplink-silent")  # what nothing but an acknowledgement disproves

Tell = Callable[[str, str, dict[str, typing.Any]], object]  # (event kind, item, data)
Connect = Callable[[int, bool], OpenUplink]
"""(number, older version wanted) -> an uplink that is not open yet.

`number` modulo the count of brokers chooses one: it grows by one with every attempt that failed.
"""


class Forwarder:
    """Carry one uplink's records to its peer."""

    def __init__(
        self,
        terms: Terms,
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
        self.id = terms.uplink
        self._terms = terms
        self._item = f"uplink:{terms.uplink}"
        self._connect = connect
        self._brokers = brokers
        self._tell = tell
        self._log, self._problems = log, problems
        self._clock, self._sleep = clock, sleep
        self._backoff = Backoff(rng)
        self._budget = Budget(terms.backlog_rate_bytes, adaptive=not terms.strict)
        self._suspicion = Suspicion()
        self._retries = Retries(log, terms.uplink, clock, self.rows_gone)
        self._commits = CommitTimes()
        self._attempts = 0  # failed ones: chooses the broker
        self._old: set[int] = set()  # brokers that speak the older version only
        self._window_most = 0  # 0 = what the broker permits
        self._target_bytes = terms.message_bytes
        self._most_bytes = 0  # a broker that names no limit showed one
        self._named_bytes = 0  # the limit that the broker named last
        # of the present session
        self._delivery: Delivery | None = None
        self._worked = False
        self._opened_s = 0.0
        self.uplink: OpenUplink | None = None
        self.connected_since_ns = 0  # CLOCK_BOOTTIME; 0 = not connected
        self.down_since_ns = clock.mono_ns()  # CLOCK_BOOTTIME; 0 = connected
        self.counters = ForwardCounters()

    @property
    def live_from(self) -> tuple[int, Mapping[Lane, int]] | None:
        """Return (epoch, first seq of each lane) of the session's live streams; None while there is no session."""
        start = self._delivery.start if self._delivery is not None and self.uplink is not None else None
        return (start.epoch, start.first) if start is not None else None

    def _now_s(self) -> float:
        return self._clock.mono_ns() / 1e9

    def retry_quarantine(self) -> None:
        """Look for rows of the quarantine that were marked to be sent once more."""
        self._retries.look_again()
        if self._delivery is not None:
            self._delivery.wake()

    async def rows_gone(self) -> None:
        """Clear `record-refused` if nothing is in quarantine any more: all was delivered or dropped."""
        refused, memory = self.counters.refused, self._log.memory  # memory has not all rows, and is not looked at
        if memory is not None or any(row[0] == self.id for row in self._log.aside):
            return
        with contextlib.suppress(LinkProblem):  # the log cannot be read; that stands
            rows = await self._log.look(partial(quarantine.page, uplink=self.id, limit=1))
            if not rows and refused == self.counters.refused:
                self._problems.clear(self._item, "record-refused")

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, forward, and connect again; the uplink's one task. Ends by cancellation only."""
        self._log.listeners.append(self._committed)
        try:
            while True:
                problem = await self._attempt()
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # an uplink's bug in `close` hid the cancellation
                    raise asyncio.CancelledError
                if (damaged := await self._guarded(partial(self._suspect, problem))) is not None:
                    self._problems.report(self._item, damaged)  # what was to be set aside stays to be sent
                pause_s = self._follow(problem)
                if pause_s:
                    await self._sleep(pause_s)
        finally:
            self._log.listeners.remove(self._committed)

    def _committed(self) -> None:
        self._commits.committed(self._log.epoch, self._log.heads, self._now_s())
        if self._delivery is not None:
            self._delivery.wake()

    async def _attempt(self) -> LinkProblem:
        """Run one session; return why it ended."""
        self._worked, self._opened_s, self._delivery = False, 0.0, None
        found = await self._guarded(self._session) or LinkProblem("uplink-down", "the connection was closed")
        self._problems.report(self._item, found)
        return found

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> LinkProblem | None:
        """Do something; return what it raised."""
        try:
            await work()
        except LinkProblem as problem:
            return problem
        except Exception as defect:  # one uplink's bug must not end the daemon
            if not self._problems.stands(self._item, "bug"):
                _log.exception("uplink %s", self.id)
            return LinkProblem("bug", repr(defect))
        return None

    @property
    def _broker(self) -> int:
        return self._attempts % self._brokers

    async def _suspect(self, problem: LinkProblem) -> None:
        """Note a death that what was under way may have caused; set aside what is guilty of it (see poison.py)."""
        delivery = self._delivery
        self._retries.session_ended()
        if delivery is None or problem.advice != "suspect-records":
            return
        guilty = self._suspicion.died([sent.piece for sent in delivery.under_way.values()])
        if self._suspicion.state is not State.FREE or guilty is not None:
            self._backoff.reset()  # a few short pauses in a row, as many as poison.py says at most
        if guilty is not None:
            await delivery.set_aside(guilty)

    def _follow(self, problem: LinkProblem) -> float:
        """Do what the end of a session demands; return how long to pause, 0 = not at all."""
        delivery, self._delivery = self._delivery, None
        unsettled = list(delivery.under_way.values()) if delivery is not None else []
        if problem.advice == "older-version" and self._broker not in self._old:
            self._old.add(self._broker)
            return 0.0
        now_s = asyncio.get_running_loop().time()
        if self._opened_s and now_s - self._opened_s >= STABLE_S:
            self._backoff.reset()
            self._window_most = 0
            if problem.advice != "smaller-messages":  # a limit that was found out may have been raised meanwhile
                self._target_bytes, self._most_bytes = self._terms.message_bytes, 0
        if problem.code == "uplink-throttled":
            self._budget.throttled(self._now_s())
        if problem.advice == "smaller-window":
            self._window_most = max(1, len(unsettled) // 2)
        elif problem.advice == "smaller-messages" and unsettled:
            self._shrink(max(unsettled, key=lambda sent: len(sent.message.payload)))
        if not self._worked:
            self._attempts += 1
        return self._backoff.longest_s() if problem.advice == "longer-pause" else self._backoff.next_s()

    def _shrink(self, largest: Sent) -> None:
        """Make messages smaller than this one, which the broker did not take."""
        message = largest.message
        if largest.row:  # it goes as it was, or not at all
            self._retries.settled(largest.row, "the peer found it too large")
            self._most_bytes = len(message.payload) - 1  # a hundred such rows must not cost a hundred connections
        elif message.hi > message.lo:
            self._target_bytes = max(1, min(self._target_bytes, len(message.payload)) // 2)
        else:
            self._most_bytes = len(message.payload) - 1  # a single record: it can never go

    async def _session(self) -> None:
        """Open an uplink and forward until it closes.

        Raises:
            LinkProblem: why it closed.
        """
        loop = asyncio.get_running_loop()
        uplink = self._connect(self._attempts, self._broker in self._old)
        uplink.condition = self._condition
        proof: asyncio.TimerHandle | None = None
        try:
            await uplink.open()
            proof = loop.call_later(PROVEN_S, self._last)
            delivery = self._begin(uplink, loop.time())
            async with asyncio.TaskGroup() as group:
                group.create_task(_until_closed(uplink), name=f"{self._item}:closed")
                # In the body: a group that is only waited for counts its own cancellation as ours (Python 3.11.7).
                await delivery.run()
        except BaseExceptionGroup as failures:
            raise _first_problem(failures) from failures
        except asyncio.CancelledError:
            if self._delivery is not None and self._delivery.under_way:
                await asyncio.wait(list(self._delivery.under_way), timeout=DRAIN_S)
            raise
        finally:
            if proof is not None:
                proof.cancel()
            if self.uplink is not None:
                self._tell("uplink-state", self._item, {"state": "disconnected"})
                self.down_since_ns = self._clock.mono_ns()
            self.uplink = None
            self.connected_since_ns = self.counters.budget_bytes = 0
            await uplink.close()

    def _begin(self, uplink: OpenUplink, now_s: float) -> Delivery:
        self.uplink = uplink
        self._tell("uplink-state", self._item, {"state": "connected"})
        self._opened_s = now_s
        self.connected_since_ns, self.down_since_ns = self._clock.mono_ns(), 0
        self.counters.sessions += 1
        if self._window_most:
            uplink.window = min(uplink.window, self._window_most)
        if uplink.maximum_message_bytes != self._named_bytes:  # another limit than the one under which it was found out
            self._named_bytes = uplink.maximum_message_bytes
            self._target_bytes, self._most_bytes = self._terms.message_bytes, 0
        limits = Limits(self._target_bytes, self._most_bytes)
        self._delivery = Delivery(
            uplink, self._log, self._terms, limits, self._budget, self._suspicion, self._retries, self, self._now_s
        )
        return self._delivery

    def _last(self) -> None:
        """Note that a session has lasted; one whose messages wait for their acknowledgements has not worked yet."""
        if self._delivery is not None and self._delivery.under_way:
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

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def acknowledged(self, sent: Sent) -> None:
        """Count a message that the peer has; called by the session."""
        self._prove()
        self._problems.clear(self._item, *_ACKNOWLEDGED)
        message, counters, now_ns = sent.message, self.counters, self._clock.wall_ns()
        counters.messages += 1
        counters.records += message.hi - message.lo + 1
        counters.points += message.points
        counters.payload_bytes += len(message.payload)
        counters.last_ack_ns = self._clock.mono_ns()
        if message.oldest_ns:
            counters.ack_latency_ns = now_ns - message.oldest_ns
        stream = counters.stream(message.historical)
        stream.messages += 1
        stream.records += message.hi - message.lo + 1
        stream.payload_bytes += len(message.payload)
        committed_s = None if message.historical else self._commits.of(message)
        if committed_s is not None:
            stream.delivery.add(self._now_s() - committed_s)
        elif message.oldest_ns:
            stream.delivery.add(max(0.0, (now_ns - message.oldest_ns) / 1e9))
        behind = self._delivery is not None and self._delivery.behind
        counters.budget_bytes = int(self._budget.rate) if behind else 0

    def refused(self, message: Message, reason: str) -> None:
        """Keep records that the peer will never take; called by the session."""
        self.counters.refused += message.hi - message.lo + 1
        text = f"{message.lane.label} {message.lo}-{message.hi} of epoch {message.epoch}: {reason}"
        hint = "They are in quarantine: `fluxedge queue show`. Correct the cause, then `fluxedge queue retry --all`."
        self._problems.report(self._item, Problem("record-refused", text, hint))
        self._log.quarantine(self.id, message, reason)


async def _until_closed(uplink: OpenUplink) -> None:
    await uplink.wait_closed()
    raise LinkProblem("uplink-down", "the connection was closed")


def _first_problem(group: BaseExceptionGroup) -> BaseException:
    """Return the LinkProblem of a task group's failure; only a defect where there is one."""
    inner: BaseException = group.split(LinkProblem)[1] or group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
