"""Queries of records see the rounds that have left the log: in their order, once, however often the seam moves."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path

import pytest

from fluxedge.log import Log
from fluxedge.log import filed as filed_module
from fluxedge.log import query as query_module
from fluxedge.log.body import DamagedBody, Row
from fluxedge.log.query import DamagedHistory, Query, pages, query, summary
from fluxedge.model import Flag, Record, Round
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import BASE_NS, HOUR, MONO_NS, compact, drop_compacted, fill, rounds


async def filled(open_log: OpenLog, seed: int, count: int = 300) -> tuple[Log, list[Round]]:
    rng = random.Random(seed)
    made = rounds(rng, count)
    log = open_log(segment_bytes=3000)
    await fill(log, made, rng)
    return log, made


async def ask(path: Path, **wanted: object) -> list[Record]:
    return [record async for record in query(path, Query(**wanted))]  # type: ignore[arg-type]


def placed(round_: Round) -> int:
    return round_.arrived_mono_ns + BASE_NS - MONO_NS if round_.flags == Flag.CLOCK_UNSYNCED else round_.at_ns


@pytest.mark.parametrize("upto", [0, 1, 77, 150, 299, 300])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_every_round_comes_once_in_its_order(open_log: OpenLog, upto: int, newest_first: bool) -> None:
    log, made = await filled(open_log, upto)
    before = await ask(log.path)
    compact(log.path.parent, log.epoch, upto)
    await log.close()
    drop_compacted(log.path.parent)
    found = await ask(log.path, newest_first=newest_first)
    found = found[::-1] if newest_first else found
    assert [record.seq for record in found] == list(range(1, 301))
    for was, now, round_ in zip(before, found, made, strict=True):
        assert isinstance(now.body, Round)
        assert (now.epoch, now.boot, now.body.group) == (was.epoch, was.boot, round_.group)
        assert (now.body.values, now.body.flags) == (round_.values, round_.flags)
        assert (now.body.quality or bytes(len(now.body.values))) == (round_.quality or bytes(len(round_.values)))
        assert now.body.at_ns in (round_.at_ns, placed(round_)), "the compactor places what was not synchronised"


async def test_seqs_devices_points_times_and_limits_choose(open_log: OpenLog) -> None:
    log, made = await filled(open_log, 5)
    compact(log.path.parent, log.epoch, 280)
    await log.close()
    assert drop_compacted(log.path.parent)
    path = log.path
    assert [r.seq for r in await ask(path, first=100, last=290)] == list(range(100, 291))
    assert [r.seq for r in await ask(path, first=100, limit=5)] == [100, 101, 102, 103, 104]
    assert [r.seq for r in await ask(path, last=100, limit=3, newest_first=True)] == [100, 99, 98]
    mine = [seq for seq, round_ in enumerate(made, 1) if round_.group.device == "b"]
    assert [r.seq for r in await ask(path, devices={"b"})] == mine
    cut = await ask(path, points={"b.flow"}, limit=4)
    assert [(r.seq, r.body.group.names) for r in cut] == [(seq, ("flow",)) for seq in mine[:4]]  # type: ignore[union-attr]
    since, until = BASE_NS + HOUR // 2, BASE_NS + 3 * HOUR
    found = await ask(path, since_ns=since, until_ns=until, last=280)
    assert [r.seq for r in found] == [seq for seq, r in enumerate(made[:280], 1) if since <= placed(r) < until]
    assert await ask(path, epoch=log.epoch + 1) == []


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_segments_may_be_dropped_while_a_query_runs(
    open_log: OpenLog, seed: int, newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, made = await filled(open_log, seed)
    state = log.path.parent
    await log.close()
    monkeypatch.setattr(query_module, "PAGE_BYTES", 1)
    dropped, seqs = 0, []
    async with contextlib.aclosing(pages(log.path, Query(newest_first=newest_first))) as found:
        async for page in found:
            seqs += [record.seq for record in page]
            if len(seqs) in range(20, 200):
                compact(state, log.epoch, min(len(made), len(seqs) + 90) if not newest_first else 290)
                dropped += drop_compacted(state)
    assert dropped > 2
    assert (seqs[::-1] if newest_first else seqs) == list(range(1, 301))


async def test_a_damaged_day_is_told_and_the_rest_comes(open_log: OpenLog) -> None:
    log, _ = await filled(open_log, 7)
    compact(log.path.parent, log.epoch, 300)
    await log.close()
    drop_compacted(log.path.parent)
    first, second = sorted((log.path.parent / "history").glob("*.db"))
    first.write_bytes(b"no database" * 500)
    told: list[str] = []

    def damaged(row: Row, damage: DamagedBody) -> None:
        assert isinstance(damage, DamagedHistory)
        told.append(str(damage))

    found = [record.seq async for record in query(log.path, Query(), damaged)]
    assert 0 < len(found) < 300
    assert found == sorted(found)
    assert all(first.name in text for text in told)
    assert told
    assert second.exists()


async def test_a_query_that_is_left_early_leaves_no_thread_and_no_file(open_log: OpenLog) -> None:
    log, _ = await filled(open_log, 8)
    compact(log.path.parent, log.epoch, 300)
    await log.close()
    drop_compacted(log.path.parent)
    async with contextlib.aclosing(query(log.path, Query())) as found:
        assert (await anext(found)).seq == 1
    for thread in threading.enumerate():
        if thread.name.startswith("log-history"):
            thread.join(5)
            assert not thread.is_alive()


async def test_the_summary_says_what_is_filed(open_log: OpenLog) -> None:
    log, _ = await filled(open_log, 9)
    compact(log.path.parent, log.epoch, 200)
    compact(log.path.parent, log.epoch, 250, noted=False)
    await log.close()
    assert drop_compacted(log.path.parent)
    held = (await summary(log.path))[0]
    assert held.epochs == [(log.epoch, 1, 300)]
    assert held.filed_records >= 200
    assert held.filed_bytes > 0
    assert held.records < 300


async def test_the_newest_records_of_the_log_cost_no_look_into_the_day_files(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = await filled(open_log, 10)
    compact(log.path.parent, log.epoch, 100)
    monkeypatch.setattr(filed_module, "sums_of", lambda *_: pytest.fail("looked into a day file"))
    assert [record.seq for record in await ask(log.path, newest_first=True, limit=3)] == [300, 299, 298]


async def test_epochs_that_only_the_history_knows_come_in_their_order(open_log: OpenLog, tmp_path: Path) -> None:
    log, _ = await filled(open_log, 11, 40)
    old = log.epoch
    compact(tmp_path, old, 40)
    await log.close()
    for name in ("log.db", "log.db-wal", "log.db-shm"):  # the witness stays: the next epoch is another one
        (tmp_path / name).unlink(missing_ok=True)
    fresh, _ = await filled(open_log, 12, 30)
    assert fresh.epoch > old
    wanted = [(old, seq) for seq in range(1, 41)] + [(fresh.epoch, seq) for seq in range(1, 31)]
    assert [(r.epoch, r.seq) for r in await ask(fresh.path)] == wanted
    assert [(r.epoch, r.seq) for r in await ask(fresh.path, newest_first=True)] == wanted[::-1]
    assert [r.seq for r in await ask(fresh.path, epoch=old)] == list(range(1, 41))
