"""Units of compaction: which rounds of the log are copied next, and where each of them belongs.

    seqs of an epoch   ──── compacted ────│════ unit: one hour of arrivals ════│════ next unit ════│── hour not closed
                                        upto                                  hi

A unit ends where the hour in which its first round arrived ends: there the first round of the next hour is found inside
a row, so that nearly all chunks hold a whole hour. Rounds arrive in the order of their seqs, whatever they are stamped
with, so a device whose clock is wrong holds nothing up. When a row arrived is told by the monotonic clock of its boot.

A round belongs to the hour of its stamp. Three exceptions, all by the hour of arrival: a stamp in the future by more
than a day; one so old that its day would be removed at once; more than a thousand different hours of one group in a
unit. Where our clock was not trusted, the stamp is what the log's table `clock` says. As long as that says nothing the
unit ends before such a round, for a day and in the running boot only; then it goes by its own stamp.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from fluxedge.clock import BUILD_DATE_NS
from fluxedge.log.body import DamagedBody, RawRound, Row, raw_rounds
from fluxedge.log.history.days import HOUR_NS
from fluxedge.log.placing import Places
from fluxedge.model import Flag, Group

DAY_NS = 24 * HOUR_NS
MOST_HOURS = 1000  # of one group in one unit
_OWN_TIME = Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME
_UNSYNCED, _SOURCE = int(Flag.CLOCK_UNSYNCED), int(Flag.SOURCE_TIME)


@dataclass(frozen=True, slots=True)
class Now:
    """When the compactor was started."""

    wall_ns: int
    mono_ns: int
    boot: int  # the log's number of the running boot
    oldest_ns: int  # days before this one are not kept

    @property
    def closed_ns(self) -> int:
        """Return where the hour begins that is not over yet."""
        return self.wall_ns // HOUR_NS * HOUR_NS


class RowHead(typing.NamedTuple):
    """A row without its body."""

    seq: int
    rounds: int
    boot: int
    mono_ms: int
    from_ns: int
    to_ns: int


@dataclass(slots=True)
class Unit:
    """Rounds of one epoch that are copied together."""

    epoch: int
    after: int  # seqs behind this one ...
    upto: int  # ... up to this one
    waiting: bool = False  # it ended before a round whose place is not known yet
    sizes: Counter[int] = field(default_factory=Counter)  # group id -> bytes of raw columns
    skipped_rows: int = 0  # damaged


class Placer:
    """Tell where rounds belong."""

    def __init__(self, now: Now, places: Places) -> None:
        self._now = now
        self._places = places
        self._hours: dict[int, set[int]] = {}  # group id -> hours in this unit

    def arrived_ns(self, head: RowHead) -> int:
        """Return when a row was committed; for another boot the best guess, never later than the running boot began."""
        now = self._now
        mono_ns = head.mono_ms * 10**6
        if head.boot == now.boot:
            return now.wall_ns - (now.mono_ns - mono_ns)
        began_ns = now.wall_ns - now.mono_ns
        placed = self._places.place(head.boot, mono_ns)
        return min(head.to_ns if placed is None else placed, began_ns)

    def must_wait(self, boot: int, raw: RawRound) -> bool:
        """Tell whether a round has no place yet and may get one."""
        if raw.flags & _OWN_TIME != _UNSYNCED or boot != self._now.boot:
            return False
        return self._places.place(boot, raw.mono_ns) is None and self._now.mono_ns - raw.mono_ns < DAY_NS

    def stamp_ns(self, boot: int, raw: RawRound) -> int:
        """Return the stamp that is kept: the round's own, or where the clock table puts it."""
        if raw.flags & _OWN_TIME != _UNSYNCED:
            return raw.at_ns
        placed = self._places.place(boot, raw.mono_ns)
        return raw.at_ns if placed is None or not -(2**63) <= placed < 2**63 else placed

    def begin_unit(self) -> None:
        """Forget which hours were seen."""
        self._hours.clear()

    def hour(self, group_id: int, stamp_ns: int, arrived_ns: int) -> int:
        """Return the hour, since 1970-01-01, that a round is filed under."""
        own = stamp_ns // HOUR_NS
        seen = self._hours.setdefault(group_id, set())
        if own in seen:
            return own
        was_set = arrived_ns >= BUILD_DATE_NS  # else our clock was never set, and cannot judge the device's
        plausible = self._now.oldest_ns <= stamp_ns and (stamp_ns < arrived_ns + DAY_NS or not was_set)
        if plausible and len(seen) < MOST_HOURS:
            seen.add(own)
            return own
        return arrived_ns // HOUR_NS


def hour_end_ns(arrived_ns: int) -> int:
    """Return where the hour ends in which something arrived."""
    return (arrived_ns // HOUR_NS + 1) * HOUR_NS


class UnitScan:
    """Find the end of one unit, row by row."""

    def __init__(self, epoch: int, after: int, now: Now, placer: Placer, groups: typing.Mapping[int, Group]) -> None:
        self.unit = Unit(epoch, after, after)
        self._now = now
        self._placer = placer
        self._groups = groups
        self._until_ns: int | None = None

    def take(self, head: RowHead, row: Row) -> bool:
        """Take in the next row; tell whether the unit may go on behind it."""
        arrived_ns = self._placer.arrived_ns(head)
        if self._until_ns is None:
            self._until_ns = min(hour_end_ns(arrived_ns), self._now.closed_ns)
        whole = arrived_ns < self._until_ns
        try:
            rounds = raw_rounds(row, self._groups)
        except DamagedBody:
            if whole:
                self.unit.skipped_rows += 1
                self.unit.upto = row.last
            return whole
        for seq, raw in rounds:
            if seq <= self.unit.after:
                continue
            if self._placer.must_wait(row.boot, raw):
                self.unit.waiting = True
                return False
            if not whole and (raw.flags & (_SOURCE | _UNSYNCED) or raw.at_ns >= self._until_ns):
                return False
            self.unit.upto = seq
            self.unit.sizes[raw.group_id] += raw.size_bytes
        return True  # also behind a row that came late: after a step of the clock there may be an hour of them


def raw_of(
    row: Row, unit: Unit, groups: typing.Mapping[int, Group], only: Container[int] | None = None
) -> list[tuple[int, RawRound]]:
    """Return (seq, round) of what a unit takes of a row, those whose group id is in `only`.

    Nothing of a damaged one, which the scan has counted.
    """
    try:
        rounds = raw_rounds(row, groups, only)
    except DamagedBody:
        return []
    if row.seq > unit.after and row.last <= unit.upto:
        return rounds
    return [(seq, raw) for seq, raw in rounds if unit.after < seq <= unit.upto]
