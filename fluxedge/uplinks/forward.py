"""The forward loop: one cursor of the log, one uplink; back-off, window, order and settling live here.

    log.read (reader thread: decode, encode) --> messages --> uplink.send --> PUBACK --> cursors.settle

First publications go in seq order per lane and session. A connection that dies gives back what it did not acknowledge:
the next one starts at the lowest seq that is still to do.
"""

from __future__ import annotations

import asyncio
import random
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fluxedge.clock import Clock
from fluxedge.log import Log
from fluxedge.log.body import DamagedBody, Row, records
from fluxedge.model import Group, Lane, Record
from fluxedge.problems import LinkProblem, Problem, ProblemBook, Refused
from fluxedge.spi import Message, Uplink
from fluxedge.uplinks import formats

READ_BYTES = 256 << 10  # stored bodies a read: a batch of a second at 100,000 points/s
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0
STABLE_S = 60.0  # a session that ran this long resets the back-off
UNITS_PER_MESSAGE = 1000  # records


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
    """What the loop needs beyond spi.Uplink: waiting for room."""

    async def room(self) -> None: ...
    @property
    def maximum_message_bytes(self) -> int: ...


Connect = Callable[[int, bool], OpenUplink]  # (attempt number, 3.1.1 wanted) -> an uplink that is not open yet


def encode_rows(
    gateway: str, form: str, target_bytes: int, lo: int, hi: int
) -> Callable[[list[Row], Mapping[int, Group]], tuple[list[Message], list[tuple[int, int]]]]:
    """Return a transform of rows into messages of about `target_bytes`, and the ranges that cannot be read."""

    def transform(rows: list[Row], groups: Mapping[int, Group]) -> tuple[list[Message], list[tuple[int, int]]]:
        messages: list[Message] = []
        damaged: list[tuple[int, int]] = []
        pending: list[Record] = []
        size = 0

        def flush() -> None:
            nonlocal size
            if pending:
                messages.append(formats.message(gateway, form, pending))
                pending.clear()
                size = 0

        for row in rows:
            try:
                for record in records(row, groups, lo):
                    if record.seq > hi:
                        break
                    pending.append(record)
                    size += _weight(record)
                    if size >= target_bytes or len(pending) >= UNITS_PER_MESSAGE:
                        flush()
            except DamagedBody:
                done = pending[-1].seq if pending else messages[-1].hi if messages else lo - 1
                flush()
                damaged.append((max(lo, row.seq, done + 1), min(hi, row.last)))
        flush()
        return messages, damaged

    return transform


