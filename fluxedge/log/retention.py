"""Retention: whole segments go when they are copied and delivered, by age and by bytes.

What was not delivered goes as an announced gap. Rounds are copied to the history files by the compactor; events are not
copied, they stay until they are too old.
"""

from __future__ import annotations

import os
import sqlite3
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fluxedge.config.structs import LogCfg
from fluxedge.log import cursors, segments
from fluxedge.log.cursors import Changes
from fluxedge.log.ranges import RangeSet
from fluxedge.log.segments import Segment
from fluxedge.model import Lane

Loss = tuple[str, int, Lane, int, int, str]  # uplink, epoch, lane, lo, hi, why
_GAP_COLUMNS = "id, uplink, epoch, lane, lo, hi, why"


@dataclass(frozen=True, slots=True)
class Limits:
    """When segments go."""

    backlog_bytes: int  # the database with its WAL may take this much
    free_space_bytes: int  # and must leave this much to others
    keep_ms: dict[Lane, int]
    rotate_bytes: int  # a segment is closed at this size ...
    rotate_ms: dict[Lane, int]  # ... or at this age


def limits_of(cfg: LogCfg) -> Limits:
    """Return the limits that the table [log] means."""
    return Limits(
        backlog_bytes=cfg.backlog_bytes,
        free_space_bytes=cfg.free_space_bytes,
        keep_ms={Lane.ROUNDS: int(cfg.keep_s * 1000), Lane.EVENTS: int(cfg.keep_events_s * 1000)},
        rotate_bytes=cfg.segment_bytes,
        rotate_ms={
            # hours are what is compacted: a segment of more than one would stay for longer than it must
            Lane.ROUNDS: _between(60_000, int(cfg.keep_s * 1000 / 10), 3_600_000),
            Lane.EVENTS: _between(60_000, int(cfg.keep_events_s * 1000 / 10), 86_400_000),
        },
    )


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))


@dataclass(frozen=True, slots=True)
class Usage:
    """What the log takes of the disk."""

    used_bytes: int  # pages that hold something, the WAL and its index
    spare_bytes: int  # pages of the file that hold nothing: they are used again, not given back
    free_bytes: int  # what the file system leaves to unprivileged users


class Fate(typing.NamedTuple):
    """What it would cost to drop a segment."""

    owed: bool  # a configured uplink still has to deliver some of it
    copied: bool  # its rounds are in the history files; events count as copied


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that an uplink will not get."""

    id: int  # row of table gap
    uplink: str
    epoch: int
    lane: Lane
    lo: int
    hi: int
    why: str  # "age" | "backlog" | "disk" | "memory" | "damaged" | "away": dropped while the uplink was not configured


def measure(connection: sqlite3.Connection, path: Path) -> Usage:
    """Ask the database and its file system."""
    pages, spare, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    beside = sum(_size(f"{path}{suffix}") for suffix in ("-wal", "-shm"))
    return Usage((pages - spare) * size + beside, spare * size, free_bytes(path.parent))


def free_bytes(folder: Path) -> int:
    """Return what a file system leaves to unprivileged users; 0 when it cannot be asked."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def next_out(
    held: list[Segment], limits: Limits, usage: Usage, now_ms: int | None, fate: Callable[[Segment], Fate]
) -> tuple[Segment, str] | None:
    """Return the next segment that must go and why; None when nothing must. `now_ms` is None: the clock is not trusted.

    The current segment of a lane never goes. Rounds go as soon as they are copied and delivered. By age: a segment goes
    when what follows it in its lane is older than the lane's limit. By bytes: a segment of the lane that holds more, so
    that events outlive rounds; early enough that a whole segment still fits below the cap. For the free-space floor:
    only until room for a segment of each lane is spare in the file, because dropping gives nothing back to the file
    system, it only stops the file from growing.
    """
    lanes = [[segment for segment in held if segment.lane is lane][:-1] for lane in Lane]
    for segment in lanes[Lane.ROUNDS]:
        if fate(segment) == (False, True):
            return segment, "compacted"
    if now_ms is not None:
        for lane in Lane:
            mine = [segment for segment in held if segment.lane is lane]
            if len(mine) > 1 and _older_than(mine[1:], now_ms - limits.keep_ms[lane]):
                return mine[0], "age"
    if usage.used_bytes > limits.backlog_bytes - limits.rotate_bytes:
        why = "backlog"
    elif usage.free_bytes < limits.free_space_bytes and usage.spare_bytes < 2 * limits.rotate_bytes:
        why = "disk"
    else:
        return None
    heaviest = max(lanes, key=lambda mine: sum(segment.body_bytes for segment in mine))
    return (min(heaviest, key=lambda segment: _loss(fate(segment))), why) if heaviest else None


