"""The hot side: blocks of rows, decoded once, told when they are damaged or gone."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest

from fluxedge.log import Log
from fluxedge.log.history import hot as hot_module
from fluxedge.log.history.hot import Hot, Vanished
from fluxedge.model import Round
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import POINTS, compact, drop_compacted, fill, rounds, samples

EVER = 2**62


@pytest.fixture
def connections() -> Iterator[list[sqlite3.Connection]]:
    opened: list[sqlite3.Connection] = []
    yield opened
    for connection in opened:
        connection.close()


async def filled(open_log: OpenLog, connections: list[sqlite3.Connection]) -> tuple[Log, Hot, list[Round]]:
    rng = random.Random(4)
    made = rounds(rng, 200)
    log = open_log(segment_bytes=3000)
    await fill(log, made, rng)
    connections.append(sqlite3.connect(log.path, isolation_level=None))
    return log, Hot(connections[-1]), made


def seqs(hot: Hot, name: str) -> list[int]:
    found = []
    for segment in hot.refresh():
        for block in hot.blocks(segment, -EVER, EVER):
            found += [seq for part in hot.samples(block, name, POINTS) for seq in part.seqs]
    return sorted(found)


@pytest.mark.parametrize("rows", [1, 7, 256])
async def test_blocks_of_any_size_give_every_sample_behind_the_seam(
    open_log: OpenLog, connections: list[sqlite3.Connection], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_module, "BLOCK_ROWS", rows)
    log, hot, made = await filled(open_log, connections)
    for name in POINTS:
        assert seqs(hot, name) == sorted(sample.seq for sample in samples(made, log.epoch, name))
    compact(log.path.parent, log.epoch, 111)
    for name in POINTS:
        wanted = sorted(sample.seq for sample in samples(made, log.epoch, name) if sample.seq > 111)
        assert seqs(hot, name) == wanted


async def test_what_was_decoded_is_not_decoded_again(
    open_log: OpenLog, connections: list[sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hot, _ = await filled(open_log, connections)
    first = seqs(hot, "a.temp")
    monkeypatch.setattr(Hot, "_decode", lambda *_: pytest.fail("decoded again"))
    assert seqs(hot, "a.temp") == first
    assert seqs(hot, "b.temp"), "all points of a query are decoded at once"


async def test_rows_that_come_later_are_seen(open_log: OpenLog, connections: list[sqlite3.Connection]) -> None:
    log, hot, _ = await filled(open_log, connections)
    before = seqs(hot, "b.temp")
    rng = random.Random(5)
    await fill(log, rounds(rng, 30), rng)
    assert set(seqs(hot, "b.temp")) > set(before)


async def test_a_segment_that_is_dropped_while_it_is_read_is_told(
    open_log: OpenLog, connections: list[sqlite3.Connection]
) -> None:
    log, hot, _ = await filled(open_log, connections)
    segments = hot.refresh()
    (block, *_) = hot.blocks(segments[0], -EVER, EVER)
    compact(log.path.parent, log.epoch, 150)
    await log.close()
    assert drop_compacted(log.path.parent)
    with pytest.raises(Vanished):
        hot.samples(block, "a.temp", POINTS)
    with pytest.raises(Vanished):
        hot.blocks(segments[0], -EVER, EVER)


async def test_a_damaged_row_costs_its_rounds_and_is_named(
    open_log: OpenLog, connections: list[sqlite3.Connection]
) -> None:
    _, hot, _ = await filled(open_log, connections)
    whole = seqs(hot, "b.temp")
    connections[0].execute("UPDATE rounds_001 SET body = zeroblob(20) WHERE seq = 1")
    fresh = Hot(connections[0])
    left = seqs(fresh, "b.temp")
    assert set(left) < set(whole) or left == whole
    assert [text.partition(":")[0] for text in fresh.damaged] == ["rounds 1"]
    fresh.damaged.clear()
    assert seqs(fresh, "b.temp") == left
    assert fresh.damaged, "also when nothing is decoded again"