def _weight(record: Record) -> int:
    """Guess the bytes of a record as JSON."""
    values = getattr(record.body, "values", None)
    return 80 + (20 * len(values) if values is not None else 120)


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
    ) -> None:
        self.id = uplink_id
        self._item = f"uplink:{uplink_id}"
        self._gateway = gateway
        self._form = form
        self._message_bytes = message_bytes
        self._lanes = sorted(lanes, reverse=True)  # events first
        self._connect = connect
        self._log = log
        self._problems = problems
        self._clock = clock
        self._rng = rng
        self._news = asyncio.Event()
        self._positions: dict[tuple[int, Lane], int] = {}  # next seq to send in this session
        self.uplink: OpenUplink | None = None
        self._fault: LinkProblem | None = None
        self.connected_since_ns = 0
        self.counters = ForwardCounters()
        log.listeners.append(self._news.set)

    async def run(self) -> None:
        """Connect, forward, and connect again; the uplink's one task. Ends by cancellation only."""
        backoff_s = BACKOFF_FIRST_S
        attempt = 0
        old_version = False
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_s = loop.time()
                try:
                    await self._session(self._connect(attempt, old_version))
                except LinkProblem as problem:
                    old_version = old_version or type(problem).__name__ == "WrongVersion"
                    self._problems.report(self._item, problem)
                attempt += 1
                if loop.time() - began_s > STABLE_S:
                    backoff_s = BACKOFF_FIRST_S
                # decorrelated jitter: sleep = min(cap, random(first, previous * 3))
                backoff_s = min(BACKOFF_MOST_S, self._rng.uniform(BACKOFF_FIRST_S, backoff_s * 3))
                await asyncio.sleep(backoff_s)
        finally:
            self._log.listeners.remove(self._news.set)

    async def _session(self, uplink: OpenUplink) -> None:
        try:
            await uplink.open()
            self.uplink = uplink
            self.counters.sessions += 1
            self.connected_since_ns = self._clock.wall_ns()
            self._problems.clear(self._item)
            self._positions.clear()
            self._fault = None
            async with asyncio.TaskGroup() as group:
                group.create_task(uplink.wait_closed(), name=f"{self._item}:closed")
                group.create_task(self._send_all(uplink), name=f"{self._item}:send")
        except BaseExceptionGroup as failures:
            raise _first_problem(failures) from failures
        finally:
            self.uplink = None
            self.connected_since_ns = 0
            await uplink.close()

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
                    uplink.send(message).add_done_callback(partial(self._settle, message))
                    sent = True
            if self._fault is not None:
                raise self._fault
            if not sent:
                await self._news.wait()

    async def _next_messages(self, lane: Lane, uplink: OpenUplink) -> list[Message]:
        """Read on from where this session stands in a lane; skip what is acknowledged, drop what is gone."""
        for epoch, ranges in self._log.cursors.of(self.id, lane):
            position = max(self._positions.get((epoch, lane), 1), self._log.first_seq(epoch, lane))
            stretch = ranges.first_from(position)
            head = self._log.heads[lane] if epoch == self._log.epoch else None
            if stretch is None or (head is not None and stretch[0] > head):
                continue
            lo, hi = stretch
            target = min(self._message_bytes, uplink.maximum_message_bytes or self._message_bytes)
            transform = encode_rows(self._gateway, self._form, target, lo, hi)
            messages, damaged = await self._log.read(epoch, lane, lo, READ_BYTES, transform)
            for bad_lo, bad_hi in damaged:
                self._log.lose(self.id, epoch, lane, bad_lo, bad_hi)
            ends = [message.hi for message in messages] + [bad_hi for _, bad_hi in damaged]
            if not ends:
                continue
            self._positions[(epoch, lane)] = max(ends) + 1
            return messages
        return []

    def _settle(self, message: Message, sent: asyncio.Future[None]) -> None:
        """Let the cursor pass a message: the peer acknowledged it, or will never take it."""
        error = None if sent.cancelled() else sent.exception()
        if sent.cancelled() or isinstance(error, LinkProblem):
            if isinstance(error, LinkProblem) and self._fault is None:
                self._fault = error
                self._news.set()
            return
        counters = self.counters
        if isinstance(error, Refused):
            counters.refused += len(error.reasons)
            self._problems.report(
                self._item, Problem("record-refused", f"{message.lane.label} {message.lo}-{message.hi}: {error}")
            )
            self._log.quarantine(self.id, message, next(iter(error.reasons.values())))
        elif error is not None:
            self._fault = LinkProblem("bug", f"{error!r}")
            self._news.set()
            return
        self._log.cursors.settle(self.id, message.epoch, message.lane, message.lo, message.hi)
        counters.messages += 1
        counters.records += message.hi - message.lo + 1
        counters.points += message.points
        counters.payload_bytes += len(message.payload)
        counters.last_ack_ns = self._clock.wall_ns()
        counters.ack_latency_ns = counters.last_ack_ns - message.oldest_ns


def _first_problem(group: BaseExceptionGroup) -> BaseException:
    """Return the LinkProblem of a task group's failure; anything else is a defect and stays as it is."""
    problems = group.split(LinkProblem)
    if problems[1] is not None:
        return problems[1]
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
