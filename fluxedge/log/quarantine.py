"""Quarantine: records that a peer refused for good, kept as they were sent until an operator decides.

    forward loop --refused--> add (with the commit that lets the cursor pass) --> row
    operator     --retry-->   mark      forward loop: wanted --> sent --> delivered | refused
                 --drop-->    drop      the rows go, an announced gap with why "dropped" stays

The table is bounded: beyond MOST_ROWS or MOST_BYTES of payload the oldest rows go, as announced gaps with why
"quarantine-full". All functions run inside the caller's transaction, called through Log.look and Log.write.
"""

from __future__ import annotations

import sqlite3
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from fluxedge.log import retention
from fluxedge.log.retention import Gap
from fluxedge.model import Lane

if typing.TYPE_CHECKING:
    from fluxedge.log.batch import QuarantineRow

MOST_ROWS = 10_000
MOST_BYTES = 64 << 20
FULL = "quarantine-full"
AT_ONCE = 200  # rows that one transaction looks at or changes: a longer one would hold up the next commit
_COLUMNS = "id, uplink, epoch, lane, lo, hi, reason, at_ms, content_type, length(payload), tries, again"


@dataclass(frozen=True, slots=True)
class Kept:
    """A row, without its payload."""

    id: int
    uplink: str
    epoch: int
    lane: Lane
    lo: int
    hi: int
    reason: str
    at_ms: int  # UTC: when it was refused last
    content_type: str
    payload_bytes: int
    tries: int
    again: bool  # an operator wants it to be sent once more

    @property
    def records(self) -> int:
        """Return how many records it holds."""
        return self.hi - self.lo + 1


class Total(typing.NamedTuple):
    """What an uplink has in quarantine."""

    rows: int = 0
    records: int = 0
    bytes: int = 0


def _kept(row: tuple[typing.Any, ...]) -> Kept:
    number, uplink, epoch, lane, lo, hi, reason, at_ms, kind, size, tries, again = row[:12]
    return Kept(number, uplink, epoch, Lane(lane), lo, hi, reason, at_ms, kind, size, tries, bool(again))


def add(connection: sqlite3.Connection, rows: Sequence[QuarantineRow], now_ms: int) -> list[Gap]:
    """Keep refused records aside; return the gaps of what had to go for them. Repeatable.

    Records that are here already were refused once more: their row stays, with one try more.
    """
    if not rows:
        return []
    connection.executemany(
        "INSERT INTO quarantine (uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uplink, epoch, lane, lo, hi) DO UPDATE SET"
        " tries = tries + (excluded.at_ms > at_ms), reason = excluded.reason, at_ms = excluded.at_ms,"
        " content_type = excluded.content_type, payload = excluded.payload, again = 0",
        rows,
    )
    return _trim(connection, now_ms)


def _trim(connection: sqlite3.Connection, now_ms: int) -> list[Gap]:
    """Let the oldest rows go until the table is within its bounds; return their gaps."""
    rows, size = connection.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM quarantine").fetchone()
    gone: list[int] = []
    if rows > MOST_ROWS or size > MOST_BYTES:
        for number, payload_bytes in connection.execute("SELECT id, length(payload) FROM quarantine ORDER BY id"):
            if rows <= MOST_ROWS and size <= MOST_BYTES:
                break
            gone.append(number)
            rows, size = rows - 1, size - payload_bytes
    drop(connection, gone, now_ms, FULL)
    # Also those of a commit that was reported as failed, but had succeeded: its repetition finds the rows gone.
    return [gap for gap in retention.unannounced(connection) if gap.why == FULL]


def page(connection: sqlite3.Connection, uplink: str = "", after: int = 0, limit: int = AT_ONCE) -> list[Kept]:
    """Return the rows behind the id `after`, oldest first; of all uplinks when none is named."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM quarantine WHERE id > ?1 AND (?2 = '' OR uplink = ?2) ORDER BY id LIMIT ?3",
        (after, uplink, limit),
    )
    return [_kept(row) for row in found.fetchall()]


def find(connection: sqlite3.Connection, number: int) -> tuple[Kept, bytes] | None:
    """Return a row with its payload, None when there is no such row."""
    row = connection.execute(f"SELECT {_COLUMNS}, payload FROM quarantine WHERE id = ?", (number,)).fetchone()
    return None if row is None else (_kept(row), row[12])


def totals(connection: sqlite3.Connection) -> dict[str, Total]:
    """Return uplink -> what it has in quarantine."""
    found = connection.execute(
        "SELECT uplink, count(*), sum(hi - lo + 1), sum(length(payload)) FROM quarantine GROUP BY uplink"
    )
    return {row[0]: Total(*row[1:]) for row in found.fetchall()}


def never_delivered(connection: sqlite3.Connection, uplink: str, lane: Lane) -> list[tuple[int, int, int]]:
    """Return (epoch, lo, hi) of what an uplink's cursor has passed although its peer has not had it."""
    sql = "SELECT epoch, lo, hi FROM {} WHERE uplink = ? AND lane = ?"
    found = connection.execute(f"{sql.format('quarantine')} UNION ALL {sql.format('gap')}", (uplink, lane) * 2)
    return found.fetchall()


def mark(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Kept]:
    """Note that rows shall be sent once more; return those that exist. Repeatable."""
    found = some(connection, numbers)
    connection.executemany("UPDATE quarantine SET again = 1 WHERE id = ?", [(kept.id,) for kept in found])
    return found


def wanted(connection: sqlite3.Connection, uplink: str, after: int, limit: int) -> list[tuple[Kept, bytes]]:
    """Return marked rows of an uplink behind the id `after`, with their payloads, oldest first."""
    found = connection.execute(
        f"SELECT {_COLUMNS}, payload FROM quarantine WHERE uplink = ? AND again = 1 AND id > ? ORDER BY id LIMIT ?",
        (uplink, after, limit),
    )
    return [(_kept(row), row[12]) for row in found.fetchall()]


def delivered(connection: sqlite3.Connection, number: int) -> None:
    """Forget a row: the peer has acknowledged it after all. Repeatable."""
    connection.execute("DELETE FROM quarantine WHERE id = ?", (number,))


def refused(connection: sqlite3.Connection, number: int, reason: str, at_ms: int) -> None:
    """Note that a marked row was refused once more. Repeatable."""
    connection.execute(
        "UPDATE quarantine SET tries = tries + again, again = 0, reason = ?, at_ms = ? WHERE id = ?",
        (reason, at_ms, number),
    )


def drop(
    connection: sqlite3.Connection, numbers: Sequence[int], now_ms: int, why: str = "dropped"
) -> tuple[list[Kept], list[Gap]]:
    """Delete rows; return those that existed and their gaps, which are to be announced. Repeatable."""
    found = some(connection, numbers)
    gaps = [
        retention.add_gap(connection, (kept.uplink, kept.epoch, kept.lane, kept.lo, kept.hi, why), now_ms)
        for kept in found
    ]
    connection.executemany("DELETE FROM quarantine WHERE id = ?", [(kept.id,) for kept in found])
    return found, gaps


def some(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Kept]:
    """Return those of the rows that exist."""
    found: list[Kept] = []
    for number in numbers:
        row = connection.execute(f"SELECT {_COLUMNS} FROM quarantine WHERE id = ?", (number,)).fetchone()
        if row is not None:
            found.append(_kept(row))
    return found
