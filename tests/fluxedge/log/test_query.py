"""Queries: of a log that runs, of one that was left behind, page by page and cut to what is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log
from fluxedge.log import database as database_module
from fluxedge.log import query as query_module
from fluxedge.log.body import DamagedBody, Row
from fluxedge.log.query import Query, pages, query, summary
from fluxedge.model import Lane, Record, Round
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import START_NS, event_of, group_of, round_of

S = 10**9
M1, M2 = group_of("HHs", "m1"), group_of("dd", "m2", "other")


async def fill(log: Log, count: int = 60) -> None:
    """Commit a round of m1 and one of m2 each second, and an event every tenth; three seconds a commit."""
    for start in range(0, count, 3):
        batch = Batch()
        for i in range(start, start + 3):
            at_ns = START_NS + i * S
            log.add_round(batch, round_of(M1, i, 2 * i, f"t{i}", at_ns=at_ns))
            log.add_round(batch, round_of(M2, i / 2, 0.0, at_ns=at_ns))
            if i % 10 == 0:
                kind = "alarm" if i % 20 else "audit"
                log.add_event(batch, event_of(kind, "device:m1" if i % 20 else "gateway", at_ns=at_ns, n=i))
        await log.commit(batch)


async def ask(path: Path, **wanted: object) -> list[Record]:
    return [record async for record in query(path, Query(**wanted))]  # type: ignore[arg-type]


async def seqs(path: Path, **wanted: object) -> list[int]:
    return [record.seq for record in await ask(path, **wanted)]


async def test_everything_comes_in_order_from_a_log_that_runs(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=500)
    await fill(log)
    assert len(log.segments()) > 3
    found = await ask(log.path)
    assert [record.seq for record in found] == list(range(1, 121))
    assert {record.epoch for record in found} == {log.epoch}
    first = found[0].body
    assert isinstance(first, Round)
    assert (first.group, first.values, first.at_ns) == (M1, (0, 0, "t0"), START_NS)
    assert await seqs(log.path, lane=Lane.EVENTS) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("heads", [2, 512])
@pytest.mark.parametrize("size", [1, 1 << 18])
async def test_pages_of_any_size_give_the_same(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, heads: int, size: int
) -> None:
    log = open_log(segment_bytes=800)
    await fill(log)
    monkeypatch.setattr(query_module, "PAGE_HEADS", heads)
    monkeypatch.setattr(query_module, "PAGE_BYTES", size)
    everything = list(range(1, 121))
    assert await seqs(log.path) == everything
    assert await seqs(log.path, newest_first=True) == everything[::-1]
    assert await seqs(log.path, lane=Lane.EVENTS) == list(range(1, 7)), "rows of one record each"
    assert await seqs(log.path, lane=Lane.EVENTS, newest_first=True) == list(range(6, 0, -1))
    for first, last in ((1, 120), (5, 5), (6, 7), (17, 93), (119, 300), (200, 300), (-5, 0)):
        wanted = [seq for seq in everything if first <= seq <= last]
        assert await seqs(log.path, first=first, last=last) == wanted
        assert await seqs(log.path, first=first, last=last, newest_first=True) == wanted[::-1]
    assert await seqs(log.path, first=50, limit=7) == everything[49:56]
    assert await seqs(log.path, last=50, limit=7, newest_first=True) == everything[43:50][::-1]


async def test_a_time_range_takes_its_beginning_and_not_its_end(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=500)
    await fill(log)
    for since, until in ((0, 60), (7, 8), (10, 10), (13, 44), (-50, 3), (58, 999)):
        wanted = [i for i in range(60) if since <= i < until]
        bounds = {"since_ns": START_NS + since * S, "until_ns": START_NS + until * S}
        found = await ask(log.path, devices={"m1"}, **bounds)
        assert [record.body.values[0] for record in found] == wanted  # type: ignore[union-attr]
        back = await ask(log.path, devices={"m1"}, newest_first=True, **bounds)
        assert back == found[::-1]


async def test_rows_outside_the_time_range_are_not_decoded(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(segment_bytes=500)
    await fill(log)
    decoded: list[int] = []
    honest = query_module.records

    def spying(row: Row, *rest: object) -> object:
        decoded.append(row.seq)
        return honest(row, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(query_module, "records", spying)
    assert len(await seqs(log.path, since_ns=START_NS + 30 * S, until_ns=START_NS + 31 * S)) == 2
    assert len(decoded) == 1


async def test_stamps_out_of_order_are_still_found(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch()
    for at_ns in (5 * S, 1 * S, 9 * S, -3 * S):
        log.add_round(batch, round_of(M2, 0.0, 0.0, at_ns=at_ns))
    await log.commit(batch)
    assert await seqs(log.path, since_ns=0, until_ns=6 * S) == [1, 2]
    assert await seqs(log.path, until_ns=0) == [4]


async def test_devices_points_and_kinds_cut_the_answer(open_log: OpenLog) -> None:
    log = open_log()
    await fill(log, 21)
    found = await ask(log.path, devices={"m2"})
    assert {record.body.group.device for record in found} == {"m2"}  # type: ignore[union-attr]
    assert len(found) == 21
    cut = await ask(log.path, points={"m1.p2", "m1.p0", "m9.p0"}, first=3, last=3)
    (body,) = [record.body for record in cut]
    assert isinstance(body, Round)
    assert (body.group.names, body.values, body.raws) == (("p0", "p2"), (1, "t1"), (1, "t1"))
    assert await ask(log.path, points={"m2.p9"}) == []
    assert await ask(log.path, devices={"m1"}, points={"m2.p0"}) == []
    assert await seqs(log.path, lane=Lane.EVENTS, kinds={"alarm"}) == [2]
    assert await seqs(log.path, lane=Lane.EVENTS, devices={"m1"}) == [2]
    assert await seqs(log.path, lane=Lane.EVENTS, kinds={"audit"}, devices={"m1"}) == []


async def test_a_cut_round_keeps_the_quality_of_its_points(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch()
    log.add_round(batch, round_of(M1, 1, None, "x", quality=bytes([1, 2, 0])))
    await log.commit(batch)
    (record,) = await ask(log.path, points={"m1.p1", "m1.p2"})
    assert isinstance(record.body, Round)
    assert (record.body.values, record.body.quality) == ((None, "x"), bytes([2, 0]))


async def test_epochs_are_asked_together_or_alone(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log()
    await fill(log, 3)
    old = log.epoch
    await log.close()
    monkeypatch.setattr(database_module, "machine_id", lambda: "another")
    log = open_log()
    await fill(log, 3)
    assert [record.epoch for record in await ask(log.path)] == [old] * 6 + [log.epoch] * 6
    assert [record.epoch for record in await ask(log.path, newest_first=True)] == [log.epoch] * 6 + [old] * 6
    assert {record.epoch for record in await ask(log.path, epoch=old)} == {old}
    assert (await summary(log.path))[0].epochs == [(old, 1, 6), (log.epoch, 1, 6)]


async def test_groups_that_are_new_while_a_query_runs_are_known(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=100)
    await fill(log, 6)
    found = []
    async with contextlib.aclosing(query(log.path, Query())) as records:
        async for record in records:
            found.append(record.seq)
            if record.seq == 1:
                batch = Batch()
                log.add_round(batch, round_of(group_of("q", "m3"), 5))
                await log.commit(batch)
    assert found[:12] == list(range(1, 13))


async def test_no_transaction_stays_open_between_pages(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log()
    monkeypatch.setattr(query_module, "PAGE_BYTES", 1)
    await fill(log, 9)
    async with contextlib.aclosing(pages(log.path, Query())) as found:
        async for _ in found:
            await fill(log, 3)
            checkpoint = "PRAGMA wal_checkpoint(PASSIVE)"
            busy, left, done = log._writer._connection.execute(checkpoint).fetchone()
            assert (busy, left) == (0, done), "a reader pins the WAL"
            if log.heads[Lane.ROUNDS] > 60:
                break


async def test_a_query_that_is_left_early_leaves_no_thread(open_log: OpenLog) -> None:
    log = open_log()
    await fill(log, 9)
    async with contextlib.aclosing(query(log.path, Query())) as records:
        async for record in records:
            assert record.seq == 1
            break


async def test_damaged_rows_are_told_and_the_rest_is_delivered(open_log: OpenLog) -> None:
    log = open_log()
    await fill(log, 9)
    await log._writer.run(lambda c: c.execute("UPDATE rounds_001 SET body = x'00' WHERE seq = 7"))
    bad: list[tuple[int, str]] = []

    def damaged(row: Row, damage: DamagedBody) -> None:
        bad.append((row.seq, str(damage)))

    found = [record.seq async for record in query(log.path, Query(), damaged)]
    assert found == [*range(1, 7), *range(13, 19)]
    assert bad == [(7, "rounds 7: checksum")]
    assert await seqs(log.path) == found


async def test_a_log_left_behind_is_read_with_what_its_wal_holds(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 9)
    left = tmp_path / "left"
    left.mkdir()
    for name in ("log.db", "log.db-wal"):  # as after kill -9
        shutil.copy(log.path.with_name(name), left)
    assert (left / "log.db-wal").stat().st_size > 0
    assert await seqs(left / "log.db") == list(range(1, 19))
    assert (await summary(left / "log.db"))[0].records == 18


async def test_a_stopped_gateways_log_is_read(open_log: OpenLog) -> None:
    log = open_log()
    await fill(log, 9)
    await log.close()
    assert not log.path.with_name("log.db-wal").exists()
    assert await seqs(log.path) == list(range(1, 19))
    assert open_log().new_epoch_because == ""


READ = """
import asyncio, os, sys
from pathlib import Path
from fluxedge.log.query import Query, query
os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))
async def main():
    print([record.seq async for record in query(Path(sys.argv[1]), Query())])
