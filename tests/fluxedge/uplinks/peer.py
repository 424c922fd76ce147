"""An uplink's peer that does what the test says, and a real log with forwarders on it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fluxedge.clock import SystemClock
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Event, Group, Lane, Point
from fluxedge.problems import LinkProblem, Problem, ProblemBook
from fluxedge.spi import Message
from fluxedge.uplinks.delivery import Terms
from fluxedge.uplinks.forward import Forwarder
from tests.fluxedge.scripted_broker import until

GROUP = Group("m", "main", (Point("n", "q"), Point("text", "s")))
Outcome = BaseException | None  # None = acknowledged


def accept(_message: Message) -> Outcome:
    return None


def ignore(_message: Message) -> Outcome:
    """Never answer."""
    raise LookupError


@dataclass
class Peer:
    """The other end: what every session of an uplink meets."""

    answer: Callable[[Message], Outcome] = accept  # LookupError = no answer
    refuse: list[BaseException] = field(default_factory=list)  # what `open` raises, one session each
    window: int = 64
    maximum_message_bytes: int = 0
    greets: bool = True
    sessions: list[Uplink] = field(default_factory=list)
    calls: list[tuple[int, bool]] = field(default_factory=list)  # (number, older version) of each attempt

    def connect(self, number: int, old_version: bool) -> Uplink:
        self.calls.append((number, old_version))
        return Uplink(self)

    @property
    def sent(self) -> list[Message]:
        return [message for session in self.sessions for message in session.sent]

    def seqs(self, lane: Lane = Lane.ROUNDS) -> list[int]:
        """Return the seqs of every record that was sent, in the order of sending."""
        return [seq for m in self.sent if m.lane is lane for seq in range(m.lo, m.hi + 1)]


class Uplink:
    """One session of the peer."""

    condition: Callable[[str, Problem | None], None]

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._dead: asyncio.Future[LinkProblem] = asyncio.get_running_loop().create_future()
        self._under_way: list[asyncio.Future[None]] = []
        self._room = asyncio.Event()
        self.maximum_message_bytes = peer.maximum_message_bytes
        self.sent: list[Message] = []
        self.window = 0
        self.most_under_way = 0
        self.closed = 0
        self.greeted = asyncio.Event()

    async def open(self) -> None:
        if self._peer.refuse:
            raise self._peer.refuse.pop(0)
        if self._peer.greets:
            self.greeted.set()
        self.window = self._peer.window
        self._peer.sessions.append(self)

    async def room(self) -> None:
        while len(self._under_way) >= self.window and not self._dead.done():
            self._room.clear()
            await self._room.wait()
        if self._dead.done():
            raise self._dead.result()

    def send(self, message: Message) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append(message)
        self._under_way.append(done)
        self.most_under_way = max(self.most_under_way, len(self._under_way))
        asyncio.get_running_loop().call_soon(self._answer, done, message)
        return done

    def _answer(self, done: asyncio.Future[None], message: Message) -> None:
        try:
            outcome = self._peer.answer(message)
        except LookupError:
            return
        self.settle(done, outcome)

    def settle(self, done: asyncio.Future[None], outcome: Outcome) -> None:
        if done.done():
            return
        self._under_way.remove(done)
        if outcome is None:
            done.set_result(None)
        else:
            done.set_exception(outcome)
        self._room.set()

    def acknowledge(self, number: int) -> None:
        """Acknowledge the oldest messages that are under way."""
        for done in self._under_way[:number]:
            self.settle(done, None)

    def die(self, problem: LinkProblem) -> None:
        if not self._dead.done():
            self._dead.set_result(problem)
        for done in list(self._under_way):
            self.settle(done, problem)
        self._room.set()

    async def wait_closed(self) -> None:
        raise await asyncio.shield(self._dead)

    async def close(self) -> None:
        self.closed += 1
        self.die(LinkProblem("uplink-down", "closed"))


class Pauses:
    """Sleeping that takes no time; `hold` makes it last."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, pause_s: float) -> None:
        self.taken.append(pause_s)
        await asyncio.sleep(0)
        await self.go.wait()


class Bench:
    """A log, problems, and forwarders that run."""

    def __init__(self, state_dir: Path) -> None:
        self.dir = state_dir
        self.clock = SystemClock()
        self.log = Log(state_dir, LogCfg(), self.clock)
        self.problems = ProblemBook(self.clock.wall_ns)
        self.pauses = Pauses()
        self.tasks: list[asyncio.Task[None]] = []
        self.number = 0
        self.forwarder: Forwarder  # the latest that was started

    async def commit(self, *texts: str) -> None:
        """Commit rounds, one a text."""
        batch = Batch()
        for text in texts:
            self.number += 1
            self.log.add_round(batch, GROUP.round((self.number, text), self.clock.wall_ns(), self.clock.mono_ns()))
        await self.log.commit(batch)

    async def commit_event(self) -> None:
        batch = Batch()
        self.log.add_event(batch, Event("start", "gateway", self.clock.wall_ns(), self.clock.mono_ns()))
        await self.log.commit(batch)

    def start(
        self,
        peer: Peer,
        name: str = "cloud",
        *,
        start: str = "oldest",
        lanes: tuple[Lane, ...] = (Lane.ROUNDS,),
        message_bytes: int = 1,
        strict: bool = False,
        rate_bytes: int | None = None,
        **more: typing.Any,
    ) -> Forwarder:
        """Start a forwarder; by default every record is a message of its own."""
        self.log.begin_uplink(name, list(lanes), start)
        ordered = tuple(sorted(lanes, reverse=True))
        terms = Terms(name, "gw", "json", ordered, message_bytes, strict, rate_bytes)
        forwarder = Forwarder(
            terms, peer.connect, self.log, self.problems, self.clock, random.Random(1), sleep=self.pauses, **more
        )
        self.tasks.append(asyncio.create_task(forwarder.run()))
        self.forwarder = forwarder
        return forwarder

    def todo(self, name: str = "cloud", lane: Lane = Lane.ROUNDS) -> list[tuple[int, int]]:
        """Return what an uplink has still to deliver, up to the head."""
        head = self.log.heads[lane]
        return [
            (lo, min(hi, head))
            for epoch, ranges in self.log.cursors.of(name, lane)
            for lo, hi in ranges
            if epoch != self.log.epoch or lo <= head
        ]

    async def delivered(self, name: str = "cloud", lane: Lane = Lane.ROUNDS) -> None:
        await until(lambda: not self.todo(name, lane))

    def query(self, sql: str) -> list[tuple[typing.Any, ...]]:
        connection = sqlite3.connect(self.dir / "log.db")
        try:
            found = connection.execute(sql).fetchall()
            connection.commit()
            return found
        finally:
            connection.close()

    async def stop(self, index: int = -1) -> None:
        task = self.tasks.pop(index)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def close(self) -> None:
        while self.tasks:
            await self.stop()
        await self.log.close()

    def standing(self) -> set[str]:
        return {standing.code for standing in self.problems}


DOWN = LinkProblem("uplink-down", "gone")
