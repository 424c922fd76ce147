"""The forward loop against a peer that does what the test says, on a real log."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fluxedge.clock import SystemClock
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Event, Group, Lane, Point
from fluxedge.problems import LinkProblem, Problem, ProblemBook, Refused
from fluxedge.spi import Message
from fluxedge.uplinks import forward
from fluxedge.uplinks.forward import Backoff, Forwarder
from fluxedge.uplinks.messages import AHEAD_BYTES, AHEAD_MESSAGES
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

    async def open(self) -> None:
        if self._peer.refuse:
            raise self._peer.refuse.pop(0)
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
        **more: typing.Any,
    ) -> Forwarder:
        """Start a forwarder; by default every record is a message of its own."""
        self.log.begin_uplink(name, list(lanes), start)
        forwarder = Forwarder(
            name, "gw", "json", message_bytes, list(lanes), peer.connect, self.log, self.problems, self.clock,
            random.Random(1), sleep=self.pauses, **more,
        )  # fmt: skip
        self.tasks.append(asyncio.create_task(forwarder.run()))
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


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


DOWN = LinkProblem("uplink-down", "gone")


# --- order and acknowledgement ----------------------------------------------------------------------------------------


async def test_records_go_in_order_and_the_cursor_passes_on_acknowledgement(bench: Bench) -> None:
    await bench.commit(*"abcdefgh")
    peer = Peer()
    forwarder = bench.start(peer)
    await bench.delivered()
    await bench.commit(*"ij")
    await bench.delivered()
    assert peer.seqs() == list(range(1, 11))
    assert (forwarder.counters.records, forwarder.counters.messages, forwarder.counters.points) == (10, 10, 20)
    assert forwarder.connected_since_ns > 0


async def test_the_cursor_waits_for_the_acknowledgement_of_each_message(bench: Bench) -> None:
    peer = Peer(ignore)
    bench.start(peer)
    await bench.commit(*"abcde")
    await until(lambda: len(peer.sent) == 5)
    assert bench.todo() == [(1, 5)]
    session = peer.sessions[0]
    session.settle(session._under_way[2], None)
    await asyncio.sleep(0)
    assert bench.todo() == [(1, 2), (4, 5)]
    session.acknowledge(4)
    await bench.delivered()


async def test_lanes_are_in_order_each_and_events_do_not_wait_for_rounds(bench: Bench) -> None:
    await bench.commit(*["x" * 1000] * 200)
    await bench.commit_event()
    peer = Peer(window=1000)
    bench.start(peer, lanes=(Lane.ROUNDS, Lane.EVENTS))
    await bench.delivered()
    await bench.commit_event()
    await bench.delivered(lane=Lane.EVENTS)
    assert peer.sent[0].lane is Lane.EVENTS
    assert peer.seqs() == list(range(1, 201))
    assert peer.seqs(Lane.EVENTS) == [1, 2]


async def test_an_event_overtakes_a_backlog_of_rounds(bench: Bench) -> None:
    for _ in range(20):
        await bench.commit(*["x" * 2000] * 50)
    peer = Peer(ignore, window=4)
    bench.start(peer, lanes=(Lane.ROUNDS, Lane.EVENTS))
    await until(lambda: len(peer.sent) == 4)
    await bench.commit_event()
    await until(lambda: _event_came(peer))
    assert len(peer.seqs()) <= 4 + 2 * AHEAD_MESSAGES


def _event_came(peer: Peer) -> bool:
    peer.sessions[-1].acknowledge(1)
    return bool(peer.seqs(Lane.EVENTS))


async def test_the_window_of_the_peer_is_kept(bench: Bench) -> None:
    await bench.commit(*"abcdefghijkl")
    peer = Peer(window=3)
    bench.start(peer)
    await bench.delivered()
    assert peer.sessions[0].most_under_way == 3


async def test_only_a_little_is_read_ahead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.commit(*["x" * 60_000] * 200)  # 12 MB of payload in one row
    made: list[int] = []
    message_of = forward.Cutter.next

    def counted(cutter: forward.Cutter, *rows: typing.Any) -> forward.Cut:
        cut = message_of(cutter, *rows)
        made.append(sum(len(message.payload) for message in cut.messages))
        return cut

    monkeypatch.setattr(forward.Cutter, "next", counted)
    peer = Peer(ignore, window=2)
    bench.start(peer)
    await until(lambda: len(peer.sent) == 2)
    await asyncio.sleep(0.02)
    assert sum(made) <= AHEAD_BYTES + 60_100
    peer.answer = accept
    peer.sessions[0].acknowledge(2)
    await bench.delivered()
    assert max(made) <= AHEAD_BYTES + 60_100
    assert peer.seqs() == list(range(1, 201))


# --- sessions that end ------------------------------------------------------------------------------------------------


async def test_what_was_unacknowledged_is_sent_again_and_nothing_else(bench: Bench) -> None:
    await bench.commit(*"abcdef")
    peer = Peer(ignore)
    bench.start(peer)
    await until(lambda: len(peer.sent) == 6)
    peer.sessions[0].acknowledge(2)
    await asyncio.sleep(0)
    peer.answer = accept
    peer.sessions[0].die(DOWN)
    await bench.delivered()
    assert [m.lo for m in peer.sessions[1].sent] == [3, 4, 5, 6]
    assert peer.sessions[0].closed == 1


async def test_a_session_that_closes_without_a_reason_is_a_problem_all_the_same(bench: Bench) -> None:
    class Silent(Uplink):
        async def wait_closed(self) -> None:
            await asyncio.sleep(0)

    peer = Peer()
    bench.pauses.go.clear()
    peer.connect = lambda *_: Silent(peer)  # type: ignore[method-assign]
    bench.start(peer)
    await until(lambda: bench.standing() == {"uplink-down"})


async def test_a_problem_stands_until_something_is_acknowledged(bench: Bench) -> None:
    await bench.commit("a")
    told: list[tuple[str, str]] = []
    bench.problems.listeners.append(lambda change, _item, standing: told.append((change, standing.code)))
    peer = Peer(refuse=[DOWN, DOWN, DOWN])
    bench.start(peer)
    await bench.delivered()
    await until(lambda: not bench.standing())
    assert told == [("raised", "uplink-down"), ("cleared", "uplink-down")]


@pytest.mark.parametrize("code", ["uplink-refused", "uplink-throttled"])
async def test_a_peer_that_takes_nothing_for_now_ends_the_session_and_loses_nothing(bench: Bench, code: str) -> None:
    await bench.commit(*"abc")
    told: list[tuple[str, str]] = []
    bench.problems.listeners.append(lambda change, _item, standing: told.append((change, standing.code)))
    peer = Peer(lambda _message: LinkProblem(code, "not authorised"))
    bench.start(peer)
    await until(lambda: len(peer.sessions) >= 5)
    assert bench.todo() == [(1, 3)]
    assert told == [("raised", code)]  # once: reconnecting alone disproves nothing
    assert bench.query("SELECT count(*) FROM quarantine") == [(0,)]
    peer.answer = accept
    await bench.delivered()
    assert told == [("raised", code), ("cleared", code)]


async def test_an_idle_session_works_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "PROVEN_S", 0.02)
    peer = Peer(refuse=[DOWN])
    bench.start(peer)
    await until(lambda: bench.standing())
    await until(lambda: not bench.standing())
    assert peer.sent == []


async def test_refused_records_go_to_quarantine_and_the_cursor_passes(bench: Bench) -> None:
    await bench.commit("fine", "poison", "fine")
    peer = Peer(
        lambda message: Refused({message.lo: "payload format invalid"}) if b"poison" in message.payload else None
    )
    forwarder = bench.start(peer)
    await bench.delivered()
    assert bench.standing() == {"record-refused"}
    assert forwarder.counters.refused == 1
    assert forwarder.counters.records == 2
    await bench.log.save_cursors()
    rows = bench.query("SELECT uplink, lane, lo, hi, reason FROM quarantine")
    assert rows == [("cloud", 0, 2, 2, "payload format invalid")]
    (kept,) = bench.query("SELECT payload FROM quarantine")[0]
    assert json.loads(kept)["records"][0]["values"]["text"] == "poison"
    assert len(peer.sessions) == 1


async def test_a_record_in_quarantine_stands_over_reconnects(bench: Bench) -> None:
    await bench.commit("poison")
    peer = Peer(lambda message: Refused({message.lo: "no"}))
    bench.start(peer)
    await bench.delivered()
    peer.answer = accept
    peer.sessions[0].die(DOWN)
    await bench.commit("fine")
    await bench.delivered()
    await until(lambda: bench.standing() == {"record-refused"})


async def test_an_uplinks_condition_is_reported_without_ending_the_session(bench: Bench) -> None:
    peer = Peer()
    bench.start(peer)
    await until(lambda: peer.sessions)
    peer.sessions[0].condition("uplink-commands", Problem("uplink-commands", "no"))
    assert bench.standing() == {"uplink-commands"}
    peer.sessions[0].condition("uplink-commands", None)
    assert bench.standing() == set()
    assert len(peer.sessions) == 1


# --- bugs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["connect", "open", "room", "send", "wait_closed", "close", "outcome", "cancelled"])
async def test_an_uplinks_bug_costs_a_session_and_nobody_else(bench: Bench, where: str) -> None:
    class Buggy(Uplink):
        pass

    async def raise_later(_self: Uplink) -> None:
        raise KeyError("bug")

    def raise_now(*_: object) -> typing.Any:
        raise KeyError("bug")

    def cancel(self: Uplink, message: Message) -> asyncio.Future[None]:
        future = Uplink.send(self, message)
        future.cancel()
        return future

    raised: set[tuple[str, str]] = set()
    bench.problems.listeners.append(lambda _change, item, standing: raised.add((item, standing.code)))
    broken = Peer(answer=(lambda _message: KeyError("bug")) if where == "outcome" else accept)
    if where in ("open", "room", "wait_closed", "close"):
        setattr(Buggy, where, raise_later)
    elif where == "send":
        Buggy.send = raise_now  # type: ignore[method-assign]
    elif where == "cancelled":
        Buggy.send = cancel  # type: ignore[method-assign]
    made: Callable[..., Uplink] = raise_now if where == "connect" else lambda *_: Buggy(broken)
    broken.connect = made  # type: ignore[method-assign]
    await bench.commit(*"abc")
    sound = Peer()
    bench.start(broken, "broken")
    bench.start(sound, "sound")
    if where == "close":
        await until(lambda: broken.sessions)
        broken.sessions[0].die(DOWN)
    await bench.delivered("sound")
    await until(lambda: ("uplink:broken", "bug") in raised)
    assert "uplink:sound" not in {item for item, _ in raised}
    assert not any(task.done() for task in bench.tasks)
    assert len(bench.pauses.taken) >= 1  # with back-off
    if where != "close":
        assert bench.todo("broken") == [(1, 3)]


# --- damage and gaps --------------------------------------------------------------------------------------------------


async def test_a_damaged_row_becomes_a_gap_and_the_rest_goes_on(bench: Bench) -> None:
    for _ in range(3):
        await bench.commit(*"abcde")
    bench.query("UPDATE rounds_001 SET body = zeroblob(length(body)) WHERE seq = 6")
    peer = Peer()
    bench.start(peer)
    await bench.delivered()
    assert peer.seqs() == [*range(1, 6), *range(11, 16)]
    await bench.log.save_cursors()
    (gap,) = bench.log.unannounced
    assert (gap.uplink, gap.epoch, gap.lane, gap.lo, gap.hi) == ("cloud", bench.log.epoch, Lane.ROUNDS, 6, 10)


async def test_a_damaged_row_at_the_end_does_not_stop_what_comes_later(bench: Bench) -> None:
    await bench.commit(*"abc")
    bench.query("UPDATE rounds_001 SET crc = crc + 1")
    peer = Peer()
    bench.start(peer)
    await bench.delivered()
    await bench.commit("d")
    await bench.delivered()
    assert peer.seqs() == [4]


async def test_what_the_log_has_lost_is_announced_instead_of_waited_for(bench: Bench) -> None:
    bench.log.cursors.begin("cloud", Lane.ROUNDS, bench.log.epoch - 1, 5, 9)  # an epoch without any segment
    await bench.commit("a")
    peer = Peer()
    bench.start(peer)
    bench.log.cursors.begin("cloud", Lane.ROUNDS, bench.log.epoch, 1)
    await bench.commit("b")
    await bench.delivered()
    assert 1 in peer.seqs()
    await bench.log.save_cursors()
    assert [(g.lo, g.hi) for g in bench.log.unannounced] == [(5, 9)]


# --- where an uplink begins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "seqs"), [("oldest", [1, 2, 3, 4]), ("newest", [4])])
async def test_a_new_uplink_begins_where_it_says(bench: Bench, start: str, seqs: list[int]) -> None:
    await bench.commit(*"abc")
    peer = Peer()
    bench.start(peer, start=start)
    await until(lambda: peer.sessions)
    await bench.commit("d")
    await bench.delivered()
    assert peer.seqs() == seqs


async def test_a_stopped_uplink_goes_on_where_it_was(bench: Bench) -> None:
    await bench.commit(*"abc")
    first = Peer()
    bench.start(first)
    await bench.delivered()
    await bench.stop()
    await bench.commit(*"de")
    second = Peer()
    bench.start(second, start="newest")  # it is not new
    await bench.delivered()
    assert second.seqs() == [4, 5]


async def test_two_uplinks_go_at_their_own_speed(bench: Bench) -> None:
    fast, slow = Peer(), Peer(ignore, window=1)
    bench.start(fast, "fast")
    bench.start(slow, "slow")
    await bench.commit(*"abcdef")
    await bench.delivered("fast")
    assert fast.seqs() == [1, 2, 3, 4, 5, 6]
    assert (slow.seqs(), bench.todo("slow")) == ([1], [(1, 6)])
    slow.answer = accept
    slow.sessions[0].acknowledge(1)
    await bench.delivered("slow")
    assert slow.seqs() == fast.seqs()


# --- sizes ------------------------------------------------------------------------------------------------------------


async def test_messages_are_batched_up_to_the_configured_size(bench: Bench) -> None:
    await bench.commit(*["x" * 100] * 100)
    peer = Peer()
    bench.start(peer, message_bytes=5000)
    await bench.delivered()
    assert len(peer.sent) < 10
    assert peer.seqs() == list(range(1, 101))


async def test_the_limit_of_the_peer_is_kept(bench: Bench) -> None:
    await bench.commit(*["x" * 100] * 100)
    peer = Peer(maximum_message_bytes=1000)
    bench.start(peer, message_bytes=64_000)
    await bench.delivered()
    assert max(len(message.payload) for message in peer.sent) <= 1000
    assert peer.seqs() == list(range(1, 101))


async def test_a_record_larger_than_the_limit_goes_to_quarantine_once(bench: Bench) -> None:
    await bench.commit("small", "x" * 5000, "small", "y" * 5000)
    peer = Peer(maximum_message_bytes=1000)
    forwarder = bench.start(peer, message_bytes=64_000)
    await bench.delivered()
    assert peer.seqs() == [1, 3]
    assert forwarder.counters.refused == 2
    assert bench.standing() == {"record-refused"}
    await bench.log.save_cursors()
    assert bench.query("SELECT lo, hi, length(payload) > 5000 FROM quarantine") == [(2, 2, 1), (4, 4, 1)]
    assert len(peer.sessions) == 1


async def test_a_peer_with_a_limit_it_never_named_gets_smaller_messages(bench: Bench) -> None:
    """DISCONNECT or PUBACK 0x95: halve until it takes them; a single record that is too large goes to quarantine."""

    def limited(message: Message) -> Outcome:
        if len(message.payload) > 3000:
            return LinkProblem("uplink-throttled", "packet too large", advice="smaller-messages")
        return None

    await bench.commit(*["x" * 100] * 200, "z" * 4000, *["y" * 100] * 3)
    peer = Peer(limited, window=1)
    bench.start(peer, message_bytes=20_000)
    await bench.delivered()
    taken = [seq for m in peer.sent if len(m.payload) <= 3000 for seq in range(m.lo, m.hi + 1)]
    assert taken == [*range(1, 201), *range(202, 205)]
    assert len(peer.sessions) < 12
    await bench.log.save_cursors()
    assert bench.query("SELECT lo, hi FROM quarantine") == [(201, 201)]


async def test_a_peer_that_got_too_many_at_once_gets_fewer(bench: Bench) -> None:
    """DISCONNECT 0x93: halve the window."""
    await bench.commit(*"abcdefghijklmnopqrst")
    peer = Peer(ignore, window=16)
    bench.start(peer)
    for expected in (16, 8, 4):
        await until(lambda: peer.sessions and peer.sessions[-1].most_under_way == expected)  # noqa: B023
        assert peer.sessions[-1].window == expected
        seen = len(peer.sessions)
        peer.sessions[-1].die(LinkProblem("uplink-throttled", "receive maximum", advice="smaller-window"))
        await until(lambda: len(peer.sessions) > seen)  # noqa: B023
    peer.answer = accept
    peer.sessions[-1].acknowledge(99)
    await bench.delivered()


# --- back-off, brokers, versions --------------------------------------------------------------------------------------


def test_pauses_are_decorrelated_jitter_within_bounds() -> None:
    for seed in range(50):
        backoff = Backoff(random.Random(seed))
        before = forward.BACKOFF_FIRST_S
        for _ in range(40):
            pause = backoff.next_s()
            assert forward.BACKOFF_FIRST_S <= pause <= min(forward.BACKOFF_MOST_S, before * 3)
            before = pause


def test_pauses_grow_and_differ() -> None:
    def pauses(seed: int) -> list[float]:
        backoff = Backoff(random.Random(seed))
        return [backoff.next_s() for _ in range(30)]

    assert max(pauses(1)[10:]) > 20
    assert pauses(1) != pauses(2)  # a thousand gateways do not come back at once


def test_the_longest_pause_is_a_minute_and_a_reset_begins_short_again() -> None:
    backoff = Backoff(random.Random(1))
    assert backoff.longest_s() == 60.0
    backoff.reset()
    assert backoff.next_s() <= 3.0


async def test_every_failed_attempt_is_followed_by_a_pause(bench: Bench) -> None:
    peer = Peer(refuse=[DOWN] * 5)
    bench.start(peer)
    await until(lambda: peer.sessions)
    assert len(bench.pauses.taken) == 5
    assert all(1.0 <= pause <= 60.0 for pause in bench.pauses.taken)


async def test_a_client_id_clash_waits_long(bench: Bench) -> None:
    peer = Peer(refuse=[LinkProblem("uplink-clash", "clash", advice="longer-pause")])
    bench.start(peer)
    await until(lambda: peer.sessions)
    assert bench.pauses.taken == [60.0]


async def test_a_long_session_resets_the_pauses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(refuse=[DOWN] * 20)
    bench.start(peer)
    await until(lambda: peer.sessions)
    assert max(bench.pauses.taken) > 10
    monkeypatch.setattr(forward, "STABLE_S", 0.0)
    peer.sessions[0].die(DOWN)
    await until(lambda: len(peer.sessions) == 2)
    assert bench.pauses.taken[-1] <= 3.0


async def test_the_next_broker_is_tried_after_each_failed_attempt(bench: Bench) -> None:
    peer = Peer(refuse=[DOWN, DOWN])
    bench.start(peer, brokers=3)
    await until(lambda: peer.sessions)
    assert [number % 3 for number, _ in peer.calls] == [0, 1, 2]


async def test_a_broker_that_worked_is_tried_first_again(bench: Bench) -> None:
    await bench.commit("a")
    peer = Peer(refuse=[DOWN])
    bench.start(peer, brokers=2)
    await bench.delivered()
    for sessions in (2, 3):
        peer.sessions[-1].die(DOWN)
        await until(lambda: len(peer.sessions) == sessions)  # noqa: B023
        await bench.commit("more")
        await bench.delivered()
    assert [number % 2 for number, _ in peer.calls] == [0, 1, 1, 1]
    peer.sessions[-1].die(DOWN)
    peer.refuse.append(DOWN)
    await until(lambda: len(peer.sessions) == 4)
    assert [number % 2 for number, _ in peer.calls] == [0, 1, 1, 1, 1, 0]  # gone: the other one


async def test_a_broker_that_takes_the_connection_but_no_message_did_not_work(bench: Bench) -> None:
    await bench.commit("a")
    peer = Peer(lambda _message: LinkProblem("uplink-refused", "not authorised"))
    bench.start(peer, brokers=2)
    await until(lambda: len(peer.calls) >= 4)
    assert [number % 2 for number, _ in peer.calls][:4] == [0, 1, 0, 1]


async def test_the_older_version_is_used_at_once_and_for_that_broker_only(bench: Bench) -> None:
    old = LinkProblem("uplink-old-version", "3.1.1 is used", advice="older-version")
    peer = Peer(refuse=[old, DOWN, DOWN, DOWN])
    bench.start(peer, brokers=2)
    await until(lambda: peer.sessions)
    assert [(number % 2, older) for number, older in peer.calls] == [
        (0, False), (0, True), (1, False), (0, True), (1, False),
    ]  # fmt: skip
    assert len(bench.pauses.taken) == 3  # none between the versions
    await bench.commit("a")
    await bench.delivered()
    assert "uplink-old-version" in bench.standing()  # it stays true


async def test_a_peer_that_refuses_the_older_version_too_is_not_asked_without_a_pause(bench: Bench) -> None:
    old = LinkProblem("uplink-old-version", "3.1.1 is used", advice="older-version")
    peer = Peer(refuse=[old, old, old])
    bench.start(peer)
    await until(lambda: peer.sessions)
    assert len(bench.pauses.taken) == 2


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_stopping_waits_for_what_is_under_way(bench: Bench) -> None:
    await bench.commit(*"abc")
    peer = Peer(ignore)
    bench.start(peer)
    await until(lambda: len(peer.sent) == 3)
    task = bench.tasks[-1]
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    peer.sessions[0].acknowledge(3)
    await bench.stop()
    assert bench.todo() == []
    assert peer.sessions[0].closed == 1


async def test_stopping_while_the_window_is_full_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "DRAIN_S", 0.05)
    await bench.commit(*"abcdef")
    peer = Peer(ignore, window=2)
    bench.start(peer)
    await until(lambda: len(peer.sent) == 2)
    await asyncio.wait_for(bench.stop(), 1)
    assert bench.todo() == [(1, 6)]
    assert bench.log.listeners == []


async def test_stopping_while_pausing_ends(bench: Bench) -> None:
    bench.pauses.go.clear()
    bench.start(Peer(refuse=[DOWN]))
    await until(lambda: bench.pauses.taken)
    await asyncio.wait_for(bench.stop(), 1)


async def test_a_bug_while_stopping_does_not_undo_the_stop(bench: Bench) -> None:
    class Buggy(Uplink):
        async def close(self) -> None:
            raise KeyError("bug")

    peer = Peer()
    peer.connect = lambda *_: Buggy(peer)  # type: ignore[method-assign]
    bench.start(peer)
    await until(lambda: peer.sessions)
    await asyncio.wait_for(bench.stop(), 1)


async def test_stopping_in_the_middle_loses_nothing(bench: Bench) -> None:
    await bench.commit(*["x"] * 300)
    rng = random.Random(4)
    heard: list[int] = []
    for _ in range(15):
        peer = Peer(window=rng.randint(1, 20))
        bench.start(peer)
        for _ in range(rng.randint(0, 30)):
            await asyncio.sleep(0)
        await bench.stop()
        heard += peer.seqs()
        await bench.commit(*["y"] * 10)
    peer = Peer()
    bench.start(peer)
    await bench.delivered()
    assert sorted(set(heard + peer.seqs())) == list(range(1, 451))


@pytest.mark.parametrize("code", ["uplink-silent", "uplink-throttled"])
async def test_silence_stands_until_something_is_acknowledged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(forward, "PROVEN_S", 0.01)
    await bench.commit(*"abc")
    peer = Peer(ignore)
    bench.start(peer)
    await until(lambda: peer.sent)
    peer.sessions[-1].die(LinkProblem(code, "a message is unacknowledged for 20 s"))
    await until(lambda: len(peer.sessions) >= 2 and peer.sessions[-1].sent)
    await asyncio.sleep(0.1)  # the session lasts
    assert code in {standing.code for standing in bench.problems}
    peer.answer = accept
    peer.sessions[-1].acknowledge(99)
    await bench.delivered()
    assert code not in {standing.code for standing in bench.problems}
