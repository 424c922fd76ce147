"""Intents: which commands were asked for and what became of them, by key. Bounded by age and by number.

A row is written before its command reaches the wire, and answered by its result. One without an answer was interrupted,
or is under way: it never goes. at_ms is the time that ages are counted in (clock.AgeClock). Below zero it is an instant
of a boot whose clock was not trusted yet: such a command counts as new when the clock is set, so that its key is not
forgotten because of a stamp of 1970.
"""

from __future__ import annotations

import sqlite3

KEPT_MS = 86_400_000  # a command's key is remembered this long ...
UNTRUSTED_MS = 2**52  # what lies between an instant of such a boot and its at_ms
KEPT = 20_000  # ... unless so many came after it; they take about 25 MB of the log's cap
FORGOTTEN_AT_ONCE = 2_000  # rows deleted in one transaction: the writer has commits to do


def stamp_ms(age_ms: int | None, mono_ms: int) -> int:
    """Return at_ms of a command that is asked for now; `age_ms` is None while the clock is not trusted."""
    return mono_ms - UNTRUSTED_MS if age_ms is None else age_ms


def find(connection: sqlite3.Connection, key: str) -> tuple[bytes, bytes | None] | None:
    """Return the command with this key: (request, result or None)."""
    row: tuple[bytes, bytes | None] | None = connection.execute(
        "SELECT request, result FROM intents WHERE key = ?", (key,)
    ).fetchone()
    return row


def unanswered(connection: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Return commands without a result behind the key `after`, in the order of keys: (key, request)."""
    return connection.execute(
        "SELECT key, request FROM intents WHERE result IS NULL AND key > ? ORDER BY key LIMIT ?", (after, limit)
    ).fetchall()


def forget(connection: sqlite3.Connection, now_ms: int | None) -> bool:
    """Delete answered commands that are too old or too many, oldest first; tell whether there are more to delete.

    `now_ms` is None while the clock is not trusted: then nothing is too old.
    """
    if now_ms is not None:
        connection.execute("UPDATE intents SET at_ms = ? WHERE at_ms < 0", (now_ms,))
    (count,) = connection.execute("SELECT count(*) FROM intents").fetchone()
    excess = max(0, count - KEPT)
    old = "result IS NOT NULL ORDER BY at_ms LIMIT ?"
    gone = _delete(connection, old, min(excess, FORGOTTEN_AT_ONCE))
    if now_ms is not None and gone < FORGOTTEN_AT_ONCE:
        aged = "result IS NOT NULL AND at_ms < ? LIMIT ?"
        gone += _delete(connection, aged, now_ms - KEPT_MS, FORGOTTEN_AT_ONCE - gone)
    return gone == FORGOTTEN_AT_ONCE


def _delete(connection: sqlite3.Connection, which: str, *values: int) -> int:
    return connection.execute(
        f"DELETE FROM intents WHERE key IN (SELECT key FROM intents WHERE {which})", values
    ).rowcount
