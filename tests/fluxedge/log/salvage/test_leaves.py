"""Leaf pages by hand: they give what SQLite gives, and nothing is believed that is not whole."""

from __future__ import annotations

import random
import sqlite3
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.log.salvage.leaves import Pages, columns, varint

Row = tuple[typing.Any, ...]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def made(path: Path, page_bytes: int = 1024) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
    connection.execute("CREATE TABLE w (k TEXT PRIMARY KEY, v, n) WITHOUT ROWID")
    return connection


def read(path: Path, *, with_wal: bool = True) -> Iterator[tuple[int | None, list[typing.Any]]]:
    pages = Pages(path, 1024, with_wal=with_wal)
    try:
        yield from list(pages.records(1, pages.count))
    finally:
        pages.close()


def rows_of(path: Path, *, with_wal: bool = True) -> set[Row]:
    return {(rowid, *record[1:]) for rowid, record in read(path, with_wal=with_wal) if rowid is not None}


def values(rng: random.Random) -> list[typing.Any]:
    kinds = [
        None, 0, 1, -1, 127, -128, 2**15 - 1, -(2**23), 2**31 - 1, 2**47 - 1, -(2**63), 2**63 - 1, 1.5, -0.0,
        "", "Ω" * 40, b"", rng.randbytes(rng.choice((3, 900, 1000, 1030, 5000, 70_000))),
    ]  # fmt: skip
    return [rng.choice(kinds) for _ in range(3)]


@pytest.mark.parametrize("page_bytes", [1024, 4096])
def test_every_row_is_found_as_sqlite_reads_it(path: Path, page_bytes: int) -> None:
    rng = random.Random(page_bytes)
    connection = made(path, page_bytes)
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [(i * 97, *values(rng)) for i in range(300)])
    connection.executemany(
        "INSERT INTO w VALUES (?, ?, ?)", [(f"key {i:04}", rng.randbytes(i % 700), i) for i in range(300)]
    )
    wanted = set(connection.execute("SELECT * FROM t"))
    without = set(connection.execute("SELECT * FROM w"))
    for _ in range(2):  # in the WAL, then in the file
        assert rows_of(path) >= wanted
        assert {tuple(record) for rowid, record in read(path) if rowid is None} >= without
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_the_newest_content_of_a_page_is_in_the_wal(path: Path) -> None:
    connection = made(path)
    connection.execute("INSERT INTO t VALUES (1, 'old', NULL, NULL)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("UPDATE t SET a = 'new'")
    assert (1, "new", None, None) in rows_of(path)
    assert (1, "old", None, None) in rows_of(path, with_wal=False)
    connection.close()


def test_a_transaction_that_was_not_committed_is_not_there(path: Path) -> None:
    connection = made(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES (?, ?, 1, 1)", [(i, bytes(900)) for i in range(1, 200)])
    assert Path(f"{path}-wal").stat().st_size > 50_000, "spilled"
    assert [row for row in rows_of(path) if len(row) == 4] == []
    connection.close()


def test_pages_of_random_bytes_give_an_answer(path: Path) -> None:
    rng = random.Random(3)
    for _ in range(40):
        body = bytearray(rng.randbytes(8 * 1024))
        for page in range(8):
            body[page * 1024] = rng.choice((2, 10, 13))
            body[page * 1024 + 3 : page * 1024 + 5] = rng.choice((b"\0\3", b"\0\x40", b"\xff\xff"))
        path.write_bytes(body)
        assert isinstance(list(read(path)), list)


def test_a_flipped_bit_costs_rows_and_never_more(path: Path) -> None:
    connection = made(path)
    connection.executemany("INSERT INTO t VALUES (?, ?, 1, 2)", [(i, bytes([i]) * 200) for i in range(1, 100)])
    connection.close()
    whole, rng = path.read_bytes(), random.Random(5)
    for _ in range(200):
        body = bytearray(whole)
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        path.write_bytes(body)
        found = {row[0] for row in rows_of(path) if len(row) == 4 and row[1] == bytes([row[0] % 256]) * 200}
        assert len(found) >= 90


def test_a_chain_that_runs_in_a_circle_ends(path: Path) -> None:
    connection = made(path)
    connection.execute("INSERT INTO t VALUES (1, ?, 1, 2)", (bytes(5000),))
    connection.close()
    body = bytearray(path.read_bytes())
    for page in range(4, len(body) // 1024):
        body[page * 1024 : page * 1024 + 4] = (5).to_bytes(4, "big")
    path.write_bytes(body)
    list(read(path))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\x81\x00", 128),
        (b"\xff\x7f", 2**14 - 1),
        (b"\xff" * 8 + b"\xff", -1),
        (b"\xbf" + b"\xff" * 8, 2**63 - 1),
    ],
)
def test_varints_are_those_of_the_format(content: bytes, value: int) -> None:  # 1.6: "variable-length integer"
    assert varint(content + b"\x55", 0) == (value, len(content))


@pytest.mark.parametrize("payload", [b"", b"\x02", b"\x02\x0a", b"\x02\x01", b"\x02\x01\x05\x05", b"\x02\x0f\xff"])
def test_what_is_no_record_is_refused(payload: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        columns(payload)
