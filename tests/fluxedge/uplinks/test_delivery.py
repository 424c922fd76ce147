"""What a session sends: order, turns of the two streams, sizes, what is under way; on a real log."""

from __future__ import annotations

import asyncio
import json
import typing

import pytest

from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message
from fluxedge.uplinks import forward, messages, streams
from fluxedge.uplinks.delivery import BACKLOG_BYTES
from fluxedge.uplinks.messages import AHEAD_BYTES, AHEAD_MESSAGES
from tests.fluxedge.scripted_broker import until
from tests.fluxedge.uplinks.peer import DOWN, Bench, Outcome, Peer, accept, ignore

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
    assert 0 < forwarder.connected_since_ns <= bench.clock.mono_ns()


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
    bench.start(peer, lanes=(Lane.ROUNDS, Lane.EVENTS), strict=True)
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
    bench.start(peer, strict=True)
    await bench.delivered()
    assert peer.sessions[0].most_under_way == 3


async def test_only_a_little_is_read_ahead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.commit(*["x" * 60_000] * 200)  # 12 MB of payload in one row
    made: list[int] = []
    message_of = messages.Cutter.next

    def counted(cutter: messages.Cutter, *rows: typing.Any) -> messages.Cut:
        cut = message_of(cutter, *rows)
        made.append(sum(len(message.payload) for message in cut.messages))
        return cut

    monkeypatch.setattr(messages.Cutter, "next", counted)
    peer = Peer(ignore, window=2)
    bench.start(peer, strict=True)
    await until(lambda: len(peer.sent) == 2)
    await asyncio.sleep(0.02)
    assert sum(made) <= AHEAD_BYTES + 60_100
    peer.answer = accept
    peer.sessions[0].acknowledge(2)
    await bench.delivered()
    assert max(made) <= AHEAD_BYTES + 60_100
    assert peer.seqs() == list(range(1, 201))


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


@pytest.mark.parametrize(("stable_s", "named_bytes"), [(0.0, 0), (60.0, 100_000)], ids=["away", "another limit named"])
async def test_a_limit_that_was_found_out_is_forgotten_when_the_peer_was_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stable_s: float, named_bytes: int
) -> None:
    """A broker that was given a larger limit takes large records again, without a restart of the gateway."""

    def limited(message: Message) -> Outcome:
        if len(message.payload) > 3000:
            return LinkProblem("uplink-throttled", "packet too large", advice="smaller-messages")
        return None

    monkeypatch.setattr(forward, "STABLE_S", stable_s)
    await bench.commit("a", "z" * 4000, "b")
    peer = Peer(limited, window=1)
    forwarder = bench.start(peer)
    await bench.delivered()
    assert forwarder.counters.refused == 1
    peer.answer, peer.maximum_message_bytes = accept, named_bytes
    seen = len(peer.sessions)
    peer.sessions[-1].die(LinkProblem("uplink-down", "the broker closed the connection"))
    await until(lambda: len(peer.sessions) > seen)
    await bench.commit("y" * 5000)
    await bench.delivered()
    assert forwarder.counters.refused == 1
    assert peer.sent[-1].lo == 4


async def test_a_peer_that_got_too_many_at_once_gets_fewer(bench: Bench) -> None:
    """DISCONNECT 0x93: halve the window."""
    await bench.commit(*"abcdefghijklmnopqrst")
    peer = Peer(ignore, window=16)
    bench.start(peer, strict=True)
    for expected in (16, 8, 4):
        await until(lambda: peer.sessions and peer.sessions[-1].most_under_way == expected)  # noqa: B023
        assert peer.sessions[-1].window == expected
        seen = len(peer.sessions)
        peer.sessions[-1].die(LinkProblem("uplink-throttled", "receive maximum", advice="smaller-window"))
        await until(lambda: len(peer.sessions) > seen)  # noqa: B023
    peer.answer = accept
    peer.sessions[-1].acknowledge(99)
    await bench.delivered()


# --- two streams ------------------------------------------------------------------------------------------------------


def marks(peer: Peer) -> list[tuple[int, bool]]:
    return [(m.lo, m.historical) for m in peer.sent if m.lane is Lane.ROUNDS]


async def test_what_was_there_before_the_session_is_marked_and_what_comes_is_not(bench: Bench) -> None:
    await bench.commit(*"abc")
    peer = Peer()
    bench.start(peer)
    await bench.delivered()
    await bench.commit(*"de")
    await bench.delivered()
    assert marks(peer) == [(1, True), (2, True), (3, True), (4, False), (5, False)]
    assert [json.loads(m.payload).get("historical", False) for m in peer.sent] == [m.historical for m in peer.sent]


async def test_a_live_message_waits_for_no_more_than_the_backlogs_message_that_is_on_its_way(bench: Bench) -> None:
    await bench.commit(*["x" * 1000] * 200)
    peer = Peer(ignore)
    bench.start(peer)
    await until(lambda: len(peer.sent) == 1)
    await bench.commit("live")
    await until(lambda: len(peer.sent) == 2)
    assert marks(peer) == [(1, True), (201, False)]
    peer.answer = accept
    peer.sessions[0].acknowledge(2)
    await bench.delivered()
    assert sorted(peer.seqs()) == list(range(1, 202))


async def test_each_stream_is_in_order_while_both_run(bench: Bench) -> None:
    await bench.commit(*["x" * 500] * 300)
    peer = Peer()
    bench.start(peer, rate_bytes=400_000)
    for _ in range(30):
        await bench.commit("live", "live")
        await asyncio.sleep(0.005)
    await bench.delivered()
    streams = {historical: [lo for lo, mark in marks(peer) if mark is historical] for historical in (True, False)}
    assert streams == {True: list(range(1, 301)), False: list(range(301, 361))}
    first_live = marks(peer).index((301, False))
    assert first_live < 299  # beside, not behind


