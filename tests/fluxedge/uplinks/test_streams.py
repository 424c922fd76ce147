"""The two streams of an uplink: where they begin, what they do about records that are gone."""

from __future__ import annotations

import json
import shutil

import pytest

from fluxedge.config.structs import LogCfg
from fluxedge.log import Log, LogFault, volatile
from fluxedge.model import OPEN_END, Lane
from fluxedge.uplinks.streams import Start
from tests.fluxedge.log.sick_disk import Sickness, io_error
from tests.fluxedge.scripted_broker import until
from tests.fluxedge.uplinks.peer import Bench, Peer, accept, ignore

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
    assert sorted(peer.seqs()) == seqs


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


# --- live or backlog --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "backlog", "live"),
    [
        (6, (1, OPEN_END), None),
        (7, (1, 40), (41, OPEN_END)),  # the session began with 40 as the head of epoch 7
        (8, None, (1, OPEN_END)),  # begun since
    ],
)
def test_every_seq_is_in_exactly_one_stream(
    epoch: int, backlog: tuple[int, int] | None, live: tuple[int, int] | None
) -> None:
    start = Start(7, {Lane.ROUNDS: 41, Lane.EVENTS: 1})
    for historical, expected in ((True, backlog), (False, live)):
        lo, hi = start.bounds(epoch, Lane.ROUNDS, historical=historical)
        assert (lo, hi) == expected if expected else lo > hi


def test_an_empty_lane_has_no_backlog() -> None:
    lo, hi = Start(7, {Lane.ROUNDS: 1}).bounds(7, Lane.ROUNDS, historical=True)
    assert lo > hi


async def test_older_epochs_are_backlog_and_go_first(bench: Bench) -> None:
    await bench.commit(*"abc")
    old = bench.log.epoch
    bench.log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    await bench.log.close()
    shutil.copy(bench.dir / "log.db", bench.dir / "copy")
    (bench.dir / "copy").replace(bench.dir / "log.db")  # a restored log begins a new epoch
    bench.log = Log(bench.dir, LogCfg(), bench.clock)
    assert bench.log.epoch > old
    await bench.commit(*"de")
    peer = Peer()
    bench.start(peer)
    await bench.delivered()
    await bench.commit("f")
    await bench.delivered()
    new = bench.log.epoch
    assert [(m.epoch, m.lo, m.historical) for m in peer.sent] == [
        (old, 1, True), (old, 2, True), (old, 3, True), (new, 1, True), (new, 2, True), (new, 3, False),
    ]  # fmt: skip


async def test_what_is_read_while_the_disk_takes_nothing_is_live_and_says_that_it_is_not_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volatile, "PROBE_FIRST_NS", 0)
    sick = Sickness(monkeypatch)
    peer = Peer()
    bench.start(peer)
    await until(lambda: peer.sessions)
    await bench.commit("a")
    sick.infect(bench.log)
    sick.error = io_error()
    with pytest.raises(LogFault):
        await bench.commit("b")
    await bench.log.housekeep(["cloud"])
    await bench.commit("b")
    await bench.delivered()
    sick.error = None
    while bench.log.memory is not None:
        await bench.log.housekeep(["cloud"])
    await bench.commit("c")
    await bench.delivered()
    texts = [json.loads(m.payload)["records"][0]["values"]["text"] for m in peer.sent]
    assert [(text, m.historical, m.durable) for text, m in zip(texts, peer.sent, strict=True)] == [
        ("a", False, True), ("b", False, False), ("c", False, True),
    ]  # fmt: skip
    assert len({m.epoch for m in peer.sent}) == 3
    assert len(peer.sessions) == 1
