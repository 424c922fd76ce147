"""Reading the log for compaction: page by page, from the middle of a row, past what was dropped or is unreadable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fluxedge.log import database
from fluxedge.log.history import rows as rows_module
from fluxedge.log.history.rows import LogRows
from fluxedge.model import OPEN_END
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of
from tests.fluxedge.log.history.compacting import fill


def reading(path: Path) -> sqlite3.Connection:
    connection = database.connect_reading(path)
    connection.isolation_level = None
    return connection


async def test_rows_come_in_order_from_the_one_that_holds_the_seq(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    await fill(log, clock, [group_of("H", f"m{i}") for i in range(4)], 50)
    monkeypatch.setattr(rows_module, "PAGE_HEADS", 7)
    monkeypatch.setattr(rows_module, "PAGE_BYTES", 300)
    connection = reading(log.path)
    rows = LogRows(connection)
    assert rows.epochs() == [log.epoch]
    assert [row.seq for _, row in rows.read(log.epoch, 0, OPEN_END)] == list(range(1, 200, 4))
    assert [(row.seq, head.boot) for head, row in rows.read(log.epoch, 10, 18)] == [(9, 1), (13, 1), (17, 1)]
    assert [row.seq for _, row in rows.read(log.epoch, 12, OPEN_END, lambda head: head.seq > 190)] == [193, 197]
    assert list(rows.read(5, 0, OPEN_END)) == []
    assert len(rows.groups) == 4
    connection.close()


async def test_segments_that_go_meanwhile_are_left_out_and_damaged_ones_are_named(
    open_log: OpenLog, clock: FakeClock
) -> None:
    log = open_log()
    group = group_of("H")
    for _ in range(3):
        await fill(log, clock, [group], 5)
        log.segments()[-1].body_bytes = 1 << 30  # the next commit begins a new one
    connection = reading(log.path)
    rows = LogRows(connection)
    first, second, third = log.segments()
    await log.write(lambda c: c.execute(f"DROP TABLE {first.table}"))
    assert [row.seq for _, row in rows.read(log.epoch, 0, OPEN_END)] == list(range(6, 16))
    assert rows.unreadable == set()
    connection.close()
    root = sqlite3.connect(log.path)
    (page,) = root.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (second.table,)).fetchone()
    root.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    root.close()
    connection = reading(log.path)
    rows = LogRows(connection)
    with log.path.open("r+b") as file:
        file.seek((page - 1) * database.PAGE_BYTES)
        file.write(b"\xff" * database.PAGE_BYTES)
    found = [row.seq for _, row in LogRows(connection).read(log.epoch, 10, OPEN_END)]
    assert found == list(range(third.first, third.last + 1))
    assert list(rows.read(log.epoch, 0, 10)) == []
    assert [name.split(":")[0] for name in rows.unreadable] == [second.table]
    connection.close()
