"""Packed columns: numbers of one width, as small as a few encodings of the standard library make them. Pure functions.

    method  planes  head                      rest
    u8      u8      0, 1 or 2 values          low byte of every value, then their second bytes, … : `planes` of them

    0 same          head = the value           no rest
    1 plain         no head                    the values
    2 delta         head = the first           differences to the value before, zigzag: 0, -1, 1, -2 … → 0, 1, 2, 3 …
    3 delta from    head = first, smallest     differences less the smallest one (signed); width 8 only: stamps
    4 xor           head = the first           exclusive or with the value before

Values are little-endian and count modulo 2**(8 * width), so that every bit pattern comes back, whatever it means.
Planes that hold only zeros are left out at the upper end. Method + 128: the rest is deflated (RFC 1951).

    64 steps        first value, unit (8 bytes each), then a packed column of  (value - first) / unit  (width 8 only):
                    stamps that are whole milliseconds, meters that count in tens


All lanes of a column are worked on at once, as one long integer: Python's arithmetic on those runs at the speed of C.
"""

from __future__ import annotations

import functools
import math
import struct
import zlib
from array import array
from itertools import accumulate, pairwise

SAME, PLAIN, DELTA, DELTA_FROM, XOR = range(5)
STEPS = 64
_DEFLATED = 128
_LEVEL = 6
_HEADS = {SAME: 1, PLAIN: 0, DELTA: 1, DELTA_FROM: 2, XOR: 1}
_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_STEPS_HEAD = struct.Struct("<Bqq")
_INT64_MOST = 2**63 - 1
_CHOICES = {False: (DELTA, PLAIN), True: (XOR, DELTA, PLAIN)}  # by "are these floats"


class DamagedColumn(Exception):
    """A packed column cannot be taken apart."""


@functools.lru_cache(maxsize=64)
def _ones(width: int, count: int) -> int:
    """Return the number whose lanes are all 1."""
    return int.from_bytes((b"\1" + bytes(width - 1)) * count, "little")


def _subtract(column: bytes, width: int, count: int) -> bytes:
    """Return the differences of neighbours, `count - 1` of them, modulo the width."""
    later = int.from_bytes(column[width:], "little")
    before = int.from_bytes(column[: len(column) - width], "little")
    tops = _ones(width, count - 1) << (8 * width - 1)
    # The top bit of each lane is set aside: nothing can be borrowed from the lane above it.
    lanes = ((later | tops) - (before & ~tops)) ^ ((later ^ before ^ tops) & tops)
    return lanes.to_bytes((count - 1) * width, "little")


def _add(column: bytes, number: int, width: int, count: int) -> bytes:
    """Return every value and a number, modulo the width."""
    ones = _ones(width, count)
    tops = ones << (8 * width - 1)
    lanes, other = int.from_bytes(column, "little"), ones * number
    added = ((lanes & ~tops) + (other & ~tops)) ^ ((lanes ^ other) & tops)
    return added.to_bytes(count * width, "little")


def _zigzag(column: bytes, width: int, count: int) -> bytes:
    ones = _ones(width, count)
    lanes = int.from_bytes(column, "little")
    tops = ones << (8 * width - 1)
    negative = (lanes & tops) >> (8 * width - 1)
    zigzagged = ((lanes & ~tops) << 1) ^ ((negative << (8 * width)) - negative)
    return zigzagged.to_bytes(count * width, "little")


def _unzigzag(column: bytes, width: int, count: int) -> bytes:
    ones = _ones(width, count)
    lanes = int.from_bytes(column, "little")
    negative = lanes & ones
    plain = ((lanes ^ negative) >> 1) ^ ((negative << (8 * width)) - negative)
    return plain.to_bytes(count * width, "little")


def _xor(column: bytes, width: int) -> bytes:
    size = len(column) - width
    return (int.from_bytes(column[width:], "little") ^ int.from_bytes(column[:size], "little")).to_bytes(size, "little")


def _planes(column: bytes, width: int) -> tuple[int, bytes]:
    """Return how many planes hold something, and these planes."""
    planes = [column[i::width] for i in range(width)]
    while planes and not any(planes[-1]):
        planes.pop()
    return len(planes), b"".join(planes)


def _from_planes(planes: bytes, used: int, width: int, count: int) -> bytes:
    if width == 1 and used == 1:
        return planes
    column = bytearray(count * width)
    for i in range(used):
        column[i::width] = planes[i * count : (i + 1) * count]
    return bytes(column)


def _candidate(method: int, column: bytes, width: int, count: int) -> tuple[bytes, bytes]:
    """Return (head, lanes that are left) of one method."""
    if method == PLAIN:
        return b"", column
    head = column[:width]
    if method == XOR:
        return head, _xor(column, width)
    rest = _subtract(column, width, count)
    if method == DELTA_FROM:
        least = min(array(_SIGNED[width], rest)).to_bytes(width, "little", signed=True)
        return head + least, _add(rest, (-int.from_bytes(least, "little")) % (1 << 8 * width), width, count - 1)
    return head, _zigzag(rest, width, count - 1)


