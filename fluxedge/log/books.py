"""What the loop knows of a log: epoch, heads, segments, groups, cursors, and what waits to be written.

One owner, the loop; no disk. Both media of the log (media.py) are written from these books.
"""

from __future__ import annotations

from fluxedge.clock import AgeClock, Clock
from fluxedge.config.structs import LogCfg
from fluxedge.log import retention
from fluxedge.log.batch import Place, QuarantineRow
from fluxedge.log.cursors import Cursors, Key
from fluxedge.log.database import Opened
from fluxedge.log.groups import Groups
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import Fate, Gap, Limits, Loss
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import OPEN_END, Lane


class Books:
    """The state of a log, as the loop sees it."""

    def __init__(self, cfg: LogCfg, clock: Clock) -> None:
        self.clock = clock
        self.age = AgeClock(clock, 0)
        self.limits = retention.limits_of(cfg)
        self.epoch = 0
        self.boot = 0
        self.heads = dict.fromkeys(Lane, 0)
        self.held: list[Segment] = []  # oldest first in each lane
        self.groups = Groups()
        self.cursors = Cursors(0)
        self.unannounced: list[Gap] = []
        self.compacted: dict[int, int] = {}  # epoch -> rounds up to this seq are in the history files
        self.aside: list[QuarantineRow] = []  # quarantine rows that are not written yet
        self.lost: list[Loss] = []  # gaps that are not written yet
        self.laid_aside: dict[Key, RangeSet] = {}  # what was owed of a log that was set aside while it was in use

    def load(self, opened: Opened) -> None:
        """Take over what a database holds; blocking."""
        self.epoch, self.boot = opened.epoch, opened.boot
        self.held, self.heads = opened.segments, dict(opened.heads)
        self._sort()
        self.age = AgeClock(self.clock, max((segment.created_ms for segment in self.held), default=0))
        self.groups = Groups()
        self.cursors = Cursors(opened.epoch)
        self.unannounced, self.lost, self.compacted = [], [], {}
        self._read_tables(opened)
        self.cursors.go_on()

    def merge(self, opened: Opened) -> None:
        """Take over what a database holds beside what is here already; blocking."""
        self.boot = opened.boot
        self.held = opened.segments + self.held
        self._read_tables(opened)
        self.cursors.go_on()

    def _read_tables(self, opened: Opened) -> None:
        connection = opened.connection
        self.groups.load(connection)
        self.cursors.load(connection)
        for epoch, lane, lo, hi in opened.missing:
            self.lose_for_all(epoch, lane, lo, hi)
        for epoch, lane in self.cursors.epochs():
            if epoch != self.epoch:
                self.cursors.close_epoch(epoch, lane, self.last_of(epoch, lane))
        self.unannounced += retention.unannounced(connection)
        self.compacted |= dict(connection.execute("SELECT epoch, upto FROM compacted").fetchall())

    def turn_to(self, epoch: int) -> None:
        """End the present epoch at its heads and begin another one, which is owed to every known uplink."""
        for lane in Lane:
            self.cursors.close_epoch(self.epoch, lane, self.heads[lane])
        self.epoch = epoch
        self.heads = dict.fromkeys(Lane, 0)
        self.cursors.turn_to(epoch)

    def now_ms(self) -> int:
        """Return UTC."""
        return self.clock.wall_ns() // 10**6

    def trusted_ms(self) -> int | None:
        """Return the time that ages are counted in: it does not leap with UTC; None while UTC was never trusted."""
        return self.age.now_ms()

    # --- segments -----------------------------------------------------------------------------------------------------

    def segments(self) -> list[Segment]:
        """Return the segments, oldest first in each lane."""
        return list(self.held)

    def holding(self, epoch: int, lane: Lane, seq: int) -> Segment | None:
        """Return the first segment that reaches to `seq` or beyond."""
        return next((s for s in self.held if s.lane is lane and s.epoch == epoch and s.last >= seq), None)

    def last_of(self, epoch: int, lane: Lane) -> int:
        """Return the last seq that is held of an epoch; 0 when none is."""
        return max((s.last for s in self.held if s.epoch == epoch and s.lane is lane), default=0)

    def first_seq(self, epoch: int, lane: Lane) -> int:
        """Return the oldest seq that is still held; head + 1 when none is."""
        mine = [s.first for s in self.held if s.epoch == epoch and s.lane is lane]
        return min(mine, default=self.heads[lane] + 1 if epoch == self.epoch else 1)

    def place(self, lane: Lane, limits: Limits, closing: bool) -> Place:
        """Return where the next batch of a lane goes; a segment that is full is closed, where it is `closing`."""
        mine = [s for s in self.held if s.lane is lane]
        current = mine[-1] if mine else None
        now_ms = self.trusted_ms()
        seq = self.heads[lane] + 1
        if current and current.epoch == self.epoch and not retention.must_rotate(current, limits, now_ms):
            return Place(current, seq, new=False)
        number = max((s.number for s in mine if s.number < SALVAGED), default=0) + 1
        new = Segment(lane, number, self.epoch, seq, now_ms or 0, seq - 1)
        same = current is not None and current.epoch == self.epoch
        return Place(new, seq, new=True, closing=current if closing or same else None)

    def adopt(self, salvaged: list[Segment]) -> None:
        """Take in segments of older epochs."""
        self.held += salvaged
        self._sort()

    def _sort(self) -> None:
        """Put the present epoch's segments last in each lane: its last one is the current one."""
        self.held.sort(key=lambda s: (s.lane, s.epoch == self.epoch, s.epoch, s.first))

    def fate(self, segment: Segment, uplinks: list[str]) -> Fate:
        """Tell what it would cost to drop a segment."""
        holders = self.cursors.holders(segment.epoch, segment.lane)
        owed = any(u in uplinks and ranges.intersect(segment.first, segment.last) for u, ranges in holders)
        copied = segment.lane is Lane.EVENTS or self.compacted.get(segment.epoch, 0) >= segment.last
        return Fate(owed, copied)

    # --- uplinks ------------------------------------------------------------------------------------------------------

    def begin_uplink(self, uplink: str, lanes: list[Lane], start: str) -> None:
        """Give a new uplink its cursors; a known one goes on, and what was dropped while it was away becomes a gap."""
        for lane in lanes:
            if self.cursors.known(uplink, lane):
                self._find_dropped(uplink, lane)
                continue
            if start == "oldest":
                for epoch in sorted({s.epoch for s in self.held if s.lane is lane} - {self.epoch}):
                    self.cursors.begin(uplink, lane, epoch, self.first_seq(epoch, lane), self.last_of(epoch, lane))
            first = self.first_seq(self.epoch, lane) if start == "oldest" else self.heads[lane] + 1
            self.cursors.begin(uplink, lane, self.epoch, first, OPEN_END)

    def _find_dropped(self, uplink: str, lane: Lane) -> None:
        for epoch, ranges in list(self.cursors.of(uplink, lane)):
            head = self.heads[lane] if epoch == self.epoch else self.last_of(epoch, lane)
            dropped = retention.dropped(self.held, epoch, lane, RangeSet(ranges.intersect(1, head)))
            for lo, hi in list(dropped):
                self.lose(uplink, epoch, lane, lo, hi, "away")

    def lose(self, uplink: str, epoch: int, lane: Lane, lo: int, hi: int, why: str = "damaged") -> None:
        """Give up records that cannot be read; the next commit makes a gap of them, which is then announced."""
        if lo <= hi:
            self.lost.append((uplink, epoch, lane, lo, hi, why))
            self.cursors.settle(uplink, epoch, lane, lo, hi)

    def lay_aside(self) -> None:
        """Take out what is owed of other epochs: their log was set aside, and the salvage brings back what it finds."""
        for key, ranges in self.cursors.take_others():
            for lo, hi in ranges:
                self.laid_aside.setdefault(key, RangeSet()).add(lo, hi)

    def still_owed(self, owed: dict[Key, list[tuple[int, int]]]) -> dict[Key, list[tuple[int, int]]]:
        """Return what of the cursors of a log that was set aside was owed at last, as far as that is known here."""
        known = self.laid_aside
        return {
            key: [part for lo, hi in ranges for part in known[key].intersect(lo, hi)] if key in known else ranges
            for key, ranges in owed.items()
        }

    def lose_for_all(self, epoch: int, lane: Lane, lo: int, hi: int) -> None:
        """Give up records that nobody can read, for every uplink that was to deliver them."""
        for uplink, ranges in self.cursors.holders(epoch, lane):
            for a, b in ranges.intersect(lo, hi):
                self.lose(uplink, epoch, lane, a, b)
