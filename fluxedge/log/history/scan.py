"""One point's samples, hour by hour, across log and history without a seam.

    log.db      rounds with seq > compacted[epoch]      ─┐ merged by (stamp, epoch, seq) in each hour of UTC
    day files   rounds with seq <= compacted[epoch]     ─┘

`compacted` is read once, so a record that is on both sides is taken from one. The compactor may move the seam
meanwhile; nothing changes by that until a segment of the log is dropped. Then what is left of the scan begins again
with the new seam, from the hour on in which it was noticed: the hours before it are whole.
"""

from __future__ import annotations

import sqlite3
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fluxedge.log.history.buckets import DAY_NS, HOUR_NS
from fluxedge.log.history.days import ChunkHead
from fluxedge.log.history.hot import Block, Hot, Vanished
from fluxedge.log.history.past import Past
from fluxedge.log.history.samples import Samples, merged
from fluxedge.log.segments import Segment
from fluxedge.model import Group

T = typing.TypeVar("T")
AGAIN_MOST = 50  # times a scan begins again; segments are dropped minutes apart
NARROW_NS = 6 * HOUR_NS  # a block with stamps further apart is looked into at once
_EVER_NS = 2**63 - 1
Numbers = Mapping[int, tuple[Group, int]]  # groups that have the point -> (group, number of the point in it)


class Sides:
    """Both sides of the seam, of one state directory, and the points that a query is about."""

    def __init__(self, log: sqlite3.Connection, folder: Path) -> None:
        self.hot, self.past = Hot(log), Past(folder)
        self.points: tuple[str, ...] = ()
        self.segments: list[Segment] = []

    def refresh(self) -> None:
        """Look where the seam is now."""
        self.segments = self.hot.refresh()
        seam = {segment.epoch: 0 for segment in self.segments} | self.hot.compacted
        self.past.refresh(seam)

    def begin(self, points: tuple[str, ...]) -> None:
        """Begin a query."""
        self.points = points
        self.hot.damaged.clear()
        self.past.damaged.clear()
        self.refresh()

    @property
    def damaged(self) -> list[str]:
        """Return what could not be read since the query began."""
        return sorted(self.hot.damaged | self.past.damaged)

    def again(self, work: Callable[[], T]) -> T:
        """Do something that is repeated when the seam moved under it."""
        for _ in range(AGAIN_MOST):
            try:
                return work()
            except Vanished:
                self.refresh()
        return work()


@dataclass(slots=True)
class Hour:
    """One hour of one point, cut to the range that is asked for."""

    scan: Scan
    from_ns: int
    to_ns: int
    blocks: list[Block]  # of the log
    loose: list[Samples]  # of the log, already decoded
    heads: list[ChunkHead]  # of the day's file
    numbers: Numbers  # of the day's file

    @property
    def start_ns(self) -> int:
        """Return when the whole hour begins."""
        return self.from_ns // HOUR_NS * HOUR_NS

    @property
    def whole(self) -> bool:
        """Tell whether all of the hour is asked for."""
        return self.to_ns - self.from_ns == HOUR_NS

    def hot(self) -> list[Samples]:
        """Return what the log has of it."""
        name, sides = self.scan.name, self.scan.sides
        found = [part for block in self.blocks for part in sides.hot.samples(block, name, sides.points)]
        return [cut for part in [*found, *self.loose] if len(cut := part.between(self.from_ns, self.to_ns))]

    def parts(self) -> list[Samples]:
        """Return all its samples, in order."""
        parts = self.hot()
        day = self.from_ns // DAY_NS
        for head in self.heads:
            found = self.scan.sides.past.samples(day, head, self.numbers[head.grp][1])
            if found is not None:
                parts.append(found.between(self.from_ns, self.to_ns))
        return merged(parts)