def _loss(fate: Fate) -> int:
    """Return how bad it is to drop a segment: delivery outranks history; of equals the oldest goes."""
    return 2 * fate.owed + (not fate.copied)


def _older_than(following: Iterable[Segment], limit_ms: int) -> bool:
    """Tell whether the first of the following segments that was made under a trusted clock is older than the limit."""
    return next((segment.created_ms < limit_ms for segment in following if segment.created_ms), False)


def dropped(held: list[Segment], epoch: int, lane: Lane, ranges: RangeSet) -> RangeSet:
    """Return what of the ranges no segment holds; changes them."""
    for segment in held:
        if segment.epoch == epoch and segment.lane is lane:
            ranges.remove(segment.first, segment.last)
    return ranges


def must_rotate(segment: Segment, limits: Limits, now_ms: int | None) -> bool:
    """Tell whether the current segment of a lane is full; `now_ms` is None while the clock is not trusted."""
    if segment.last < segment.first:
        return False
    if segment.body_bytes >= limits.rotate_bytes:
        return True
    # also when the clock has come to be trusted: the next segment has a stamp then, which tells the age of this one
    return now_ms is not None and now_ms - segment.created_ms >= limits.rotate_ms[segment.lane]


def evict(
    connection: sqlite3.Connection, segment: Segment, losses: list[Loss], changes: Changes, now_ms: int
) -> list[Gap]:
    """Drop a segment, with the cursors' changes and the gaps it tears; inside the caller's transaction.

    A gap whose event was in the segment, and which its uplink has not acknowledged, must be announced again.
    """
    segments.drop(connection, segment)
    cursors.save(connection, changes)
    return [gap for loss in losses for gap in tear(connection, loss, now_ms)]


def tear(connection: sqlite3.Connection, loss: Loss, now_ms: int) -> list[Gap]:
    """Write a gap; return it, and those whose events are lost with it, which must be announced again. Repeatable."""
    uplink, epoch, lane, lo, hi, _ = loss
    gaps = [add_gap(connection, loss, now_ms)]
    if lane is not Lane.EVENTS:
        return gaps
    where = "uplink = ? AND said_epoch = ? AND said_seq BETWEEN ? AND ?"
    unsaid = connection.execute(f"SELECT {_GAP_COLUMNS} FROM gap WHERE {where}", (uplink, epoch, lo, hi)).fetchall()
    connection.executemany("UPDATE gap SET said_epoch = 0, said_seq = 0 WHERE id = ?", [(row[0],) for row in unsaid])
    return gaps + [_gap(row) for row in unsaid]


def add_gap(connection: sqlite3.Connection, loss: Loss, now_ms: int) -> Gap:
    """Write a gap; repeatable. Inside the caller's transaction."""
    connection.execute(
        "INSERT OR IGNORE INTO gap (uplink, epoch, lane, lo, hi, why, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*loss, now_ms),
    )
    row = connection.execute(
        f"SELECT {_GAP_COLUMNS} FROM gap WHERE uplink = ? AND epoch = ? AND lane = ? AND lo = ? AND hi = ?", loss[:5]
    ).fetchone()
    return _gap(row)


def unannounced(connection: sqlite3.Connection) -> list[Gap]:
    """Return the gaps that no durable event has announced."""
    return [_gap(row) for row in connection.execute(f"SELECT {_GAP_COLUMNS} FROM gap WHERE said_seq = 0 ORDER BY id")]


def _gap(row: tuple[int, str, int, int, int, int, str]) -> Gap:
    number, uplink, epoch, lane, lo, hi, why = row
    return Gap(number, uplink, epoch, Lane(lane), lo, hi, why)
