"""Retention: whole segments go, oldest first, by age and by bytes; what was not delivered goes as an announced gap."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fluxedge.log.segments import Segment
from fluxedge.model import Lane


@dataclass(frozen=True, slots=True)
class Limits:
    """When segments go."""

    backlog_bytes: int  # the database with its WAL may take this much
    free_space_bytes: int  # and must leave this much to others
    keep_ms: dict[Lane, int]
    rotate_bytes: int  # a segment is closed at this size ...
    rotate_ms: int  # ... or at this age


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that an uplink will not get."""

    id: int  # row of table gap
    uplink: str
    epoch: int
    lane: Lane
    lo: int
    hi: int
    why: str  # "age" | "backlog" | "disk" | "damaged"


def used_bytes(connection: sqlite3.Connection, path: Path) -> int:
    """Return the bytes in use: pages that hold something, and the WAL. Dropped pages are used again, not returned."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    try:
        wal = os.stat(f"{path}-wal").st_size
    except OSError:
        wal = 0
    return (pages - free) * size + wal


def free_bytes(path: Path) -> int:
    """Return what the file system leaves to unprivileged users."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


def oldest_out(
    segments: list[Segment], limits: Limits, used: int, free: int, now_ms: int
) -> tuple[Segment, str] | None:
    """Return the next segment that must go and why; None when nothing must.

    The current segment of a lane never goes. By age: a segment goes when the next one of its lane is older than the
    lane's limit. By bytes: the oldest segment of the lane that holds more, so that events outlive rounds.
    """
    closed = {lane: [s for s in segments if s.lane is lane][:-1] for lane in Lane}
    for lane, candidates in closed.items():
        following = [s for s in segments if s.lane is lane][1:]
        if candidates and now_ms - following[0].created_ms > limits.keep_ms[lane]:
            return candidates[0], "age"
    why = "backlog" if used > limits.backlog_bytes else "disk" if free < limits.free_space_bytes else ""
    if not why:
        return None
    heavy = [lane for lane in Lane if closed[lane]]
    if not heavy:
        return None
    lane = max(heavy, key=lambda lane: sum(s.body_bytes for s in closed[lane]))
    return closed[lane][0], why


def must_rotate(segment: Segment, limits: Limits, now_ms: int) -> bool:
    """Tell whether the current segment of a lane is full."""
    if segment.last < segment.first:
        return False
    return segment.body_bytes >= limits.rotate_bytes or now_ms - segment.created_ms >= limits.rotate_ms
