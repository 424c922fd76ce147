"""The writer: one thread, one transaction per job, in order."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.log.database import connect
from fluxedge.log.writer import Writer


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    connection = connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    made = Writer(connection)
    yield made
    made.close()


def insert(number: int) -> object:
    return lambda connection: connection.execute("INSERT INTO t VALUES (?)", (number,)) and number


def rows(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]
    finally:
        connection.close()


async def test_jobs_run_in_their_order_on_one_thread(writer: Writer, tmp_path: Path) -> None:
    threads = set[str]()

    def job(connection: sqlite3.Connection) -> int:
        threads.add(threading.current_thread().name)
        return connection.execute("INSERT INTO t VALUES (NULL)").lastrowid or 0

    assert await asyncio.gather(*(writer.run(job) for _ in range(20))) == list(range(1, 21))
    assert threads == {"log-writer"}
    assert rows(tmp_path / "x.db") == list(range(1, 21))


async def test_a_job_that_fails_leaves_nothing_and_the_next_one_runs(writer: Writer, tmp_path: Path) -> None:
    def job(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.run(job)
    with pytest.raises(sqlite3.IntegrityError):
        await writer.run(lambda c: c.executemany("INSERT INTO t VALUES (?)", [(7,), (7,)]))
    await writer.run(insert(2))  # type: ignore[arg-type]
    assert rows(tmp_path / "x.db") == [2]


async def test_cancelling_the_caller_does_not_take_a_running_job_back(writer: Writer, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def job(connection: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(10)
        connection.execute("INSERT INTO t VALUES (5)")

    waiting = asyncio.ensure_future(writer.run(job))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await writer.run(lambda _: None)
    assert rows(tmp_path / "x.db") == [5]


async def test_closing_finishes_what_was_asked_for(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    writer = Writer(connection)
    asked = [writer.start(insert(i)) for i in range(5)]  # type: ignore[arg-type]
    writer.close()
    await asyncio.gather(*asked)
    assert rows(tmp_path / "x.db") == list(range(5))
    assert not (tmp_path / "x.db-wal").exists(), "the WAL is folded in"
