"""Which records are older than an instant: a seq up to which every row is, row by row, in short reads.

The stamps are those that were stored. A row whose latest stamp is young ends it, so that one late record among young
ones is never taken for an old row; a wrong stamp in the future keeps what follows it.
"""

from __future__ import annotations

import sqlite3
from functools import partial

from fluxedge.log.segments import Segment
from fluxedge.log.sums import Look

PAGE_ROWS = 1000  # in one read transaction: a longer one would pin the WAL


async def last_older(held: list[Segment], look: Look, limit_ns: int) -> int:
    """Return the last seq of the rows that are older, of segments of one epoch and lane, oldest first; 0 = none.

    Raises:
        LinkProblem: "log-damaged": the log cannot be read there.
    """
    last = 0
    for segment in held:
        if segment.last < segment.first:
            continue
        if not segment.unsummed and segment.to_ns < limit_ns:
            last = segment.last
            continue
        after = segment.first - 1
        while rows := await look(partial(_heads, segment=segment, after=after)):
            for seq, count, to_ns in rows:
                if to_ns >= limit_ns:
                    return last
                after, last = seq, seq + count - 1
    return last


def _heads(connection: sqlite3.Connection, segment: Segment, after: int) -> list[tuple[int, int, int]]:
    sql = f"SELECT seq, n, to_ns FROM {segment.table} WHERE seq > ? ORDER BY seq LIMIT {PAGE_ROWS}"
    try:
        return connection.execute(sql, (after,)).fetchall()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):  # retention has dropped it in the meantime
            return []
        raise