@dataclass(slots=True)
class _Plan:
    """What there is of a range, by hours since 1970."""

    blocks: dict[int, list[Block]] = field(default_factory=dict)  # of the log, that can have some of the hour
    loose: dict[int, list[Samples]] = field(default_factory=dict)  # out of blocks and chunks that lie in many hours
    heads: dict[int, list[ChunkHead]] = field(default_factory=dict)
    numbers: dict[int, Numbers] = field(default_factory=dict)  # by days

    def spread(self, part: Samples) -> None:
        """Sort samples by their hours."""
        while len(part):
            end_ns = (part.at_ns[0] // HOUR_NS + 1) * HOUR_NS
            self.loose.setdefault(part.at_ns[0] // HOUR_NS, []).append(part.between(-_EVER_NS, end_ns))
            part = part.between(end_ns, _EVER_NS)


class Scan:
    """Go through one point's samples with a stamp in [from, to)."""

    def __init__(self, sides: Sides, name: str, from_ns: int, to_ns: int) -> None:
        self.sides = sides
        self.name = name
        self._from_ns, self._to_ns = from_ns, to_ns

    def each(self, work: Callable[[Hour], T]) -> Iterator[T]:
        """Yield what `work` makes of each hour that has samples, in order; it may be called again for an hour."""
        from_ns, tries = self._from_ns, 0
        while from_ns < self._to_ns:
            try:
                for hour in self._hours(from_ns):
                    made = work(hour)
                    from_ns = hour.to_ns
                    yield made
                return
            except Vanished:
                tries += 1
                if tries > AGAIN_MOST:
                    raise
                self.sides.refresh()

    def _hours(self, from_ns: int) -> Iterator[Hour]:
        plan = _Plan()
        self._plan_hot(plan, from_ns)
        self._plan_past(plan, from_ns)
        for hour in sorted({*plan.blocks, *plan.loose, *plan.heads}):
            start_ns = hour * HOUR_NS
            lo, hi = max(from_ns, start_ns), min(self._to_ns, start_ns + HOUR_NS)
            if lo < hi:
                blocks, loose, heads = plan.blocks.get(hour, []), plan.loose.get(hour, []), plan.heads.get(hour, [])
                yield Hour(self, lo, hi, blocks, loose, heads, plan.numbers.get(hour // 24, {}))

    def _plan_hot(self, plan: _Plan, from_ns: int) -> None:
        to_ns, hot = self._to_ns, self.sides.hot
        for segment in self.sides.segments:
            for block in hot.blocks(segment, from_ns, to_ns):
                if block.anywhere or block.to_ns - block.from_ns > NARROW_NS:
                    for part in hot.samples(block, self.name, self.sides.points):
                        plan.spread(part.between(from_ns, to_ns))
                    continue
                first, last = max(from_ns, block.from_ns) // HOUR_NS, min(to_ns - 1, block.to_ns) // HOUR_NS
                for hour in range(first, last + 1):
                    plan.blocks.setdefault(hour, []).append(block)

    def _plan_past(self, plan: _Plan, from_ns: int) -> None:
        past, to_ns = self.sides.past, self._to_ns
        past.note_unfinished(from_ns, to_ns)
        for day in past.days(from_ns, to_ns):
            numbers = plan.numbers[day] = past.point(day, self.name)
            for head in past.heads(day, numbers, from_ns, to_ns):
                if head.from_ns // HOUR_NS == head.to_ns // HOUR_NS == head.hour:
                    plan.heads.setdefault(head.hour, []).append(head)
                elif (part := past.samples(day, head, numbers[head.grp][1])) is not None:
                    plan.spread(part.between(from_ns, to_ns))


def before(sides: Sides, name: str, at_ns: int) -> Samples | None:
    """Return the last sample with a stamp before an instant, alone; None where there is none."""
    return sides.again(lambda: _later(_hot_before(sides, name, at_ns), _past_before(sides, name, at_ns)))


def _later(a: Samples | None, b: Samples | None) -> Samples | None:
    if a is None or b is None:
        return a or b
    return a if a.key(0) > b.key(0) else b


def _last(part: Samples, at_ns: int) -> Samples | None:
    part = part.between(-_EVER_NS, at_ns)
    return part.cut(len(part) - 1, len(part)) if len(part) else None


def _hot_before(sides: Sides, name: str, at_ns: int) -> Samples | None:
    found: Samples | None = None
    for segment in sorted(sides.segments, key=lambda segment: segment.to_ns, reverse=True):
        low_ns = -_EVER_NS if found is None else found.at_ns[0]  # an earlier one does not count any more
        blocks = sides.hot.blocks(segment, low_ns, at_ns)
        for block in sorted(blocks, key=lambda block: (block.anywhere, block.to_ns), reverse=True):
            if found is not None and not block.anywhere and block.to_ns < found.at_ns[0]:
                break
            for part in sides.hot.samples(block, name, sides.points):
                found = _later(found, _last(part, at_ns))
    return found


def _past_before(sides: Sides, name: str, at_ns: int) -> Samples | None:
    past = sides.past
    for day in reversed(past.days(-_EVER_NS, at_ns)):
        found: Samples | None = None
        numbers = past.point(day, name)
        heads = past.heads(day, numbers, -_EVER_NS, at_ns)
        for head in sorted(heads, key=lambda head: head.to_ns, reverse=True):
            if found is not None and head.to_ns < found.at_ns[0]:
                break
            part = past.samples(day, head, numbers[head.grp][1])
            if part is not None:
                found = _later(found, _last(part, at_ns))
        if found is not None:
            return found
    return None
