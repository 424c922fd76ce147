"""A snapshot of a log that is being written: consistent, in short reads, whatever is dropped meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from fluxedge.log import Batch, Log
from fluxedge.log.backup import snapshot
from fluxedge.log.backup.snapshot import TABLES, Page, Tables
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.backup.backups import GROUP, fill
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import round_of

R, E = Lane.ROUNDS, Lane.EVENTS
Pages = dict[str, list[list[object]]]


def read(parts: list[tuple[str, bytes]]) -> tuple[Pages, Tables]:
    """Return table -> rows, and what the pages become."""
    found: Pages = {}
    for name, data in parts[:-1]:
        page = msgspec.msgpack.decode(data, type=Page)
        assert name.startswith(("log/table/" + page.table, "log/" + page.table))
        found.setdefault(page.table, []).extend(page.rows)
    assert parts[-1][0] == TABLES
    return found, msgspec.msgpack.decode(parts[-1][1], type=Tables)


def stored(path: Path, table: str) -> list[list[object]]:
    connection = sqlite3.connect(path)
    try:
        return [list(row) for row in connection.execute(f"SELECT * FROM {table}")]
    finally:
        connection.close()


def taken(log: Log, tmp_path: Path, *, history: bool = True) -> tuple[Pages, Tables]:
    with snapshot.snapshot(log.path, tmp_path) as found:
        return read(list(found.parts(history=history)))


async def test_a_log_at_rest_is_copied_row_by_row(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAGE_BYTES", 300)
    log = open_log(segment_bytes=2000)
    log.begin_uplink("cloud", [R, E], "oldest")
    await fill(log, 60)
    pages, tables = taken(log, tmp_path)
    assert len(tables.segments) > 3
    for table in [*tables.segments, "segments", "todo", "groups", "meta", "gap"]:
        assert pages.get(table, []) == stored(log.path, table), table
    assert sum(row[1] for table in tables.segments if table[0] == "r" for row in pages[table]) == 60


async def test_what_is_committed_after_its_beginning_is_not_in_it(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 5)
    with snapshot.snapshot(log.path, tmp_path) as found:
        assert found.heads == {R: 5, E: 5}
        await fill(log, 5)
        pages, _ = read(list(found.parts(history=True)))
    assert [row[0] for row in pages["rounds_001"]] == [1, 2, 3, 4, 5]


async def test_no_read_of_it_outlives_a_page_so_that_the_wal_is_never_pinned(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every part the writer can fold the whole WAL in: no reader stands in it."""
    monkeypatch.setattr(snapshot, "PAGE_BYTES", 500)
    log = open_log()
    await fill(log, 100)
    with snapshot.snapshot(log.path, tmp_path) as found:
        count = 0
        for _ in found.parts(history=True):
            count += 1
            if count % 10 == 1:
                await fill(log, 1)
                busy, frames, folded = log._writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                assert (busy, frames, folded) == (0, 0, 0), f"part {count}"
    assert count > 20


