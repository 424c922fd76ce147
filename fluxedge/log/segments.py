"""Segments: tables of one lane and one epoch, appended to, read by seq and dropped whole.

    rounds_NNN / events_NNN (seq INTEGER PRIMARY KEY, n, boot, mono_ms, from_ns, to_ns, codec, crc, body)

A row is one commit's batch; seq is its first record's, from_ns and to_ns are the earliest and the latest stamp in it.
Rows are never deleted one by one: DELETE of a million rows writes 250 times what DROP TABLE does.

A segment is closed when the next one of its lane is made; its last seq, size and stamps are then kept in the table
`segments`, so that opening the log looks at the last row of the two current segments only. What else they hold is
summed up beside the work that goes on; a segment that is closed before that stays without sums, and readers make them.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from fluxedge.log.body import Row
from fluxedge.model import Lane

SALVAGED = 10**9  # numbers above are of salvaged segments: they come from older epochs and are never the current one
SUMMED_ROWS = 1000  # in one read transaction: a longer one would pin the WAL


@dataclass(slots=True)
class Segment:
    """One segment as the loop knows it. What is below `created_ms` grows while it is the current one of its lane."""

    lane: Lane
    number: int
    epoch: int
    first: int  # seq of its first record
    created_ms: int  # UTC as clock.AgeClock counts it; 0 = the clock was not trusted
    last: int  # seq of its last record; first - 1 while it is empty
    body_bytes: int = 0
    from_ns: int = 0  # earliest and latest stamp of its records
    to_ns: int = 0
    unsummed: int = 0  # rows up to this seq are not in `body_bytes` and the stamps yet; the last one is in the stamps

    @property
    def table(self) -> str:
        """Return the name of its table."""
        return f"{self.lane.label}_{self.number:03d}"

    def grow(self, row: Row) -> None:
        """Note a row that was committed."""
        empty = self.last < self.first
        self.from_ns = row.from_ns if empty else min(self.from_ns, row.from_ns)
        self.to_ns = row.to_ns if empty else max(self.to_ns, row.to_ns)
        self.last = row.last
        self.body_bytes += len(row.body)


def create(connection: sqlite3.Connection, segment: Segment) -> None:
    """Make an empty segment; inside the caller's transaction. Repeatable: a commit that failed may have succeeded."""
    make_table(connection, segment)
    connection.execute(
        "INSERT OR REPLACE INTO segments (lane, number, epoch, first, created_ms) VALUES (?, ?, ?, ?, ?)",
        (segment.lane, segment.number, segment.epoch, segment.first, segment.created_ms),
    )


def make_table(connection: sqlite3.Connection, segment: Segment) -> None:
    """Make the table of a segment, without naming it in the table of segments."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {segment.table} (seq INTEGER PRIMARY KEY, n INTEGER NOT NULL,"
        " boot INTEGER NOT NULL, mono_ms INTEGER NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL,"
        " codec INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT"
    )


def close(connection: sqlite3.Connection, segment: Segment) -> None:
    """Note what a segment holds, once and for all; inside the caller's transaction.

    A commit that was reported as failed may have left a row that is now written to the next segment.
    """
    connection.execute(f"DELETE FROM {segment.table} WHERE seq > ?", (segment.last,))
    if segment.unsummed:
        return
    connection.execute(
        "UPDATE segments SET last = ?, bytes = ?, from_ns = ?, to_ns = ? WHERE lane = ? AND number = ?",
        (segment.last, segment.body_bytes, segment.from_ns, segment.to_ns, segment.lane, segment.number),
    )


def drop(connection: sqlite3.Connection, segment: Segment) -> None:
    """Remove a segment with all its rows; inside the caller's transaction."""
    connection.execute(f"DROP TABLE IF EXISTS {segment.table}")
    connection.execute("DELETE FROM segments WHERE lane = ? AND number = ?", (segment.lane, segment.number))


def load(connection: sqlite3.Connection) -> list[Segment]:
    """Return all segments, oldest first in each lane."""
    rows = connection.execute(
        "SELECT lane, number, epoch, first, created_ms, last, bytes, from_ns, to_ns FROM segments"
        " ORDER BY lane, epoch, first"  # not by number: what is salvaged has new numbers
    )
    found = []
    for lane, number, epoch, first, created_ms, *held in rows.fetchall():
        segment = Segment(Lane(lane), number, epoch, first, created_ms, first - 1)
        if held[0] is None:
            held = _last_row(connection, segment)
            segment.unsummed = held[0] if held[0] >= first else 0
        segment.last, segment.body_bytes, segment.from_ns, segment.to_ns = held
        found.append(segment)
    return found