asyncio.run(main())
"""


async def test_somebody_who_may_only_read_can_read_a_stopped_gateways_log(open_log: OpenLog) -> None:
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        log = open_log(state)
        await fill(log, 3)
        await log.close()
        log.path.chmod(0o444)
        os.chmod(state, 0o555)
        command = [sys.executable, "-c", READ, log.path]
        told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=Path.cwd())
        os.chmod(state, 0o755)
    assert told.stdout == "[1, 2, 3, 4, 5, 6]\n", told.stderr


@pytest.mark.parametrize("content", [None, b"", b"this is no database" * 100])
async def test_what_is_no_log_is_a_problem(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "log.db").write_bytes(content)
    for asking in (ask(tmp_path / "log.db"), summary(tmp_path / "log.db")):
        with pytest.raises(LinkProblem):
            await asking


async def test_the_summary_says_what_each_lane_holds(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=500)
    await fill(log)
    rounds, events = await summary(log.path)
    mine = [segment for segment in log.segments() if segment.lane is Lane.ROUNDS]
    assert rounds.epochs == [(log.epoch, 1, 120)]
    assert (rounds.records, rounds.segments) == (120, len(mine))
    assert rounds.bytes == sum(segment.body_bytes for segment in mine)
    assert (rounds.first_at_ns, rounds.last_at_ns) == (START_NS, START_NS + 59 * S)
    assert (events.lane, events.records, events.last_at_ns) == (Lane.EVENTS, 6, START_NS + 50 * S)


async def test_the_summary_of_an_empty_log_is_empty(open_log: OpenLog) -> None:
    log = open_log()
    for lane in await summary(log.path):
        assert (lane.epochs, lane.records, lane.first_at_ns, lane.bytes, lane.segments) == ([], 0, 0, 0, 0)
