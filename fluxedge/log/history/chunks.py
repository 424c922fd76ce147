"""Chunks: rounds of one (hour, group, epoch) as columns, each packed apart. Pure functions; nothing is lost.

    offset  size
    0       4      "fxc1"
    4       4      n, rounds
    8       2      p, points of the group
    10      2      q, distinct quality columns
    12      1      1 = column 2 holds arrived_mono_ns - at_ns
    13      4      CRC-32 of what is before it and of the directory
    17      8 each directory: length (4) and CRC-32 (4) of each column, in this order:
                   0 seq  1 at_ns  2 arrived_mono_ns  3 boot (8 bytes a value)  4 flags  5 "has quality bytes" (1 byte)
                   6 which quality column a point has: p of 2 bytes, 0 = it is always GOOD; empty while q is 0
                   q quality columns, 1 byte a round
                   p value columns, in the order of the points
    …              the columns, as packing.py draws them

A value column holds the raw wire type: little-endian, a bool as one byte, 0 for the None of a BAD or OFFLINE point, as
in the log. A text or bytes column is  u32 size of the packed lengths | packed lengths (4 bytes a value) | u8 1 =
deflated | the bytes of all values. Numbers little-endian.

A reader that wants one point takes the directory, the stamps, one quality column and one value column.
"""

from __future__ import annotations

import functools
import struct
import typing
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from fluxedge.columns import Value, scaler
from fluxedge.log.history import packing
from fluxedge.log.history.packing import DamagedColumn
from fluxedge.model import Group, Lane, Quality, Record, Round

MAGIC = b"fxc1"
HEAD = struct.Struct("<4sIHHB")
ENTRY = struct.Struct("<II")
U32 = struct.Struct("<I")
_SEQ, _AT, _MONO, _BOOT, _FLAGS, _MARKS, _QUALITY_OF, FIXED_COLUMNS = range(8)
BYTES_OF = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8, "f": 4, "d": 8}
_BLOB_MOST_BYTES = 1 << 30  # of one text or bytes column: nothing larger was ever packed

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes of a chunk's body


class DamagedChunk(Exception):
    """A chunk does not match its checksums, or cannot be taken apart."""


def unpack(group: Group, epoch: int, body: bytes) -> list[Record]:
    """Return the records of a chunk.

    Raises:
        DamagedChunk: it is not what `pack` made.
    """
    return list(Chunk(group, epoch, reader_of(body)).records())


def reader_of(body: bytes) -> Read:
    """Return how to read a chunk that is in memory."""
    return lambda offset, size: body[offset : offset + size]


