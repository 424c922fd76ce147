"""What salvage writes into the new log: jobs of the writer, each repeatable and one transaction.

meta 'salvage'          the plan: which segment of which folder goes into which table; gone when it is done
meta 'salvage-begun'    the folder whose commands, state and clock are in the log already
rounds_1000000001 ...   filled without a row in table `segments`: nobody reads, counts or drops them before
"""

from __future__ import annotations

import re
import sqlite3
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from fluxedge.log import cursors, retention, segments
from fluxedge.log.cursors import Changes
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import Gap, Loss
from fluxedge.log.salvage.wreck import Found, Wreck
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import Group, Lane

COUNTED_ROWS = 5000  # rows looked at in one read transaction
_PLAN, _BEGUN = "salvage", "salvage-begun"
_HIDDEN = re.compile(r"(?:rounds|events)_(\d{10,})")
_GAP = "uplink, epoch, lane, lo, hi, why, at_ms, said_epoch, said_seq"
T = typing.TypeVar("T")
Rows = list[tuple[typing.Any, ...]]


def on_disk(job: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
    """Return a job that fails, and is repeated, while the log is in memory."""

    def work(connection: sqlite3.Connection) -> T:
        if not connection.execute("PRAGMA database_list").fetchone()[2]:
            raise sqlite3.OperationalError("the log is in memory for now")
        return job(connection)

    return work


class Target(msgspec.Struct, frozen=True):
    """A segment of the damaged log, and the number of the table that it goes to."""

    lane: int
    epoch: int
    first: int
    number: int


class Plan(msgspec.Struct, frozen=True):
    """What is copied from a folder."""

    folder: str
    targets: list[Target]


@dataclass(frozen=True, slots=True)
class Small:
    """What must be in the log before the first command is taken."""

    intents: Rows = field(default_factory=list)  # key, at_ms, request, result
    state: Rows = field(default_factory=list)  # k, v
    clock: Rows = field(default_factory=list)  # boot, mono_ms, utc_ms, source
    compacted: Rows = field(default_factory=list)  # epoch, upto
    uplinks: Rows = field(default_factory=list)  # uplink, lane


def read_small(wreck: Wreck) -> Small:
    """Read what of it can be read (blocking)."""

    def rows(name: str, columns: str, key: str, kinds: tuple[type, ...]) -> Rows:
        found = wreck.table(name, columns, key) if wreck.has(name) else []
        return [row for row in found if all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=False))]

    asked = rows("intents", "key, at_ms, request, result", "key", (str, int, bytes))
    return Small(
        [row for row in asked if row[3] is None or isinstance(row[3], bytes)],
        rows("state", "k, v", "k", (str, bytes)),
        rows("clock", "boot, mono_ms, utc_ms, source", "rowid", (int, int, int, str)),
        rows("compacted", "epoch, upto", "epoch", (int, int)),
        [row for row in rows("todo", "DISTINCT uplink, lane", "uplink, lane", (str, int)) if row[1] in (0, 1)],
    )


def write_small(connection: sqlite3.Connection, folder: str, small: Small, boot: int) -> bool:
    """Write it, once for a folder; tell whether it was new. Clock rows of boots that are counted anew are left out."""
    if _recall(connection, _BEGUN) == folder:
        return False
    write_intents(connection, small.intents)
    connection.executemany("INSERT OR IGNORE INTO state VALUES (?, ?)", small.state)
    older = small.clock if all(row[0] <= boot for row in small.clock) else []
    connection.executemany("DELETE FROM clock WHERE boot = ? AND mono_ms = ?", [row[:2] for row in older])
    connection.executemany("INSERT INTO clock (boot, mono_ms, utc_ms, source) VALUES (?, ?, ?, ?)", older)
    connection.executemany(
        "INSERT INTO compacted VALUES (?1, ?2) ON CONFLICT (epoch) DO UPDATE SET upto = max(upto, ?2)", small.compacted
    )
    _remember(connection, _BEGUN, folder)
    return True


def write_intents(connection: sqlite3.Connection, rows: Rows) -> None:
    """Write commands and their results; what is known by its key already stays."""
    connection.executemany("INSERT OR IGNORE INTO intents VALUES (?, ?, ?, ?)", rows)


