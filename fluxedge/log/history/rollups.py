"""Rollups: what each point of a group did in the minutes of an hour, or in the hours of a day. Pure functions.

    offset  size
    0       4      "fxr1"
    4       2      n, buckets that hold a round
    6       2      p, points of the group
    8       4      CRC-32 of what is before it and of the directory
    12      8 each directory: length (4) and CRC-32 (4) of each column, in this order:
                   0 where the bucket begins (UTC, ns)  1 stamp of its first  2 of its last round  3 rounds in it
                   p columns, one a point
    …              the columns; 0 to 3 are packed columns (packing.py)

    a point's column:  u16 length | packed column,  for each of
        state    bit 0 its last round had a value, 1 any round had, 2 from first to last round it had one at all times
        last     raw
        min      raw  (numbers only: not of switches, enums and bit fields, whose column ends here)
        max      raw
        mean     u16, where between minimum and maximum: off by at most 1/131070 of their distance
        valid    ns from first to last round in which a value was in effect; 0 where bit 2 says it

A text or bytes point has an empty column. A value is in effect from its round's stamp to the stamp of the group's next
round; a BAD or OFFLINE one is none. Raws are scaled when they are read, which changes neither order nor weights.

A bucket here is a `Piece`: it ends with its last round, and whoever puts pieces together lets the last value of one
hold until the first round of the next. So minutes compose to hours and hours to days, also across files and gaps.
There are no day rows: a day is composed of its 24 hours when it is read.
"""

from __future__ import annotations

import struct
import typing
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import mul, sub

from fluxedge.columns import scaler
from fluxedge.log.history import packing
from fluxedge.log.history.buckets import Piece
from fluxedge.log.history.chunks import BYTES_OF, ENTRY, U32, Chunk, DamagedChunk, Read
from fluxedge.log.history.packing import DamagedColumn
from fluxedge.log.history.samples import is_number
from fluxedge.model import Group, Point, Quality

MAGIC = b"fxr1"
MINUTE, HOUR = 60, 3600  # levels: seconds of a bucket
SECOND_NS = 10**9
FEWEST_A_MINUTE = 4  # rounds: an hour with fewer has no minutes, its chunks are smaller than they would be
_HEAD = struct.Struct("<4sHH")
_SIZE = struct.Struct("<H")
_STARTS, _FIRSTS, _LASTS, _COUNTS, _OWN_COLUMNS = range(5)
_HAS_LAST, _HAS_ANY, _WHOLE = 1, 2, 4

_SHARES = 0xFFFF

Number = float | int


class Row(typing.NamedTuple):
    """One bucket of a group: what all its points share."""

    start_ns: int  # UTC
    first_ns: int  # stamp of its first and last round
    last_ns: int
    rounds: int


class Held(typing.NamedTuple):
    """One bucket of a point, in raw units; behind the last round nothing counts yet."""

    last: Number | None  # raw of the last round; None: it was BAD or OFFLINE
    low: Number | None  # None: no round had a value, or the point is no number
    high: Number | None
    weighed: Number  # raw times ns
    valid_ns: int


class Summary(typing.NamedTuple):
    """Buckets of one group: rows, and for each point either as many Held, or None for texts and bytes."""

    rows: list[Row]
    points: list[list[Held] | None]


def summarise(group: Group, chunks: Sequence[Chunk], start_ns: int) -> tuple[Summary, Summary]:
    """Return the minutes of an hour and the hour itself, of all chunks that hold rounds of it.

    Raises:
        DamagedChunk: one of them cannot be read.
    """
    merged = _Merged(chunks)
    at_ns = merged.at_ns
    edges = range(start_ns, start_ns + 3600 * SECOND_NS + 1, 60 * SECOND_NS)
    places = [bisect_left(at_ns, edge) for edge in edges]
    spans = [(edges[i], places[i], places[i + 1]) for i in range(60) if places[i] < places[i + 1]]
    rows = [Row(edge, at_ns[lo], at_ns[hi - 1], hi - lo) for edge, lo, hi in spans]
    minutes: list[list[Held] | None] = []
    hours: list[list[Held] | None] = []
    for i, point in enumerate(group.points):
        if point.wire in "sy":
            minutes.append(None)
            hours.append(None)
            continue
        held = _held(merged, i, spans, is_number(point))
        minutes.append(held)
        hours.append([compose(rows, held)] if held else [])
    total = [Row(start_ns, rows[0].first_ns, rows[-1].last_ns, sum(row.rounds for row in rows))] if rows else []
    return Summary(rows, minutes), Summary(total, hours)