class Chunk:
    """A packed chunk, read column by column as they are asked for.

    Everything raises DamagedChunk where the bytes are not what was written; a column that nobody asks for is not looked
    at.
    """

    def __init__(self, group: Group, epoch: int, read: Read) -> None:
        self.group = group
        self.epoch = epoch
        self._read = read
        head = read(0, HEAD.size + 4)
        if len(head) < HEAD.size + 4 or head[:4] != MAGIC:
            raise DamagedChunk("no chunk")
        _, self.count, points, qualities, self._relative = HEAD.unpack_from(head)
        if points != len(group.points):
            raise DamagedChunk(f"{points} points, the group {group.device}/{group.name} has {len(group.points)}")
        self._qualities = qualities
        size = ENTRY.size * (FIXED_COLUMNS + qualities + points)
        directory = read(HEAD.size + 4, size)
        if len(directory) != size or zlib.crc32(head[: HEAD.size] + directory) != U32.unpack_from(head, HEAD.size)[0]:
            raise DamagedChunk("checksum of the directory")
        self._entries: list[tuple[int, int, int]] = []  # offset, length, CRC-32
        at = HEAD.size + 4 + size
        for length, crc in ENTRY.iter_unpack(directory):
            self._entries.append((at, length, crc))
            at += length
        self.size_bytes = at

    def _column(self, number: int) -> bytes:
        offset, length, crc = self._entries[number]
        packed = self._read(offset, length)
        if len(packed) != length or zlib.crc32(packed) != crc:
            raise DamagedChunk(f"checksum of column {number}")
        return packed

    def _unpacked(self, number: int, width: int, count: int) -> bytes:
        try:
            return packing.unpack(self._column(number), width, count)
        except DamagedColumn as exc:
            raise DamagedChunk(f"column {number}: {exc}") from exc

    @functools.cached_property
    def seqs(self) -> array[int]:
        """The seq of each round."""
        return array("q", self._unpacked(_SEQ, 8, self.count))

    @functools.cached_property
    def at_ns(self) -> array[int]:
        """The stamp of each round: UTC, ns."""
        return array("q", self._unpacked(_AT, 8, self.count))

    @functools.cached_property
    def monos_ns(self) -> array[int]:
        """CLOCK_BOOTTIME of each round's arrival."""
        monos = array("Q", self._unpacked(_MONO, 8, self.count))
        if not self._relative:
            return monos
        mask = 2**64 - 1
        return array("Q", [(mono + at) & mask for mono, at in zip(monos, self.at_ns, strict=True)])

    @functools.cached_property
    def boots(self) -> array[int]:
        """The boot of each round."""
        return array("q", self._unpacked(_BOOT, 8, self.count))

    @functools.cached_property
    def flags(self) -> bytes:
        """The flags (model.Flag) of each round."""
        return self._unpacked(_FLAGS, 1, self.count)

    @functools.cached_property
    def _marks(self) -> bytes:
        return self._unpacked(_MARKS, 1, self.count)

    @functools.cached_property
    def _quality_of(self) -> array[int]:
        points = len(self.group.points)
        if not self._qualities:
            return array("H", bytes(2 * points))
        which = array("H", self._unpacked(_QUALITY_OF, 2, points))
        if max(which) > self._qualities:
            raise DamagedChunk(f"quality column {max(which)} of {self._qualities}")
        return which

    def quality(self, point: int) -> bytes:
        """Return one point's quality in each round; empty = always GOOD."""
        which = self._quality_of[point]
        return self._unpacked(FIXED_COLUMNS + which - 1, 1, self.count) if which else b""

    def raws(self, point: int) -> Sequence[Value]:
        """Return one point's raw value in each round, as on the wire; zero or empty where it is BAD or OFFLINE.

        An array for numbers, a list for bools, texts and bytes.
        """
        number = FIXED_COLUMNS + self._qualities + point
        wire = self.group.points[point].wire
        if wire in "sy":
            return _unpack_variable(self._column(number), self.count, wire)
        column = self._unpacked(number, BYTES_OF[wire], self.count)
        return list(map(bool, column)) if wire == "?" else array(wire, column)

    def values(self, point: int) -> list[Value | None]:
        """Return one point's engineering value in each round: None exactly where it is BAD or OFFLINE."""
        raws = self.raws(point)
        column = self.group.points[point]
        scaling = None if column.wire in "sy" else scaler(column.scale, column.offset, column.precision)
        quality = self.quality(point)
        if not quality or max(quality) < Quality.BAD:
            values = scaling(typing.cast("Sequence[float]", raws)) if scaling else raws
            return list(values)
        # A bad raw may be infinite, which no scaling with a precision takes.
        raws = [0 if mark >= Quality.BAD else raw for raw, mark in zip(raws, quality, strict=True)]
        values = scaling(typing.cast("Sequence[float]", raws)) if scaling else raws
        return [None if mark >= Quality.BAD else value for value, mark in zip(values, quality, strict=True)]

    def check(self) -> None:
        """Take every column apart, one after the other; raises DamagedChunk where one is not what was written."""
        for shared in (self.seqs, self.at_ns, self.monos_ns, self.boots, self.flags, self._marks, self._quality_of):
            del shared
        for point in range(len(self.group.points)):
            self.quality(point)
            self.raws(point)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Iterate over the rounds number `start` to before `stop`: an hour of them at once would be large."""
        points = range(len(self.group.points))
        columns = [self.raws(point)[start:stop] for point in points]
        raws: Iterable[tuple[Value, ...]] = zip(*columns, strict=True) if columns else [()] * len(self.seqs[start:stop])
        codec, epoch, group = self.group.codec, self.epoch, self.group
        none_columns = [self.quality(point) or bytes(self.count) for point in points] if any(self._marks) else []
        rest = (self.seqs, self.at_ns, self.monos_ns, self.boots, self.flags, self._marks)
        heads = zip(*[column[start:stop] for column in rest], strict=True)
        for i, ((seq, at_ns, mono_ns, boot, flags, mark), row) in enumerate(zip(heads, raws, strict=True), start):
            quality = bytes([column[i] for column in none_columns]) if mark else b""
            round_ = Round(group, row, codec.values(row, quality), quality, at_ns, mono_ns, flags)
            yield Record(epoch, Lane.ROUNDS, seq, boot, round_)


def _unpack_variable(column: bytes, count: int, wire: str) -> list[Value]:
    try:
        (size,) = U32.unpack_from(column)
        lengths = array("I", packing.unpack(column[4 : 4 + size], 4, count))
        blob = column[5 + size :]
        total = sum(lengths)
        if total > _BLOB_MOST_BYTES:
            raise DamagedChunk(f"{total} bytes in one column")
        if column[4 + size]:
            inflater = zlib.decompressobj()
            blob = inflater.decompress(blob, max(total, 1))
        if len(blob) != total:
            raise DamagedChunk(f"{len(blob)} bytes of {total}")
        values: list[Value] = []
        at = 0
        for length in lengths:
            part = blob[at : at + length]
            values.append(part.decode() if wire == "s" else part)
            at += length
        return values
    except (struct.error, IndexError, ValueError, zlib.error, DamagedColumn) as exc:
        raise DamagedChunk(str(exc)) from exc