def make_plan(connection: sqlite3.Connection, folder: str, chosen: list[Segment]) -> Plan:
    """Return the plan for a folder: the one that is under way, or a new one for the chosen segments."""
    text = _recall(connection, _PLAN)
    if text is not None:
        plan = msgspec.json.decode(text, type=Plan)
        if plan.folder == folder:
            return plan
    _drop_hidden(connection)  # of a folder that is gone
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM segments").fetchone()
    first = max(last, SALVAGED) + 1
    plan = Plan(folder, [Target(s.lane, s.epoch, s.first, number) for number, s in enumerate(chosen, first)])
    _remember(connection, _PLAN, msgspec.json.encode(plan).decode())
    return plan


def _drop_hidden(connection: sqlite3.Connection) -> None:
    named = {number for (number,) in connection.execute("SELECT number FROM segments")}
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in tables:
        found = _HIDDEN.fullmatch(name)
        if found and int(found[1]) > SALVAGED and int(found[1]) not in named:
            connection.execute(f"DROP TABLE {name}")


def write_rows(
    connection: sqlite3.Connection, target: Segment, found: list[Found], groups: Iterable[tuple[int, Group]]
) -> None:
    """Write whole rows, and the groups that they are of."""
    segments.make_table(connection, target)
    rows = [(number, group.key, group.to_bytes()) for number, group in groups]
    # not REPLACE: a group that has two numbers has its key under one of them only, and would lose that one
    connection.executemany("INSERT OR IGNORE INTO groups VALUES (?, ?, ?)", rows)
    for row, mono_ms, _ in found:
        segments.append(connection, target, row, mono_ms)


def count_rows(connection: sqlite3.Connection, target: Segment, after: int) -> Rows:
    """Return the next (seq, n, size, from_ns, to_ns) of a table; none behind its last row, or where there is none."""
    try:
        return connection.execute(
            f"SELECT seq, n, length(body), from_ns, to_ns FROM {target.table} WHERE seq > ? ORDER BY seq"
            f" LIMIT {COUNTED_ROWS}",
            (after,),
        ).fetchall()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return []
        raise


def grow(target: Segment, rows: Rows, held: RangeSet) -> int:
    """Note counted rows; return the seq of the last one."""
    for seq, count, size, from_ns, to_ns in rows:
        empty = target.last < target.first
        target.from_ns = from_ns if empty else min(target.from_ns, from_ns)
        target.to_ns = to_ns if empty else max(target.to_ns, to_ns)
        target.last = max(target.last, seq + count - 1)
        target.body_bytes += size
        held.add(seq, seq + count - 1)
    return int(rows[-1][0])


def write_quarantine(connection: sqlite3.Connection, rows: Rows) -> None:
    """Write what a peer had refused."""
    connection.executemany(
        "INSERT OR IGNORE INTO quarantine (uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


@dataclass(frozen=True, slots=True)
class Account:
    """What becomes of a damaged log's records."""

    held: list[Segment]  # whole, with sizes and stamps
    changes: Changes  # cursors with what is owed and there
    losses: list[Loss]  # owed and not there
    gaps: Rows  # of the damaged log, in the order of _GAP


def read_gaps(wreck: Wreck) -> Rows:
    """Return the gaps that a damaged log knew (blocking)."""
    found = wreck.table("gap", _GAP, "id") if wreck.has("gap") else []
    kinds = (str, int, int, int, int, str, int, int, int)
    return [row for row in found if all(isinstance(v, kind) for v, kind in zip(row, kinds, strict=True)) and row[2] < 2]


def take_in(connection: sqlite3.Connection, account: Account, now_ms: int) -> list[Gap]:
    """Make the copied tables segments of the log, and settle what is owed; return the gaps that must be announced."""
    for s in account.held:
        connection.execute(
            "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (s.lane, s.number, s.epoch, s.first, s.created_ms, s.last, s.body_bytes, s.from_ns, s.to_ns),
        )
    connection.executemany(f"INSERT OR IGNORE INTO gap ({_GAP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", account.gaps)
    unsaid: list[Loss] = [(row[0], row[1], Lane(row[2]), *row[3:6]) for row in account.gaps if row[8] == 0]
    gaps = [retention.add_gap(connection, loss, now_ms) for loss in unsaid]
    gaps += [gap for loss in account.losses for gap in retention.tear(connection, loss, now_ms)]
    cursors.save(connection, account.changes)
    _drop_hidden(connection)  # tables that stayed empty
    connection.execute("DELETE FROM meta WHERE k IN (?, ?)", (_PLAN, _BEGUN))
    return list({gap.id: gap for gap in gaps}.values())


def _recall(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT v FROM meta WHERE k = ?", (key,)).fetchone()
    return str(row[0]) if row is not None else None


def _remember(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