def _live(bench: Bench) -> list[streams.Stream]:
    assert bench.forwarder._delivery is not None
    return bench.forwarder._delivery._live


async def test_live_messages_that_never_cease_leave_the_backlog_its_share(bench: Bench) -> None:
    await bench.commit(*["x" * 1000] * 50)
    peer = Peer(ignore, window=1)
    bench.start(peer)
    await until(lambda: peer.sent)
    for _ in range(20):
        await bench.commit(*["y" * 1000] * 20)
    for _ in range(200):  # a peer that is slower than what comes
        peer.sessions[0].acknowledge(1)
        await asyncio.sleep(0.002)
    share = sum(mark for _, mark in marks(peer)) / len(peer.sent)
    assert 0.15 < share < 0.3
    assert any(stream.waits() for stream in _live(bench))


async def test_in_strict_order_there_is_one_stream_by_seq(bench: Bench) -> None:
    await bench.commit(*["x" * 100] * 30)
    peer = Peer(ignore, window=2)
    bench.start(peer, strict=True)
    await until(lambda: len(peer.sent) == 2)
    await bench.commit("live")
    peer.answer = accept
    peer.sessions[0].acknowledge(2)
    await bench.delivered()
    assert peer.seqs() == list(range(1, 32))
    assert marks(peer)[-2:] == [(30, True), (31, False)]


async def test_a_session_that_begins_with_very_many_holes_fills_them_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HOLES_MOST", 3)
    await bench.commit(*"abcdefghij")
    bench.log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for seq in (2, 4, 6, 8):
        bench.log.cursors.settle("cloud", bench.log.epoch, Lane.ROUNDS, seq, seq)
    peer = Peer(ignore, window=1)
    bench.start(peer)
    await until(lambda: peer.sent)
    await bench.commit("live")
    peer.answer = accept
    peer.sessions[0].acknowledge(1)
    await bench.delivered()
    assert peer.seqs() == [1, 3, 5, 7, 9, 10, 11]


async def test_a_short_interruption_costs_no_time(bench: Bench) -> None:
    peer = Peer()
    bench.start(peer)
    await until(lambda: peer.sessions)
    for n in range(20):
        await bench.commit(*"abc")
        await bench.delivered()
        peer.sessions[-1].die(DOWN)
        await bench.commit(*"de")  # a small backlog
        await until(lambda n=n: len(peer.sessions) == n + 2)  # type: ignore[misc]
        began_s = asyncio.get_running_loop().time()
        await bench.delivered()
        assert asyncio.get_running_loop().time() - began_s < 0.5
    assert sorted(peer.seqs()) == list(range(1, 101))


async def test_the_configured_rate_holds_the_backlog_and_not_what_is_live(bench: Bench) -> None:
    await bench.commit(*["x" * 2000] * 30)  # 60 kB and more
    peer = Peer()
    began_s = asyncio.get_running_loop().time()
    bench.start(peer, rate_bytes=100_000)
    await until(lambda: peer.sent)
    await bench.commit("live")
    await until(lambda: (31, False) in marks(peer))
    assert asyncio.get_running_loop().time() - began_s < 0.4
    await bench.delivered()
    assert 0.4 < asyncio.get_running_loop().time() - began_s < 3
    assert bench.forwarder.counters.backlog.records == 30


@pytest.mark.parametrize("strict", [False, True])
async def test_many_small_commits_of_a_backlog_become_one_message(bench: Bench, strict: bool) -> None:
    for _ in range(100):
        await bench.commit("x" * 100)
    peer = Peer()
    bench.start(peer, message_bytes=64_000, strict=strict)
    await bench.delivered()
    assert len(peer.sent) == 1
    assert peer.seqs() == list(range(1, 101))


async def test_a_large_configured_message_does_not_make_live_records_wait(bench: Bench) -> None:
    await bench.commit(*["x" * 10_000] * 200)
    peer = Peer()
    bench.start(peer, message_bytes=16 << 20)
    await bench.delivered()
    assert max(len(m.payload) for m in peer.sent) <= BACKLOG_BYTES + 11_000


async def test_nothing_is_sent_before_the_peer_has_answered(bench: Bench) -> None:
    await bench.commit("a")
    peer = Peer(greets=False)
    bench.start(peer)
    await until(lambda: peer.sessions)
    await asyncio.sleep(0.03)
    assert peer.sent == []
    peer.sessions[0].greeted.set()
    await bench.delivered()


async def test_records_that_are_in_memory_only_say_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.log, "is_durable", lambda _epoch: False)
    peer = Peer()
    bench.start(peer, lanes=(Lane.ROUNDS, Lane.EVENTS))
    await bench.commit("a")
    await bench.commit_event()
    await bench.delivered()
    await bench.delivered(lane=Lane.EVENTS)
    assert {m.lane for m in peer.sent} == set(Lane)
    for message in peer.sent:
        assert message.durable is False
        assert json.loads(message.payload)["durable"] is False


async def test_the_two_streams_are_counted_apart(bench: Bench) -> None:
    await bench.commit(*"abc")
    peer = Peer()
    forwarder = bench.start(peer)
    await bench.delivered()
    await bench.commit(*"de")
    await bench.delivered()
    live, backlog = forwarder.counters.live, forwarder.counters.backlog
    assert (live.records, backlog.records, live.messages, backlog.messages) == (2, 3, 2, 3)
    assert live.payload_bytes == sum(len(m.payload) for m in peer.sent if not m.historical)
    assert (live.delivery.count, backlog.delivery.count) == (2, 3)
    assert 0 < live.delivery.sum_s < 5
