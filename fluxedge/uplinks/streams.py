"""The two streams of an uplink: what comes next of each, in one session. Used on the loop; rows are read by the log.

    seq  1 ... backlog: what is not acknowledged yet, older epochs included ... | live: head + 1 when the session began

Each stream of a lane is read in seq order, oldest epoch first. What is live stays live: a record that the session saw
being committed is no backlog, however long it waits. A new epoch that begins while the session runs is live.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fluxedge.log import Log, quarantine
from fluxedge.log.ranges import RangeSet
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from fluxedge.uplinks.formats import Marks
from fluxedge.uplinks.messages import Cut, Cutter, Size

READ_BYTES = 256 << 10  # stored bodies a read: a second of 100,000 points/s, or many batches of a small gateway
HOLES_MOST = 256  # ranges of one lane; a session that begins with more fills them in strict order first


@dataclass(frozen=True, slots=True)
class Start:
    """Where the live stream of a session begins."""

    epoch: int
    first: dict[Lane, int]  # seq

    @classmethod
    def of(cls, log: Log) -> Start:
        """Return the place behind everything that is committed now."""
        return cls(log.epoch, {lane: head + 1 for lane, head in log.heads.items()})

    def bounds(self, epoch: int, lane: Lane, *, historical: bool) -> tuple[int, int]:
        """Return the seqs lo..hi of an epoch that belong to a stream; lo > hi = none."""
        if epoch == self.epoch:
            first = self.first[lane]
            return (1, first - 1) if historical else (first, OPEN_END)
        return (1, OPEN_END) if historical is (epoch < self.epoch) else (1, 0)


class Stream:
    """One lane's records, live or backlog, of one session."""

    def __init__(self, log: Log, uplink: str, lane: Lane, cutter: Cutter, start: Start, *, historical: bool) -> None:
        self._log = log
        self._uplink = uplink
        self.lane = lane
        self.historical = historical
        self._cutter = cutter
        self._start = start
        self._begun = 0  # epoch of a read that has more messages; 0 = none
        self._positions: dict[int, int] = {}  # epoch -> next seq to send
        self._vanished = False  # what came next was not there when it was read

    async def next(self, size: Size) -> Cut:
        """Return the next few messages, and what cannot become one; an empty cut when everything is under way."""
        self._vanished = False
        while True:
            if self._begun:
                epoch = self._begun
                # Beyond the head there is nothing to read: the next messages of what was read are made on that thread.
                cut = await self._log.read(epoch, self.lane, OPEN_END, 0, self._cutter.next)
            else:
                found = self._stretch()
                if found is None:
                    return Cut()
                epoch, lo, hi = found
                marks = Marks(self.historical, self._log.is_durable(epoch))
                start = partial(self._cutter.start, lo=lo, hi=hi, size=size, marks=marks)
                cut = await self._log.read(epoch, self.lane, lo, READ_BYTES, start)
                if not cut.end:  # dropped by retention in the meantime, which makes a gap of it
                    self._vanished = True
                    return Cut()
            cut.epoch = epoch
            self._begun = epoch if cut.more else 0
            if cut.end:
                self._positions[epoch] = cut.end + 1
            if cut.messages or cut.too_large or cut.damaged:
                return cut

    def waits(self) -> bool:
        """Tell whether there is more to read."""
        return bool(self._begun) or (not self._vanished and self._stretch() is not None)

    def _stretch(self) -> tuple[int, int, int] | None:
        """Return (epoch, lo, hi) of what comes next; give up what the log has not any more."""
        for epoch, ranges in self._log.cursors.of(self._uplink, self.lane):
            found = self._in_epoch(epoch, ranges)
            if found is not None:
                return found
        return None

    def _in_epoch(self, epoch: int, ranges: RangeSet) -> tuple[int, int, int] | None:
        log, lane = self._log, self.lane
        first, last = self._start.bounds(epoch, lane, historical=self.historical)
        if epoch == log.epoch:
            last = min(last, log.heads[lane])
        while first <= last:
            stretch = ranges.first_from(max(first, self._positions.get(epoch, 1)))
            if stretch is None:
                return None
            lo, hi = stretch[0], min(stretch[1], last)
            if lo > hi:
                return None
            held = [s.first for s in log.segments() if s.epoch == epoch and s.lane is lane and s.last >= lo]
            if held and min(held) <= lo:
                return epoch, lo, hi
            log.lose(self._uplink, epoch, lane, lo, min(hi, min(held) - 1) if held else hi)
        return None


async def read_one(
    log: Log, cutter: Cutter, epoch: int, lane: Lane, lo: int, hi: int, most: int, *, historical: bool
) -> Cut:
    """Return lo..hi as one message, or as much of it as one message may hold."""
    marks = Marks(historical, log.is_durable(epoch))
    start = partial(cutter.start, lo=lo, hi=hi, size=Size(most or OPEN_END, most, ahead=1), marks=marks)
    cut = await log.read(epoch, lane, lo, READ_BYTES, start)
    cut.epoch = epoch
    return cut


def is_todo(log: Log, uplink: str, epoch: int, lane: Lane, seq: int) -> bool:
    """Tell whether a record is not settled yet."""
    return any(e == epoch and seq in ranges for e, ranges in log.cursors.of(uplink, lane))


async def newest_delivered(log: Log, uplink: str, lane: Lane) -> tuple[int, int] | None:
    """Return (epoch, seq) of the newest record of a lane that an uplink's peer has had and the log holds."""
    try:
        never = await log.look(partial(quarantine.never_delivered, uplink=uplink, lane=lane))
    except LinkProblem:  # it is not known which
        return None
    waiting = [(epoch, lo, hi) for epoch, ranges in log.cursors.of(uplink, lane) for lo, hi in ranges]
    for segment in reversed([segment for segment in log.segments() if segment.lane is lane]):
        had = RangeSet([(segment.first, segment.last)] if segment.first <= segment.last else [])
        for epoch, lo, hi in [*waiting, *never]:
            if epoch == segment.epoch:
                had.remove(lo, hi)
        if had:
            return segment.epoch, list(had)[-1][1]
    return None


def strict_for_now(log: Log, uplink: str, lanes: list[Lane]) -> bool:
    """Tell whether so many holes are open that filling them goes first: each is a row that every commit may rewrite."""
    return any(len(list(ranges)) > HOLES_MOST for lane in lanes for _, ranges in log.cursors.of(uplink, lane))
