"""Segments: tables of one lane and one epoch, appended to, read by seq and dropped whole.

    rounds_NNN / events_NNN (seq INTEGER PRIMARY KEY, n, boot, mono_ms, codec, crc, body)

A row is one commit's batch; seq is its first record's. Rows are never deleted one by one: DELETE of a million rows
writes 250 times what DROP TABLE does.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from fluxedge.log.body import Row
from fluxedge.model import Lane


@dataclass(slots=True)
class Segment:
    """One segment as the writer knows it. `last` and `bytes` grow while it is the current one of its lane."""

    lane: Lane
    number: int
    epoch: int
    first: int  # seq of its first record
    created_ms: int
    last: int  # seq of its last record; first - 1 while it is empty
    body_bytes: int

    @property
    def table(self) -> str:
        """Return the name of its table."""
        return f"{self.lane.label}_{self.number:03d}"


def create(connection: sqlite3.Connection, segment: Segment) -> None:
    """Make an empty segment; inside the caller's transaction."""
    connection.execute(
        f"CREATE TABLE {segment.table} (seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, boot INTEGER NOT NULL,"
        " mono_ms INTEGER NOT NULL, codec INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT"
    )
    connection.execute(
        "INSERT INTO segments (lane, number, epoch, first, created_ms) VALUES (?, ?, ?, ?, ?)",
        (segment.lane, segment.number, segment.epoch, segment.first, segment.created_ms),
    )


def drop(connection: sqlite3.Connection, segment: Segment) -> None:
    """Remove a segment with all its rows; inside the caller's transaction."""
    connection.execute(f"DROP TABLE {segment.table}")
    connection.execute("DELETE FROM segments WHERE lane = ? AND number = ?", (segment.lane, segment.number))


def load(connection: sqlite3.Connection) -> list[Segment]:
    """Return all segments, oldest first in each lane."""
    found = []
    rows = connection.execute("SELECT lane, number, epoch, first, created_ms FROM segments ORDER BY lane, number")
    for lane, number, epoch, first, created_ms in rows.fetchall():
        segment = Segment(Lane(lane), number, epoch, first, created_ms, first - 1, 0)
        last, size = connection.execute(
            f"SELECT coalesce(max(seq + n - 1), ?), coalesce(sum(length(body)), 0) FROM {segment.table}", (first - 1,)
        ).fetchone()
        segment.last, segment.body_bytes = last, size
        found.append(segment)
    return found


def append(connection: sqlite3.Connection, segment: Segment, row: Row, mono_ms: int) -> None:
    """Write one row. A repeated write of the same seq replaces it: a commit that failed may have succeeded."""
    connection.execute(
        f"INSERT OR REPLACE INTO {segment.table} VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.seq, row.count, row.boot, mono_ms, row.codec, row.crc, row.body),
    )


def read(connection: sqlite3.Connection, segment: Segment, seq: int, limit_bytes: int) -> list[Row]:
    """Return rows from the one that holds `seq` on, until `limit_bytes` of bodies are full; at least one if any."""
    start = connection.execute(
        f"SELECT coalesce(max(seq), ?) FROM {segment.table} WHERE seq <= ?", (seq, seq)
    ).fetchone()[0]
    rows: list[Row] = []
    size = 0
    cursor = connection.execute(
        f"SELECT seq, n, boot, codec, crc, body FROM {segment.table} WHERE seq >= ? ORDER BY seq", (start,)
    )
    for first, count, boot, codec, crc, body in cursor:
        if rows and size + len(body) > limit_bytes:
            break
        rows.append(Row(segment.epoch, segment.lane, first, count, boot, codec, crc, body))
        size += len(body)
    cursor.close()
    return rows
