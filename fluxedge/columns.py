"""Raw typed columns: how the values of a group are packed, unpacked, scaled and judged.

The plan is compiled once per group, so that a round costs a few C calls instead of Python per point:

    fixed columns      one struct, little-endian, in the order of the points
    text and bytes     behind them, each  u32 length | bytes

A raw of None (BAD or OFFLINE) is stored as zero or empty; the quality bytes of the round tell.
"""

from __future__ import annotations

import math
import struct
import typing
from collections.abc import Callable, Sequence

Value = float | int | bool | str | bytes
Raws = tuple[Value | None, ...]

FIXED = "?bBhHiIqQfd"  # struct letters
FLOATS = "fd"
_GOOD, _UNCERTAIN, _BAD, _OFFLINE = 0, 1, 2, 3  # model.Quality; columns lies below model
_ZERO: dict[str, Value] = {"s": "", "y": b"", "?": False, "f": 0.0, "d": 0.0}


class Column(typing.Protocol):
    """What the codec needs of a point (model.Point is one)."""

    @property
    def wire(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def precision(self) -> int | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def power_of_ten(scale: float) -> int:
    """Return d when multiplying by `scale` is dividing by the integer d = 10**k; else 0.

    x / 10 is exact to the last digit where x * 0.1 is not (3 * 0.1 = 0.30000000000000004).
    """
    for power in range(1, 13):
        if scale == 10.0**-power or scale == float(f"1e-{power}"):
            return int(10**power)
    return 0


def scaler(scale: float, offset: float, precision: int | None) -> Callable[[float], float] | None:
    """Return raw -> engineering value, or None where they are equal."""
    if scale == 1.0 and offset == 0.0 and precision is None:
        return None
    divisor = power_of_ten(scale)
    if precision is not None:
        if divisor:
            return lambda x: round(x / divisor + offset, precision)
        return lambda x: round(x * scale + offset, precision)
    if divisor and offset == 0.0:
        return lambda x: x / divisor
    if divisor:
        return lambda x: x / divisor + offset
    if offset == 0.0:
        return lambda x: x * scale
    return lambda x: x * scale + offset


def unscale(value: float, scale: float, offset: float, wire: str) -> float | int:
    """Return the raw for an engineering value.

    Raises:
        ValueError: no raw of this type is within half a raw unit of `value`, or `value` is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    divisor = power_of_ten(scale)
    exact = (value - offset) * divisor if divisor else (value - offset) / scale
    if wire in FLOATS:
        return float(exact)
    raw = round(exact)
    if abs(raw - exact) > 0.5:
        raise ValueError(f"{value} has no raw value")
    return raw


class Codec:
    """Compiled packing and scaling of one group's columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        for column in columns:
            if column.wire not in FIXED and column.wire not in "sy":
                raise ValueError(f"unknown wire type {column.wire!r}")
        self.count = len(columns)
        self._fixed = [i for i, column in enumerate(columns) if column.wire not in "sy"]
        self._variable = [(i, column.wire) for i, column in enumerate(columns) if column.wire in "sy"]
        self._struct = struct.Struct("<" + "".join(columns[i].wire for i in self._fixed))
        self._zeros = tuple(_ZERO.get(column.wire, 0) for column in columns)
        self._floats = [i for i, column in enumerate(columns) if column.wire in FLOATS]
        self._limits = [(i, c.low, c.high) for i, c in enumerate(columns) if c.low is not None or c.high is not None]
        self._runs = _runs(columns)
        # JSON carries every value of this group as it is: no bytes, no integers beyond 2^53.
        self.plain = all(column.wire not in "qQy" for column in columns)

    def pack(self, raws: Raws) -> bytes:
        """Return the columns as stored."""
        if None in raws:
            raws = tuple(zero if raw is None else raw for raw, zero in zip(raws, self._zeros, strict=True))
        if not self._variable:
            return self._struct.pack(*raws)
        parts = [self._struct.pack(*[raws[i] for i in self._fixed])]
        for i, wire in self._variable:
            blob = typing.cast(str, raws[i]).encode() if wire == "s" else typing.cast(bytes, raws[i])
            parts.append(len(blob).to_bytes(4, "little"))
            parts.append(blob)
        return b"".join(parts)

    def unpack(self, body: bytes, start: int) -> tuple[Raws, int]:
        """Return the raws that begin at `start`, and where they end."""
        fixed = self._struct.unpack_from(body, start)
        end = start + self._struct.size
        if not self._variable:
            return fixed, end
        raws: list[Value | None] = list(self._zeros)
        for i, raw in zip(self._fixed, fixed, strict=True):
            raws[i] = raw
        for i, wire in self._variable:
            length = int.from_bytes(body[end : end + 4], "little")
            blob = body[end + 4 : end + 4 + length]
            raws[i] = blob.decode() if wire == "s" else blob
            end += 4 + length
        return tuple(raws), end

    def scale(self, raws: Raws) -> Raws:
        """Return engineering values of raws without None."""
        if not self._runs:
            return raws
        values: list[Value | None] = list(raws)
        for start, stop, function in self._runs:
            values[start:stop] = map(function, typing.cast("Sequence[float]", raws[start:stop]))
        return tuple(values)

    def judge(self, raws: Raws, quality: bytes) -> tuple[Raws, bytes]:
        """Return engineering values and quality: NaN and infinity are BAD, outside the validity limits UNCERTAIN."""
        if not quality:
            if self._all_finite(raws):
                values = self.scale(raws)
                return values, self._judge_limits(values, b"") if self._limits else b""
            quality = bytes(self.count)
        marks = bytearray(quality)
        for i in self._floats:
            raw = raws[i]
            if raw is not None and not math.isfinite(typing.cast(float, raw)):
                marks[i] = _BAD
        return self.values(raws, bytes(marks)), self._judge_limits_of_raws(raws, bytes(marks))

    def values(self, raws: Raws, quality: bytes) -> Raws:
        """Return engineering values of stored raws: None exactly where the quality is BAD or OFFLINE."""
        if not quality:
            return self.scale(raws)
        filled = tuple(
            zero if mark >= _BAD or raw is None else raw
            for raw, zero, mark in zip(raws, self._zeros, quality, strict=True)
        )
        scaled = self.scale(filled)
        return tuple(None if mark >= _BAD else value for value, mark in zip(scaled, quality, strict=True))

    def _all_finite(self, raws: Raws) -> bool:
        if len(self._floats) == self.count:
            total = sum(typing.cast("tuple[float, ...]", raws))
        else:
            total = sum([typing.cast(float, raws[i]) for i in self._floats])
        # The sum of finite floats can overflow; then the careful path below decides point by point.
        return math.isfinite(total)

    def _judge_limits_of_raws(self, raws: Raws, quality: bytes) -> bytes:
        return self._judge_limits(self.values(raws, quality), quality) if self._limits else quality

    def _judge_limits(self, values: Raws, quality: bytes) -> bytes:
        marks: bytearray | None = None
        for i, low, high in self._limits:
            value = values[i]
            if value is None or isinstance(value, str | bytes):
                continue
            if (low is not None and value < low) or (high is not None and value > high):
                if marks is None:
                    marks = bytearray(quality or bytes(self.count))
                marks[i] = max(marks[i], _UNCERTAIN)
        return quality if marks is None else bytes(marks)


def _runs(columns: Sequence[Column]) -> list[tuple[int, int, Callable[[float], float]]]:
    """Return (start, stop, function) for neighbouring columns of one scaling; columns without scaling are left out."""
    runs: list[tuple[int, int, Callable[[float], float]]] = []
    start = 0
    while start < len(columns):
        first = columns[start]
        key = (first.scale, first.offset, first.precision)
        stop = start + 1
        while stop < len(columns) and (columns[stop].scale, columns[stop].offset, columns[stop].precision) == key:
            stop += 1
        function = scaler(*key)
        if function is not None:
            runs.append((start, stop, function))
        start = stop
    return runs
