"""Writing a day file, as days.py draws it: the compactor child's side."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fluxedge.log.history.days import BUSY_S, SCHEMA, ChunkHead, check, day_of, decode_group, refuse_others, telling
from fluxedge.model import Group

PAGE_BYTES = 2048  # an hour of few points leaves less of its last page empty than with 4096
WRITER_PRAGMAS = (
    f"page_size = {PAGE_BYTES}",  # before the first table
    "auto_vacuum = 2",  # before the first table
    "journal_mode = DELETE",
    "synchronous = EXTRA",
    "secure_delete = 0",
    "cache_spill = 0",  # spilling would lock readers out until the commit
)
_TABLES = (
    "CREATE TABLE meta (k TEXT PRIMARY KEY, v ANY) STRICT, WITHOUT ROWID",
    "CREATE TABLE groups (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, device TEXT NOT NULL, name TEXT NOT NULL,"
    " body BLOB NOT NULL) STRICT",
    "CREATE TABLE chunks (id INTEGER PRIMARY KEY, hour INTEGER NOT NULL, grp INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " first INTEGER NOT NULL, last INTEGER NOT NULL, n INTEGER NOT NULL, from_ns INTEGER NOT NULL,"
    " to_ns INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (hour, grp, epoch, first)) STRICT",
    "CREATE TABLE rollups (id INTEGER PRIMARY KEY, level INTEGER NOT NULL, start INTEGER NOT NULL,"
    " grp INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (level, start, grp)) STRICT",
)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)


def _set(connection: sqlite3.Connection) -> None:
    for pragma in WRITER_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _make(path: Path) -> None:
    """Make an empty day file; under its name it has its tables from the first moment on."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    connection = _connect(temporary)
    try:
        _set(connection)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", (("schema", SCHEMA), ("day", day_of(path))))
        connection.execute("COMMIT")
    finally:
        connection.close()
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # of a file that is gone: it would be rolled back
    temporary.rename(path)


class DayWriter:
    """Write one day file; every method is part of the caller's transaction (`begin`, `commit`)."""

    def __init__(self, path: Path) -> None:
        """Open a day file, or make it.

        Raises:
            DamagedDay: it is there and not what the compactor wrote.
            sqlite3.Error: it cannot be written.
        """
        self.path = path
        refuse_others(path)
        if not path.exists():
            _make(path)
        with telling(path):
            self.connection = _connect(path)
        self._numbers: dict[bytes, int] = {}
        try:
            with telling(path):
                _set(self.connection)
                check(self.connection, path)
        except BaseException:
            self.connection.close()
            raise

    def begin(self) -> None:
        """Begin a transaction."""
        with telling(self.path):
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable."""
        with telling(self.path):
            self.connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self.connection.close()

    def number_of(self, group: Group) -> int:
        """Return the number of a group in this file, which it gets before its first use."""
        number = self._numbers.get(group.key)
        if number is None:
            with telling(self.path):
                values = (group.key, group.device, group.name, group.to_bytes())
                self.connection.execute(
                    "INSERT OR IGNORE INTO groups (key, device, name, body) VALUES (?, ?, ?, ?)", values
                )
                row = self.connection.execute("SELECT id FROM groups WHERE key = ?", (group.key,)).fetchone()
            number = self._numbers[group.key] = int(row[0])
        return number

    def write_chunk(self, group: Group, head: ChunkHead, body: bytes) -> None:
        """Write a chunk; `head.id` and `head.grp` are given here. One with the same key is replaced."""
        values = (head.hour, self.number_of(group), *head[3:], body)
        with telling(self.path):
            self.connection.execute(
                "INSERT OR REPLACE INTO chunks (hour, grp, epoch, first, last, n, from_ns, to_ns, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def bodies(self, hour: int, number: int) -> list[tuple[int, bytes]]:
        """Return (epoch, body) of the chunks of one hour and group."""
        with telling(self.path):
            sql = "SELECT epoch, body FROM chunks WHERE hour = ? AND grp = ? ORDER BY epoch, first"
            return self.connection.execute(sql, (hour, number)).fetchall()

    def rollup_body(self, level: int, start: int, number: int) -> bytes | None:
        """Return a stored rollup."""
        with telling(self.path):
            sql = "SELECT body FROM rollups WHERE level = ? AND start = ? AND grp = ?"
            row = self.connection.execute(sql, (level, start, number)).fetchone()
        return None if row is None else row[0]

    def write_rollup(self, level: int, start: int, number: int, body: bytes | None) -> None:
        """Write a rollup in place of what was there; None: take it away."""
        with telling(self.path):
            where = "DELETE FROM rollups WHERE level = ? AND start = ? AND grp = ?"
            self.connection.execute(where, (level, start, number))
            if body is not None:
                sql = "INSERT INTO rollups (level, start, grp, body) VALUES (?, ?, ?, ?)"
                self.connection.execute(sql, (level, start, number, body))

    def leftovers(self, epoch: int, upto: int) -> list[tuple[int, int]]:
        """Take away the chunks of a run that did not end: those beyond `upto`. Return their (hour, group number)."""
        with telling(self.path):
            sql = "SELECT DISTINCT hour, grp FROM chunks WHERE epoch = ? AND first > ?"
            found = self.connection.execute(sql, (epoch, upto)).fetchall()
            if found:
                self.connection.execute("DELETE FROM chunks WHERE epoch = ? AND first > ?", (epoch, upto))
        return found

    def groups(self) -> dict[int, Group]:
        """Return the groups that can be read, by their number."""
        with telling(self.path):
            rows = self.connection.execute("SELECT id, body FROM groups").fetchall()
        decoded = {number: decode_group(body) for number, body in rows}
        return {number: group for number, group in decoded.items() if group is not None}
