"""Gathering: rounds of one group are collected as raw columns and packed into a chunk, as chunks.py draws it.

No value is made a Python object on the way: what the log holds is cut into columns by strides.
"""

from __future__ import annotations

import functools
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from fluxedge.columns import FLOATS
from fluxedge.log.history import packing
from fluxedge.log.history.chunks import BYTES_OF, ENTRY, HEAD, MAGIC, U32
from fluxedge.model import Group, Record, Round

_MOST_POINTS = 0xFFFF


@dataclass(slots=True)
class Gathered:
    """Rounds of one group as raw columns, before they are packed: what a chunk is made of."""

    group: Group
    seqs: array[int] = field(default_factory=lambda: array("q"))
    at_ns: array[int] = field(default_factory=lambda: array("q"))
    monos_ns: array[int] = field(default_factory=lambda: array("Q"))
    boots: array[int] = field(default_factory=lambda: array("q"))
    flags: bytearray = field(default_factory=bytearray)
    marks: bytearray = field(default_factory=bytearray)  # 1 = the round has quality bytes
    quality: bytearray = field(default_factory=bytearray)  # all rounds', once one has some; zeros for the others
    fixed: bytearray = field(default_factory=bytearray)  # all rounds' columns of fixed size, round after round
    lengths: list[array[int]] = field(default_factory=list)  # of texts and bytes, a column each
    blobs: list[bytearray] = field(default_factory=list)

    def add(self, seq: int, boot: int, at_ns: int, mono_ns: int, flags: int, quality: bytes, columns: bytes) -> None:
        """Add one round; `columns` is what the group's codec packs.

        Raises:
            ValueError: it is not a round of this group.
        """
        shape = shape_of(self.group)
        if len(quality) not in (0, shape.count) or len(columns) < shape.fixed_bytes:
            raise ValueError(f"{len(quality)} qualities, {len(columns)} bytes for {shape.count} points")
        self._add_variable(shape, columns)
        if quality and not self.quality:
            self.quality = bytearray(shape.count * len(self.seqs))
        if self.quality or quality:
            self.quality += quality or bytes(shape.count)
        self.marks.append(bool(quality))
        self.fixed += columns[: shape.fixed_bytes]
        self.seqs.append(seq)
        self.boots.append(boot)
        self.at_ns.append(at_ns)
        self.monos_ns.append(mono_ns)
        self.flags.append(flags)

    def _add_variable(self, shape: Shape, columns: bytes) -> None:
        at = shape.fixed_bytes
        parts = []
        for _ in shape.variable:
            stop = at + 4 + int.from_bytes(columns[at : at + 4], "little")
            parts.append(columns[at + 4 : stop])
            at = stop
        if at != len(columns):
            raise ValueError(f"the columns end at {at} of {len(columns)} bytes")
        if parts and not self.lengths:
            self.lengths = [array("I") for _ in parts]
            self.blobs = [bytearray() for _ in parts]
        for lengths, blob, part in zip(self.lengths, self.blobs, parts, strict=True):
            lengths.append(len(part))
            blob += part

    @property
    def size_bytes(self) -> int:
        """Return what it takes of memory, roughly."""
        return 34 * len(self.seqs) + len(self.quality) + len(self.fixed) + sum(len(blob) + 4 for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the raw columns of a group stand in a round, as fluxedge/columns.py packs it."""

    count: int
    fixed_bytes: int
    fixed: dict[int, tuple[int, int]]  # point -> offset, width
    variable: dict[int, int]  # point -> number among texts and bytes


@functools.lru_cache(maxsize=256)
def shape_of(group: Group) -> Shape:
    """Return the shape of a group."""
    fixed: dict[int, tuple[int, int]] = {}
    variable: dict[int, int] = {}
    offset = 0
    for i, point in enumerate(group.points):
        if point.wire in "sy":
            variable[i] = len(variable)
            continue
        width = BYTES_OF[point.wire]
        fixed[i] = offset, width
        offset += width
    return Shape(len(group.points), offset, fixed, variable)


def pack_gathered(gathered: Gathered) -> bytes:
    """Return the chunk of what was gathered, at least one round.

    Raises:
        ValueError: a group of more points than a chunk can count.
    """
    shape = shape_of(gathered.group)
    count = len(gathered.seqs)
    if shape.count > _MOST_POINTS or not count:
        raise ValueError(f"{count} rounds of {shape.count} points")
    relative, monos = _pack_monos(gathered)
    columns = [
        packing.pack(gathered.seqs.tobytes(), 8),
        packing.pack(gathered.at_ns.tobytes(), 8),
        monos,
        packing.pack(gathered.boots.tobytes(), 8),
        packing.pack(bytes(gathered.flags), 1),
        packing.pack(bytes(gathered.marks), 1),
    ]
    which, qualities = _pack_quality(bytes(gathered.quality), shape.count)
    columns += [which, *qualities]
    fixed = bytes(gathered.fixed)
    for i, point in enumerate(gathered.group.points):
        if i in shape.fixed:
            columns.append(_pack_fixed(fixed, *shape.fixed[i], shape.fixed_bytes, point.wire))
        else:
            number = shape.variable[i]
            columns.append(_pack_variable(gathered.lengths[number], bytes(gathered.blobs[number])))
    head = HEAD.pack(MAGIC, count, shape.count, len(qualities), relative)
    directory = b"".join(ENTRY.pack(len(column), zlib.crc32(column)) for column in columns)
    return b"".join((head, U32.pack(zlib.crc32(head + directory)), directory, *columns))


def _pack_monos(gathered: Gathered) -> tuple[bool, bytes]:
    """Return (are they relative to the stamps, packed): what is the smaller."""
    absolute = packing.pack(gathered.monos_ns.tobytes(), 8)
    mask = 2**64 - 1
    pairs = zip(gathered.monos_ns, gathered.at_ns, strict=True)
    relative = packing.pack(array("Q", [(mono - at) & mask for mono, at in pairs]).tobytes(), 8)
    return (True, relative) if len(relative) < len(absolute) else (False, absolute)


def _pack_quality(quality: bytes, count: int) -> tuple[bytes, list[bytes]]:
    """Return (which column a point has, the distinct columns); a device that is silent has one for all its points."""
    if not any(quality):
        return b"", []
    numbers: dict[bytes, int] = {}
    which = array("H")
    for i in range(count):
        column = quality[i::count]
        which.append(numbers.setdefault(column, len(numbers) + 1) if any(column) else 0)
    return packing.pack(which.tobytes(), 2), [packing.pack(column, 1) for column in numbers]


def _pack_fixed(fixed: bytes, offset: int, width: int, stride: int, wire: str) -> bytes:
    column = bytearray(len(fixed) // stride * width)
    for i in range(width):
        column[i::width] = fixed[offset + i :: stride]
    return packing.pack(bytes(column), width, floats=wire in FLOATS)


def _pack_variable(lengths: array[int], blob: bytes) -> bytes:
    packed = packing.pack(lengths.tobytes(), 4)
    deflated = zlib.compress(blob, 6)
    smaller = len(deflated) < len(blob)
    return b"".join((U32.pack(len(packed)), packed, bytes((smaller,)), deflated if smaller else blob))


def pack(records: Sequence[Record]) -> bytes:
    """Return the chunk of rounds of one group and epoch, in their order.

    Raises:
        ValueError: none, of several groups, or no rounds.
    """
    first = records[0].body if records else None
    if not isinstance(first, Round):
        raise ValueError("no rounds")
    gathered = Gathered(first.group)
    for record in records:
        round_ = record.body
        if not isinstance(round_, Round) or round_.group != first.group:
            raise ValueError("not rounds of one group")
        columns = round_.group.codec.pack(round_.raws, round_.quality)
        gathered.add(
            record.seq, record.boot, round_.at_ns, round_.arrived_mono_ns, round_.flags, round_.quality, columns
        )
    return pack_gathered(gathered)