def _last_row(connection: sqlite3.Connection, segment: Segment) -> list[int]:
    row = connection.execute(
        f"SELECT seq + n - 1, 0, from_ns, to_ns FROM {segment.table} ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return list(row) if row else [segment.first - 1, 0, 0, 0]


def some_sums(connection: sqlite3.Connection, segment: Segment, after: int) -> tuple[int, int, int, int] | None:
    """Return (seq of the last row, body bytes, earliest, latest stamp) of the next unsummed rows; None behind them."""
    seq, *held = connection.execute(
        "SELECT max(seq), sum(size), min(from_ns), max(to_ns) FROM (SELECT seq, length(body) AS size, from_ns, to_ns"
        f" FROM {segment.table} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {SUMMED_ROWS})",
        (after, segment.unsummed),
    ).fetchone()
    return None if seq is None else (seq, *held)


def sums(segment: Segment) -> str:
    """Return the question for last seq, body bytes and stamps of a segment; its parameter is the seq before the first.

    A transaction that reads this looks at the heads of at most one segment's rows.
    """
    return (
        "SELECT coalesce(max(seq + n - 1), ?), coalesce(sum(length(body)), 0), coalesce(min(from_ns), 0),"
        f" coalesce(max(to_ns), 0) FROM {segment.table}"
    )


def append(connection: sqlite3.Connection, segment: Segment, row: Row, mono_ms: int) -> None:
    """Write one row. A repeated write of the same seq replaces it: a commit that failed may have succeeded."""
    connection.execute(
        f"INSERT OR REPLACE INTO {segment.table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.seq, row.count, row.boot, mono_ms, row.from_ns, row.to_ns, row.codec, row.crc, row.body),
    )


def read(connection: sqlite3.Connection, segment: Segment, seq: int, limit_bytes: int) -> list[Row]:
    """Return rows from the one that holds `seq` on, until `limit_bytes` of bodies are full; at least one if any.

    Rows end before one that cannot be read; sqlite3.Error when that is the first.
    """
    rows: list[Row] = []
    size = 0
    cursor = connection.execute(
        f"SELECT seq, n, boot, codec, crc, body, from_ns, to_ns FROM {segment.table}"
        f" WHERE seq >= coalesce((SELECT max(seq) FROM {segment.table} WHERE seq <= ?1), 0) AND seq + n > ?1"
        " ORDER BY seq",
        (seq,),
    )
    try:
        for first, count, boot, codec, crc, body, from_ns, to_ns in cursor:
            if rows and size + len(body) > limit_bytes:
                break
            rows.append(Row(segment.epoch, segment.lane, first, count, boot, codec, crc, body, from_ns, to_ns))
            size += len(body)
    except sqlite3.Error:
        if not rows:
            raise  # else the next read meets it at its first row
    finally:
        cursor.close()  # an open statement would pin the WAL
    return rows


def readable_from(connection: sqlite3.Connection, segment: Segment, seq: int) -> int:
    """Return the first seq of a row behind `seq` that can be read; the segment's last + 1 when there is none.

    A damaged page hides the rows that follow each other in it (or, an inner one, those below it): steps that double
    find a row behind it, halving finds the first. Rows between two damaged pages may be taken for a part of it.
    """
    bad, step = seq, 1
    while (found := _row_from(connection, segment, bad + step)) is None:
        bad += step
        if bad > segment.last:
            return segment.last + 1
        step *= 2
    good = bad + step
    while good - bad > 1:
        middle = (bad + good) // 2
        row = _row_from(connection, segment, middle)
        if row is None:
            bad = middle
        else:
            good, found = middle, row
    return found


def _row_from(connection: sqlite3.Connection, segment: Segment, seq: int) -> int | None:
    """Return the first seq of the first row from `seq` on, last + 1 where there is none; None: it cannot be read."""
    try:
        sql = f"SELECT seq, body FROM {segment.table} WHERE seq >= ? ORDER BY seq LIMIT 1"
        row = connection.execute(sql, (seq,)).fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row else segment.last + 1