async def test_a_slow_disk_ends_a_page_early(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAGE_S", -1.0)
    log = open_log()
    await fill(log, 10, events=0)
    with snapshot.snapshot(log.path, tmp_path) as found:
        names = [name for name, _ in found.parts(history=True) if "rounds_001" in name]
    assert len(names) == 10


async def test_a_segment_that_is_dropped_meanwhile_leaves_the_cursors_too(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAGE_BYTES", 200)
    log = open_log(segment_bytes=1000)
    log.begin_uplink("cloud", [R], "oldest")
    await fill(log, 40, events=0)
    await log.save_cursors()
    first, second, *_ = [segment for segment in log.segments() if segment.lane is R]
    with snapshot.snapshot(log.path, tmp_path) as found:
        parts = []
        for part in found.parts(history=True):
            parts.append(part)
            if part[0].startswith(f"log/{first.table}/") and len(parts) > 1:
                await log.write(lambda c: [c.execute(f"DROP TABLE IF EXISTS {s.table}") for s in (first, second)])
    pages, tables = read(parts)
    assert {first.table, second.table}.isdisjoint(tables.segments)
    assert not any(f" {first.table} " in sql for sql in tables.create)
    assert next(row[1] for row in pages["segments"] if row[0] == R) == 3
    assert [row[3] for row in pages["todo"]] == [second.last + 1]


async def test_a_gap_that_is_announced_meanwhile_is_not_announced_in_it(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 3)
    log.lose("cloud", log.epoch, R, 1, 1, "age")
    log.lose("cloud", log.epoch, R, 2, 2, "age")
    await log.save_cursors()
    old, new = log.unannounced
    await log.write(
        lambda c: c.execute("UPDATE gap SET said_epoch = ?, said_seq = 2 WHERE id = ?", (log.epoch, old.id))
    )
    with snapshot.snapshot(log.path, tmp_path) as found:
        sql = "UPDATE gap SET said_epoch = ?, said_seq = 4 WHERE id = ?"
        await log.write(lambda c: c.execute(sql, (log.epoch, new.id)))
        pages, _ = read(list(found.parts(history=True)))
    assert [row[8:10] for row in pages["gap"]] == [[log.epoch, 2], [0, 0]]


async def test_without_history_nothing_counts_as_compacted(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 3)
    await log.write(lambda c: c.execute("INSERT INTO compacted (epoch, upto) VALUES (1, 2)") and None)
    assert taken(log, tmp_path)[0]["compacted"] == [[1, 2]]
    assert taken(log, tmp_path, history=False)[0].get("compacted", []) == []


async def test_commands_are_paged_by_their_keys(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAGE_BYTES", 50)
    log = open_log()
    batch = Batch()
    batch.intents += [(f"k{i}", 1, b"request") for i in range(9)]
    log.add_round(batch, round_of(GROUP, 1, "x"))
    await log.commit(batch)
    pages, _ = taken(log, tmp_path)
    assert [row[0] for row in pages["intents"]] == [f"k{i}" for i in range(9)]


@pytest.fixture
async def crashed(open_log: OpenLog, tmp_path: Path) -> Path:
    """A log as a crash leaves it: newest commits in the WAL only."""
    log = open_log(tmp_path / "running")
    await fill(log, 4)
    state = tmp_path / "crashed"
    state.mkdir()
    for name in ("log.db", "log.db-wal"):
        shutil.copy(log.path.with_name(name), state / name)
    return state / "log.db"


@pytest.fixture(autouse=True)
def _states(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()


async def test_a_log_with_a_wal_on_a_medium_that_is_read_only_is_read_whole(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot make its -shm there; without the WAL the newest commits would be missing."""

    def connect_reading(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}/no/such/file?mode=ro", uri=True)  # "unable to open database file"

    monkeypatch.setattr("fluxedge.log.database.connect_reading", connect_reading)
    before = {file.name: file.read_bytes() for file in crashed.parent.iterdir()}
    with snapshot.snapshot(crashed, tmp_path) as found:
        assert found.heads[R] == 4
        assert [name for name in os.listdir(tmp_path) if name.startswith(".fluxedge-log-")]
        pages, _ = read(list(found.parts(history=True)))
    assert [row[0] for row in pages["rounds_001"]] == [1, 2, 3, 4]
    assert [name for name in os.listdir(tmp_path) if name.startswith(".fluxedge-log-")] == []
    assert {file.name: file.read_bytes() for file in crashed.parent.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_what_is_no_log_is_a_problem_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.db").write_bytes(content)
    with pytest.raises(LinkProblem) as found, snapshot.snapshot(tmp_path / "log.db", tmp_path):
        pass
    assert found.value.code == "log-damaged"
    assert "--no-log" in found.value.hint


async def test_a_fault_of_who_uses_it_is_not_called_a_damaged_log(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 1)
    with pytest.raises(ValueError, match="mine"), snapshot.snapshot(log.path, tmp_path):
        raise ValueError("mine")