def compose(rows: Sequence[Row], pieces: Sequence[Held]) -> Held:
    """Return the one bucket that neighbouring ones make: each last value holds until the next one's first round."""
    last, low, high, weighed, valid_ns = pieces[0]
    for before, row, piece in zip(rows, rows[1:], pieces[1:], strict=False):
        if last is not None and low is not None:
            gap_ns = row.first_ns - before.last_ns
            weighed += last * gap_ns
            valid_ns += gap_ns
        last = piece.last
        if piece.low is not None and piece.high is not None:
            low = piece.low if low is None else min(low, piece.low)
            high = piece.high if high is None else max(high, piece.high)
        weighed += piece.weighed
        valid_ns += piece.valid_ns
    return Held(last, low, high, weighed, valid_ns)


class _Merged:
    """The rounds of some chunks in the order (stamp, epoch, seq)."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self._order: list[int] | None = None
        stamps = array("q")
        for chunk in chunks:
            stamps.extend(chunk.at_ns)
        if len(chunks) > 1 or any(map(int.__gt__, stamps, stamps[1:])):
            epochs = [chunk.epoch for chunk in chunks for _ in range(chunk.count)]
            seqs = [seq for chunk in chunks for seq in chunk.seqs]
            self._order = sorted(range(len(stamps)), key=lambda i: (stamps[i], epochs[i], seqs[i]))
            stamps = array("q", [stamps[i] for i in self._order])
        self.at_ns = stamps
        self.steps_ns = list(map(sub, stamps[1:], stamps))  # of stamps that cannot be, more than 64 bits

    def raws(self, point: int) -> Sequence[Number]:
        columns = [typing.cast("Sequence[Number]", chunk.raws(point)) for chunk in self._chunks]
        if self._order is None:
            return columns[0] if columns else ()
        joined = [raw for column in columns for raw in column]
        return [joined[i] for i in self._order]

    def quality(self, point: int) -> bytes:
        columns = [chunk.quality(point) for chunk in self._chunks]
        if not any(columns):
            return b""
        joined = b"".join(q or bytes(chunk.count) for q, chunk in zip(columns, self._chunks, strict=True))
        return bytes([joined[i] for i in self._order]) if self._order is not None else joined


def _held(merged: _Merged, point: int, spans: Sequence[tuple[int, int, int]], number: bool) -> list[Held]:
    raws, quality = merged.raws(point), merged.quality(point)
    if quality and max(quality) >= Quality.BAD:
        return [_held_by_each(merged, raws, quality, lo, hi, number) for _, lo, hi in spans]
    if not number:
        return [Held(raws[hi - 1], None, None, 0, 0) for _, lo, hi in spans]
    at_ns, steps_ns = merged.at_ns, merged.steps_ns
    found = []
    for _, lo, hi in spans:
        some = raws[lo:hi]
        low, high, valid_ns = min(some), max(some), at_ns[hi - 1] - at_ns[lo]
        weighed = low * valid_ns if low == high else sum(map(mul, some, steps_ns[lo : hi - 1]))
        found.append(Held(some[-1], low, high, weighed, valid_ns))
    return found


def _held_by_each(merged: _Merged, raws: Sequence[Number], quality: bytes, lo: int, hi: int, number: bool) -> Held:
    usable = [i for i in range(lo, hi) if quality[i] < Quality.BAD]
    last = raws[hi - 1] if quality[hi - 1] < Quality.BAD else None
    if not usable or not number:
        return Held(last, None, None, 0, 0)
    some = [raws[i] for i in usable]
    steps_ns = [merged.steps_ns[i] for i in usable if i < hi - 1]
    return Held(last, min(some), max(some), sum(map(mul, some, steps_ns)), sum(steps_ns))


def pack(group: Group, summary: Summary) -> bytes:
    """Return the rollup of a summary of at least one bucket."""
    rows = summary.rows
    columns = [
        packing.pack(array("q", [row.start_ns for row in rows]).tobytes(), 8),
        packing.pack(array("q", [row.first_ns for row in rows]).tobytes(), 8),
        packing.pack(array("q", [row.last_ns for row in rows]).tobytes(), 8),
        packing.pack(array("I", [row.rounds for row in rows]).tobytes(), 4),
    ]
    for point, pieces in zip(group.points, summary.points, strict=True):
        columns.append(_pack_point(point, rows, pieces) if pieces is not None else b"")
    head = _HEAD.pack(MAGIC, len(rows), len(group.points))
    directory = b"".join(ENTRY.pack(len(column), zlib.crc32(column)) for column in columns)
    return b"".join((head, U32.pack(zlib.crc32(head + directory)), directory, *columns))


def _pack_point(point: Point, rows: Sequence[Row], pieces: Sequence[Held]) -> bytes:
    state = bytes(
        _HAS_LAST * (piece.last is not None)
        | _HAS_ANY * (piece.low is not None)
        | _WHOLE * (piece.valid_ns == row.last_ns - row.first_ns)
        for row, piece in zip(rows, pieces, strict=True)
    )
    wire = "B" if point.wire == "?" else point.wire
    width = BYTES_OF[wire]

    def raws(values: Iterable[Number | None]) -> bytes:
        return packing.pack(array(wire, [value or 0 for value in values]).tobytes(), width, floats=wire in "fd")

    parts = [packing.pack(state, 1), raws(piece.last for piece in pieces)]
    if is_number(point):
        parts += [raws(piece.low for piece in pieces), raws(piece.high for piece in pieces)]
        parts.append(
            packing.pack(array("H", [round(_SHARES * share) for share in map(_mean_share, pieces)]).tobytes(), 2)
        )
        valid = array("q", [0 if mark & _WHOLE else piece.valid_ns for mark, piece in zip(state, pieces, strict=True)])
        parts.append(packing.pack(valid.tobytes(), 8))
    return b"".join(_SIZE.pack(len(part)) + part for part in parts)


def _mean_share(piece: Held) -> float:
    """Return where between minimum and maximum the mean lies: 0 to 1."""
    if piece.low is None or piece.high is None or not piece.valid_ns or piece.low == piece.high:
        return 0.0
    share = (piece.weighed / piece.valid_ns - piece.low) / (piece.high - piece.low)
    return min(1.0, max(0.0, share))  # NaN, of numbers near the end of their range, becomes 0


class Rollup:
    """A packed rollup, read point by point as they are asked for. Raises DamagedChunk as `Chunk` does."""

    def __init__(self, group: Group, read: Read) -> None:
        self.group = group
        self._read = read
        head = read(0, _HEAD.size + 4)
        if len(head) < _HEAD.size + 4 or head[:4] != MAGIC:
            raise DamagedChunk("no rollup")
        _, count, points = _HEAD.unpack_from(head)
        size = ENTRY.size * (_OWN_COLUMNS + points)
        directory = read(_HEAD.size + 4, size)
        crc = zlib.crc32(head[: _HEAD.size] + directory)
        if points != len(group.points) or len(directory) != size or crc != U32.unpack_from(head, _HEAD.size)[0]:
            raise DamagedChunk("checksum of a rollup's directory")
        lengths = [length for length, _ in ENTRY.iter_unpack(directory)]
        offsets = accumulate(lengths, initial=_HEAD.size + 4 + size)
        entries = zip(offsets, ENTRY.iter_unpack(directory), strict=False)
        self._entries = [(offset, length, crc) for offset, (length, crc) in entries]
        own = [array("q", self._own(i, 8, count)) for i in (_STARTS, _FIRSTS, _LASTS)]
        self.rows = list(map(Row._make, zip(*own, array("I", self._own(_COUNTS, 4, count)), strict=True)))

    def _column(self, number: int) -> bytes:
        offset, length, crc = self._entries[number]
        column = self._read(offset, length)
        if zlib.crc32(column) != crc:
            raise DamagedChunk(f"checksum of column {number} of a rollup")
        return column

    def _own(self, number: int, width: int, count: int) -> bytes:
        return _unpack(self._column(number), width, count)

    def pieces(self, point: int) -> list[tuple[int, Piece]] | None:
        """Return (where its bucket begins, piece) of one point in engineering units; None for texts and bytes."""
        held = self.held(point)
        if held is None:
            return None
        column = self.group.points[point]
        if not is_number(column):
            lasts = [
                bool(piece.last) if column.wire == "?" and piece.last is not None else piece.last for piece in held
            ]
            return [(row.start_ns, _bare(row, last)) for row, last in zip(self.rows, lasts, strict=True)]
        scale = scaler(column.scale, column.offset, column.precision) or list
        exact = scaler(column.scale, column.offset, None) or list
        return [(row.start_ns, _scaled(row, piece, scale, exact)) for row, piece in zip(self.rows, held, strict=True)]

    def held(self, point: int) -> list[Held] | None:
        """Return one point's buckets in raw units, in the order of `rows`; None for texts and bytes."""
        column = self._column(_OWN_COLUMNS + point)
        if not column:
            return None
        wire = self.group.points[point].wire.replace("?", "B")
        width, count = BYTES_OF[wire], len(self.rows)
        parts, at = [], 0
        while at < len(column):
            size = _SIZE.unpack_from(column, at)[0]
            parts.append(column[at + 2 : at + 2 + size])
            at += 2 + size
        state = _unpack(parts[0], 1, count)
        raw_lasts = array(wire, _unpack(parts[1], width, count))
        lasts = [last if mark & _HAS_LAST else None for mark, last in zip(state, raw_lasts, strict=True)]
        if len(parts) == 2:
            return [Held(last, None, None, 0, 0) for last in lasts]
        lows, highs = (array(wire, _unpack(part, width, count)) for part in parts[2:4])
        shares, valid = array("H", _unpack(parts[4], 2, count)), array("q", _unpack(parts[5], 8, count))
        columns = zip(self.rows, state, lasts, lows, highs, shares, valid, strict=True)
        return [_as_held(*column) for column in columns]


