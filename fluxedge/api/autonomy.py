"""Hours of autonomy: for how long the log can wait for an uplink before it must give up what that has not had.

What ends the wait, whichever comes first:

    cap     log.db may take `backlog`, less one segment: housekeeping makes room before the cap is reached
    disk    the file grows until `free_space` is left; pages of dropped segments are used again, and the history files,
            which have a cap of their own, grow beside it
    age     the oldest record that waits becomes older than `keep` or `keep_events`

What stays meanwhile: every segment of the uplink's lanes from the oldest record that waits on, and the other lane, of
which the oldest go first as soon as it is the heavier one. What is older, or waits for other uplinks only, goes before.
The growth is that of the last ten minutes. Everything is in bytes of bodies; `factor` makes bytes on the disk of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxedge.config.structs import LogCfg
from fluxedge.log.ranges import RangeSet
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Lane

DISK_FACTOR = 1.25  # bytes on the disk per byte of bodies while too little is stored to measure; a guess
ENOUGH_BYTES = 1 << 20  # of bodies, to measure it
HISTORY_FACTOR = 0.5  # history grows by so much per byte of bodies: 0.71 to 1.2 against 2.24 B/pt, measured

Waiting = Mapping[Lane, Sequence[tuple[int, RangeSet]]]  # lane -> (epoch, ranges) that wait, oldest epoch first


@dataclass(frozen=True, slots=True)
class Space:
    """What the log takes of its cap and of its disk."""

    used_bytes: int  # pages that hold something, and the WAL
    spare_bytes: int  # pages that hold nothing
    free_bytes: int  # of the file system
    growth_per_s: float  # bytes of bodies


@dataclass(frozen=True, slots=True)
class Part:
    """What waits for an uplink in one lane."""

    records: int = 0
    bytes: int = 0  # of bodies, by the share of the records
    pinned_bytes: int = 0  # of the segments that stay for it
    oldest_ns: int = 0  # the earliest stamp of the first of them; 0 = nothing waits


def part(held: Sequence[Segment], lane: Lane, waiting: Sequence[tuple[int, RangeSet]]) -> Part:
    """Return what waits in a lane; segments and epochs come oldest first."""
    ranges = dict(waiting)
    records = size = pinned = oldest_ns = 0
    for segment in held:
        if segment.lane is not lane or segment.last < segment.first:
            continue
        mine = ranges.get(segment.epoch)
        count = sum(hi - lo + 1 for lo, hi in mine.intersect(segment.first, segment.last)) if mine else 0
        if count and not records:
            oldest_ns = segment.from_ns
        records += count
        size += segment.body_bytes * count // (segment.last - segment.first + 1)
        if records:
            pinned += segment.body_bytes
    return Part(records, size, pinned, oldest_ns)


def hours(cfg: LogCfg, space: Space, held: Sequence[Segment], waiting: Waiting, now_ns: int) -> float | None:
    """Return the hours that are left; None while the log does not grow, so that nothing can be said."""
    of_lane = {lane: sum(segment.body_bytes for segment in held if segment.lane is lane) for lane in Lane}
    bodies = sum(of_lane.values())
    if space.growth_per_s <= 0 or not bodies:
        return None
    factor = max(1.0, space.used_bytes / bodies) if bodies > ENOUGH_BYTES else DISK_FACTOR
    cap = int(cfg.backlog_bytes) - int(cfg.segment_bytes)
    disk = space.used_bytes + space.spare_bytes + max(0, space.free_bytes - int(cfg.free_space_bytes))
    beside = HISTORY_FACTOR if cfg.history_bytes else 0.0
    left_s: list[float] = []
    for lane, epochs in waiting.items():
        mine = part(held, lane, epochs)
        other = of_lane[Lane.EVENTS if lane is Lane.ROUNDS else Lane.ROUNDS]
        for room, growth in ((cap, factor), (disk, factor + beside)):
            free = room / factor - mine.pinned_bytes - min(other, room / factor / 2)
            left_s.append(free * factor / (space.growth_per_s * growth))
        keep_s = float(cfg.keep_s if lane is Lane.ROUNDS else cfg.keep_events_s)
        left_s.append(keep_s - max(0, now_ns - mine.oldest_ns) / 1e9 if mine.oldest_ns else keep_s)
    return round(max(0.0, min(left_s)) / 3600, 1) if left_s else None


def upto(ranges: RangeSet, head: int) -> RangeSet:
    """Return what waits of a cursor: not what the log will hold one day."""
    return RangeSet(ranges.intersect(1, min(head, OPEN_END - 1)))
