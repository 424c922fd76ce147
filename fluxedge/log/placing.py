"""Placing: where in UTC a record stands that was stamped before the clock was set.

    clock (boot, mono_ms, utc_ms, source)     a row for every change of what is known: utc = mono + (utc_ms - mono_ms)

    mono of a boot   0 ........ 600 s ............ 5000 s .........
    rows                        ntp                step +3600 s
    a record         `---- by the first row ---'`-- by the row before it --

A record says itself whether it wants to be placed: CLOCK_UNSYNCED, and no time of the device's own. Rows of the log are
never rewritten; whoever shows or copies a record places it.
"""

from __future__ import annotations

import bisect
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from fluxedge.model import Flag, Record, Round

ClockRow = tuple[int, int, int, str]  # boot, mono_ms, utc_ms, source; as batch.ClockRow, which readers need not load
_OWN_TIME = Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME


class Places:
    """What the clock rows say."""

    def __init__(self, rows: Iterable[ClockRow] = ()) -> None:
        self._boots: dict[int, tuple[list[int], list[int]]] = {}  # boot -> (mono_ns, ascending; utc_ns - mono_ns)
        for boot, mono_ms, utc_ms, _ in sorted(rows, key=lambda row: row[:2]):  # stable: of two at once the later
            monos, ahead = self._boots.setdefault(boot, ([], []))
            monos.append(mono_ms * 10**6)
            ahead.append((utc_ms - mono_ms) * 10**6)

    def place(self, boot: int, mono_ns: int) -> int | None:
        """Return UTC, ns, at an instant of a boot; None where the clock was never set in that boot."""
        found = self._boots.get(boot)
        if found is None:
            return None
        monos, ahead = found
        return mono_ns + ahead[max(0, bisect.bisect_right(monos, mono_ns) - 1)]

    def of(self, record: Record) -> int | None:
        """Return where a record belongs; None where its own stamp holds, or nobody knows better."""
        body = record.body
        if body.flags & _OWN_TIME != Flag.CLOCK_UNSYNCED:
            return None
        return self.place(record.boot, body.arrived_mono_ns if isinstance(body, Round) else body.mono_ns)


NOWHERE = Places()


def rows_of(connection: sqlite3.Connection) -> list[ClockRow]:
    """Return the clock rows, as they were written."""
    return connection.execute("SELECT boot, mono_ms, utc_ms, source FROM clock ORDER BY rowid").fetchall()


def load(connection: sqlite3.Connection) -> Places:
    """Return what the clock rows of a log say."""
    return Places(rows_of(connection))


async def load_file(path: Path) -> Places:
    """Return what the clock rows of a log say that is read without its gateway; nothing where it has none."""
    import asyncio  # children place records too, and need no loop

    return await asyncio.to_thread(_read, path)


def _read(path: Path) -> Places:
    for how in ("mode=ro", "mode=ro&immutable=1"):  # the second: at rest, in a folder that we cannot write
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
        except sqlite3.Error:
            continue
        try:
            return load(connection)
        except sqlite3.Error:
            continue
        finally:
            connection.close()
    return NOWHERE


def note(connection: sqlite3.Connection, row: ClockRow) -> None:
    """Write a clock row; repeatable. Inside the caller's transaction."""
    connection.execute("DELETE FROM clock WHERE boot = ? AND mono_ms = ?", row[:2])
    connection.execute("INSERT INTO clock (boot, mono_ms, utc_ms, source) VALUES (?, ?, ?, ?)", row)


def forget(connection: sqlite3.Connection, before_ms: int) -> None:
    """Drop the rows of boots that ended before this time, UTC; inside the caller's transaction."""
    connection.execute(
        "DELETE FROM clock WHERE boot < (SELECT max(boot) FROM clock)"
        " AND boot IN (SELECT boot FROM clock GROUP BY boot HAVING max(utc_ms) < ?)",
        (before_ms,),
    )


def boot_of(connection: sqlite3.Connection, table: str, seq: int) -> int | None:
    """Return the boot in which a segment's record was committed; None when there is no such record."""
    row = connection.execute(f"SELECT boot FROM {table} WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (seq,)).fetchone()
    return int(row[0]) if row else None