def _as_held(row: Row, mark: int, last: Number | None, low: Number, high: Number, share: int, valid_ns: int) -> Held:
    if not mark & _HAS_ANY:
        return Held(last, None, None, 0, 0)
    if mark & _WHOLE:
        valid_ns = row.last_ns - row.first_ns
    mean = low + (high - low) * share / _SHARES if share else low
    return Held(last, low, high, mean * valid_ns, valid_ns)


def _bare(row: Row, last: Number | None) -> Piece:
    return Piece(row.first_ns, row.last_ns, row.rounds, last, None, None, 0.0, 0)


Scaling = Callable[[Sequence[float]], list[float]]


def _scaled(row: Row, piece: Held, scale: Scaling, exact: Scaling) -> Piece:
    last = None if piece.last is None else scale([piece.last])[0]
    if piece.low is None or piece.high is None:
        return Piece(row.first_ns, row.last_ns, row.rounds, last, None, None, 0.0, 0)
    low, high = sorted(scale([piece.low, piece.high]))
    mean = exact([piece.weighed / piece.valid_ns])[0] if piece.valid_ns else 0.0
    return Piece(row.first_ns, row.last_ns, row.rounds, last, low, high, mean * piece.valid_ns, piece.valid_ns)


def _unpack(packed: bytes, width: int, count: int) -> bytes:
    try:
        return packing.unpack(packed, width, count)
    except DamagedColumn as exc:
        raise DamagedChunk(f"rollup: {exc}") from exc
