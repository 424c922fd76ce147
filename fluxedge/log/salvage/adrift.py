"""Rows adrift: what stands in leaf pages when the table that named the segments is gone.

A leaf page does not say of which epoch its rows are. One epoch is known, the newest: the witness and table `meta` name
it, and its number is the UTC in ms at which it began. Epochs follow each other in time, and each row has the time of
its commit (boot, mono_ms). So a row is of the newest epoch when it was committed

    after every row with a stamp from before the epoch began, and
    not before a row with a stamp from after it began.

Stamps count that our own clock made while it was trusted. All other rows may be of an older epoch, whose number nobody
knows: they are left alone.
"""

from __future__ import annotations

import struct
import typing
import zlib
from collections.abc import Iterable

from fluxedge.log.body import DamagedBody, Row, open_body, records
from fluxedge.log.salvage.leaves import Record
from fluxedge.log.segments import Segment
from fluxedge.model import Flag, Lane

PIECE_BYTES = 8 << 20  # bodies in a segment that is made up: they go by segments when there is no room
MADE_UP = 0  # number of such a segment: no table has it
_BUCKET_SEQS = 4096  # what is remembered of so many: rows are too many to remember each
_ROUND = struct.Struct("<IqQBH")  # head of a round, as fluxedge/log/body.py draws it
_NOT_OURS = Flag.SOURCE_TIME | Flag.HISTORICAL | Flag.CLOCK_UNSYNCED
_NEVER = (-1, -1)

When = tuple[int, int]  # boot, mono_ms: when a row was committed


class Leaf(typing.NamedTuple):
    """What a row tells of itself."""

    seq: int
    when: When
    lane: Lane
    stamp_ns: int | None  # by which its epoch may be judged
    size: int


def leaf_of(record: Record) -> Leaf | None:
    """Return what a record of a leaf page tells; None when it is no whole row of a segment."""
    rowid, columns = record
    if rowid is None or rowid < 1 or len(columns) != 9 or columns[0] is not None:
        return None
    if not isinstance(columns[8], bytes) or not all(type(value) is int for value in columns[1:8]):
        return None
    count, boot, mono_ms, _, _, codec, crc, body = typing.cast(typing.Any, columns[1:])
    if count < 1 or zlib.crc32(body) != crc:
        return None
    row = Row(0, Lane.EVENTS, rowid, count, boot, codec, crc, body)
    try:
        stamps = [event.body.at_ns for event in records(row, {}) if not event.body.flags & _NOT_OURS]
        return Leaf(rowid, (boot, mono_ms), Lane.EVENTS, min(stamps, default=None), len(body))
    except DamagedBody:
        pass  # rounds then
    try:
        _, at_ns, _, flags, _ = _ROUND.unpack_from(open_body(row))
    except (DamagedBody, struct.error):
        return None
    return Leaf(rowid, (boot, mono_ms), Lane.ROUNDS, None if flags & _NOT_OURS else at_ns, len(body))


class Adrift:
    """The judgement on rows adrift: shown all of them twice, it knows which are of the newest epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._began_ns = epoch * 10**6
        self.seen = False  # any row
        self._older = _NEVER  # when the newest row that is older than the epoch was committed
        self._since: When | None = None  # when the oldest row was committed that is not
        self._buckets: dict[tuple[Lane, int], list[int]] = {}  # first seq, bytes

    def look(self, leaves: Iterable[Leaf]) -> None:
        """Look at rows for the first time: how far do older epochs reach?"""
        for leaf in leaves:
            self.seen = True
            if leaf.stamp_ns is not None and leaf.stamp_ns < self._began_ns:
                self._older = max(self._older, leaf.when)

    def look_again(self, leaves: Iterable[Leaf]) -> None:
        """Look at rows for the second time: from when on are they of the newest epoch, and how many are there?"""
        for leaf in leaves:
            if leaf.when <= self._older:
                continue
            if leaf.stamp_ns is not None:
                self._since = min(self._since or leaf.when, leaf.when)
            bucket = self._buckets.setdefault((leaf.lane, leaf.seq // _BUCKET_SEQS), [leaf.seq, 0])
            bucket[0] = min(bucket[0], leaf.seq)
            bucket[1] += leaf.size

    @property
    def knows(self) -> bool:
        """Tell whether some row is known to be of the newest epoch; else stamps tell nothing."""
        return self._since is not None

    def is_older(self, boot: int, mono_ms: int) -> bool:
        """Tell whether a row that was committed then is of an older epoch."""
        return (boot, mono_ms) <= self._older

    def is_newest(self, boot: int, mono_ms: int) -> bool:
        """Tell whether a row that was committed then is of the newest epoch."""
        return self._since is not None and (boot, mono_ms) >= self._since

    def made_up(self, known: list[Segment]) -> list[Segment]:
        """Return segments for what is before the known ones of the newest epoch.

        Where none is known, the first one begins with seq 1: what is missing there must not be missed silently.
        """
        made: list[Segment] = []
        if self._since is None:
            return made
        for lane in Lane:
            end = min((s.first for s in known if s.lane is lane and s.epoch == self.epoch), default=None)
            size = PIECE_BYTES
            first_of_all = len(made)
            for key in sorted(key for key in self._buckets if key[0] is lane):
                first, more = self._buckets[key]
                if end is not None and first >= end:
                    break
                if size >= PIECE_BYTES:
                    first = 1 if end is None and len(made) == first_of_all else first
                    made.append(Segment(lane, MADE_UP, self.epoch, first, 0, first - 1))
                    size = 0
                size += more
        return made
