"""The forward loop: sessions and their ends, brokers in turn, a stop at any moment; on a real log."""

from __future__ import annotations

import asyncio
import json
import random
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxedge.problems import LinkProblem, Problem, Refused
from fluxedge.spi import Message
from fluxedge.uplinks import forward
from tests.fluxedge.scripted_broker import ScriptedBroker, until
from tests.fluxedge.uplinks.peer import DOWN, Bench, Peer, Uplink, accept, ignore
from tests.fluxedge.uplinks.road import Road

# --- sessions that end ------------------------------------------------------------------------------------------------


async def test_what_was_unacknowledged_is_sent_again_and_nothing_else(bench: Bench) -> None:
    await bench.commit(*"abcdef")
    peer = Peer(ignore)
    bench.start(peer, strict=True)
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


async def test_since_when_an_uplink_is_connected_or_down_is_known_on_the_monotonic_clock(bench: Bench) -> None:
    begun_ns = bench.clock.mono_ns()
    peer = Peer()
    forwarder = bench.start(peer)
    assert begun_ns <= forwarder.down_since_ns <= bench.clock.mono_ns()
    await until(lambda: forwarder.connected_since_ns)
    connected_ns = forwarder.connected_since_ns
    assert (forwarder.down_since_ns, begun_ns <= connected_ns <= bench.clock.mono_ns()) == (0, True)
    bench.pauses.go.clear()
    peer.sessions[0].die(DOWN)
    await until(lambda: forwarder.down_since_ns)
    assert forwarder.connected_since_ns == 0
    assert connected_ns < forwarder.down_since_ns <= bench.clock.mono_ns()
    bench.pauses.go.set()


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


# --- back-off, brokers, versions --------------------------------------------------------------------------------------


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
    bench.start(peer, strict=True)
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
    bench.start(peer, strict=True)
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


# --- with MQTT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "code"), [(0x93, "uplink-throttled"), (0x97, "uplink-throttled")])
async def test_a_broker_that_throttles_gets_the_backlog_at_half_the_pace(
    tmp_path: Path, reason: int, code: str
) -> None:
    async with ScriptedBroker() as broker:
        road = Road(tmp_path, [broker.port])
        await until(lambda: broker.published)
        before = road.forwarder._budget.rate
        broker.peer.disconnect(reason)
        await until(lambda: len(broker.connects) == 2)
        assert road.forwarder._budget.rate == before / 2
        assert road.problems.stands("uplink:cloud", code)
        await road.close()


async def test_the_cursor_stays_when_the_url_changes(tmp_path: Path) -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as second:
        road = Road(tmp_path, [first.port])
        await road.commit(10)
        await until(lambda: road.delivered == 10)
        await road.close()
        road = Road(tmp_path, [second.port])
        await road.commit(5)
        await until(lambda: road.delivered == 5)
        await road.close()
        rounds = [json.loads(p.payload) for p in second.records("fluxedge/gw/rounds")]
    assert [record["seq"] for body in rounds for record in body["records"]] == [11, 12, 13, 14, 15]


async def test_a_gateway_that_somebody_else_claims_to_be_waits_a_minute(tmp_path: Path) -> None:
    async with ScriptedBroker() as broker:
        road = Road(tmp_path, [broker.port])
        await until(lambda: broker.published)
        broker.peer.disconnect(0x8E)
        await until(lambda: road.pauses)
        assert road.pauses == [60.0]
        assert road.problems.stands("uplink:cloud", "uplink-clash")
        await road.close()