def pack(column: bytes, width: int, *, floats: bool = False) -> bytes:
    """Return a column of little-endian values, packed by the method that makes it smallest."""
    count = len(column) // width
    if column == column[:width] * count:
        return bytes((SAME, 0)) + column[:width]
    if width == 8 and not floats and (stepped := _pack_steps(column, count)):
        return stepped
    best = b""
    for method in (DELTA_FROM, DELTA) if width == 8 and not floats else _CHOICES[floats]:
        head, lanes = _candidate(method, column, width, count)
        used, planes = _planes(lanes, width)
        deflated = _deflate(planes)
        if len(deflated) < len(planes):
            packed = bytes((method | _DEFLATED, used)) + head + deflated
        else:
            packed = bytes((method, used)) + head + planes
        if not best or len(packed) < len(best):
            best = packed
    return best


def _pack_steps(column: bytes, count: int) -> bytes:
    """Return the column in steps of the greatest common divisor of its differences; empty where that is 1."""
    values = array("q", column)
    unit = math.gcd(*[later - before for before, later in pairwise(values)])
    first = values[0]
    if not 1 < unit <= _INT64_MOST or max(values) - first > _INT64_MOST or first - min(values) > _INT64_MOST:
        return b""
    steps = array("q", [(value - first) // unit for value in values])
    return _STEPS_HEAD.pack(STEPS, first, unit) + pack(steps.tobytes(), 8)


def _unpack_steps(packed: bytes, count: int) -> bytes:
    if len(packed) < _STEPS_HEAD.size:
        raise DamagedColumn("cut off")
    _, first, unit = _STEPS_HEAD.unpack_from(packed)
    column = unpack(packed[_STEPS_HEAD.size :], 8, count)
    lanes = int.from_bytes(column, "little")
    room_bits = 63 - unit.bit_length()  # a step of no more bits does not leave its lane when it is multiplied
    if unit > 0 and not lanes & _ones(8, count) * ((1 << 64) - (1 << room_bits)):
        return _add((lanes * unit).to_bytes(count * 8, "little"), first % (1 << 64), 8, count)
    steps = array("q", column)
    try:
        return array("q", [first + step * unit for step in steps]).tobytes()
    except OverflowError as exc:
        raise DamagedColumn("steps beyond 64 bits") from exc


def _deflate(plain: bytes) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    return deflater.compress(plain) + deflater.flush()


def unpack(packed: bytes, width: int, count: int) -> bytes:
    """Return the column that `pack` was given.

    Raises:
        DamagedColumn: `packed` is not a column of `count` values of this width.
    """
    if packed[:1] == bytes((STEPS,)) and width == 8:
        return _unpack_steps(packed, count)
    if len(packed) < 2 or packed[0] & 127 not in _HEADS or packed[1] > width:
        raise DamagedColumn("no packed column")
    method, used = packed[0] & 127, packed[1]
    start = 2 + _HEADS[method] * width
    if len(packed) < start:
        raise DamagedColumn("cut off")
    head = packed[2:start]
    if method == SAME:
        return head * count
    left = count - (method != PLAIN)
    planes = packed[start:]
    if packed[0] & _DEFLATED:
        planes = _inflate(planes, left * used)
    if left < 0 or len(planes) != left * used:
        raise DamagedColumn(f"{len(planes)} bytes for {used} planes of {left} values")
    lanes = _from_planes(planes, used, width, left)
    if method == PLAIN:
        return lanes
    if method == XOR:
        return _accumulate_xor(head, lanes, width)
    if method == DELTA_FROM:
        lanes = _add(lanes, int.from_bytes(head[width:], "little"), width, left)
    else:
        lanes = _unzigzag(lanes, width, left)
    return _accumulate(head[:width], lanes, width)


def _inflate(deflated: bytes, size: int) -> bytes:
    try:
        inflater = zlib.decompressobj(-15)
        plain = inflater.decompress(deflated, max(size, 1))
    except zlib.error as exc:
        raise DamagedColumn(str(exc)) from exc
    if not inflater.eof and inflater.decompress(inflater.unconsumed_tail, 1):
        raise DamagedColumn(f"more than {size} bytes")
    return plain


def _accumulate(head: bytes, lanes: bytes, width: int) -> bytes:
    """Return the sums of head and lanes, modulo the width."""
    steps = array(_SIGNED[width], head + lanes)
    try:
        return array(_SIGNED[width], list(accumulate(steps))).tobytes()
    except OverflowError:  # it went round, or the values are unsigned and large
        mask = (1 << (8 * width)) - 1
        return array(_UNSIGNED[width], [total & mask for total in accumulate(steps)]).tobytes()


def _accumulate_xor(head: bytes, lanes: bytes, width: int) -> bytes:
    steps = array(_UNSIGNED[width], head + lanes)
    return array(_UNSIGNED[width], list(accumulate(steps, int.__xor__))).tobytes()
