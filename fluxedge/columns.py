"""Raw typed columns: how the values of a group are packed, unpacked, scaled and judged.

The plan is compiled once per group, so that a round costs a few C calls instead of Python per point:

    fixed columns      one struct, little-endian, in the order of the points; a bool is one byte, 0 or 1
    text and bytes     behind them, each  u32 length | bytes

A raw of None (BAD or OFFLINE) is stored as zero or empty; the quality bytes of the round tell. No quality bytes mean
that every point is GOOD, so that the hot path asks nothing per point: a None that slips in there fails to pack.
"""

from __future__ import annotations

import base64
import math
import struct
import typing
from collections.abc import Callable, Sequence
from operator import itemgetter, truediv

Value = float | int | bool | str | bytes
Raws = tuple[Value | None, ...]

FIXED = "?bBhHiIqQfd"  # struct letters
FLOATS = "fd"
_GOOD, _UNCERTAIN, _BAD, _OFFLINE = 0, 1, 2, 3  # model.Quality; columns lies below model
_ZERO: dict[str, Value] = {"s": "", "y": b"", "?": False, "f": 0.0, "d": 0.0}
_FLOAT32_MOST = 3.4028234663852886e38
_UNFIT = (struct.error, TypeError, AttributeError, OverflowError, UnicodeEncodeError)  # what packing a wrong raw raises


JSON_EXACT = 2**53  # beyond, a reader that has only doubles would round (RFC 8259, 6)


def json_value(value: Value | None) -> float | int | bool | str | None:
    """Return a value that every reader of JSON can carry: bytes as base64, integers beyond 2**53 as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int) and not -JSON_EXACT <= value <= JSON_EXACT:
        return str(value)
    return value


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


Scaling = Callable[[Sequence[float]], list[float]]


def scaler(scale: float, offset: float, precision: int | None) -> Scaling | None:
    """Return raws -> engineering values, or None where they are equal.

    Whole stretches, because calling a function costs twice what dividing does.
    """
    if scale == 1.0 and offset == 0.0 and precision is None:
        return None
    divisor = power_of_ten(scale)
    if precision is not None:
        if divisor:
            return lambda raws: [round(x / divisor + offset, precision) for x in raws]
        return lambda raws: [round(x * scale + offset, precision) for x in raws]
    if divisor and offset == 0.0:
        return lambda raws: [x / divisor for x in raws]
    if divisor:
        return lambda raws: [x / divisor + offset for x in raws]
    if offset == 0.0:
        return lambda raws: [x * scale for x in raws]
    return lambda raws: [x * scale + offset for x in raws]


def unscale(value: float, scale: float, offset: float, wire: str) -> float | int:
    """Return the raw nearest to an engineering value: at most half a raw unit away, not yet held against its range.

    Raises:
        ValueError: `value` is not finite, or no raw of this scaling or type can stand for it.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if scale == 0.0:
        raise ValueError("a scale of 0 cannot be reversed")
    if scale == 1.0 and offset == 0.0 and isinstance(value, int) and wire not in FLOATS:
        return int(value)  # beyond 2**53 a float would lose digits
    divisor = power_of_ten(scale)
    exact = (value - offset) * divisor if divisor else (value - offset) / scale
    if not math.isfinite(exact) or (wire == "f" and abs(exact) > _FLOAT32_MOST):
        raise ValueError(f"{value} would be the raw value {exact}")
    return float(exact) if wire in FLOATS else round(exact)


class Codec:
    """Compiled packing and scaling of one group's columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        for column in columns:
            if len(column.wire) != 1 or column.wire not in FIXED + "sy":
                raise ValueError(f"unknown wire type {column.wire!r}")
        self.count = len(columns)
        self._fixed = [i for i, column in enumerate(columns) if column.wire not in "sy"]
        self._variable = [(i, column.wire) for i, column in enumerate(columns) if column.wire in "sy"]
        letters = "<" + "".join(columns[i].wire for i in self._fixed)
        self._struct = struct.Struct(letters)
        self._packer = struct.Struct(letters.replace("?", "B"))  # "?" would take None and any object for a truth
        self._zeros = tuple(_ZERO.get(column.wire, 0) for column in columns)
        self._nothing: Raws = (None,) * self.count
        self._floats = [i for i, column in enumerate(columns) if column.wire in FLOATS]
        # itemgetter of one index gives a bare value; twice the same index does no harm to a test for finiteness
        self._pick = (
            itemgetter(*(self._floats if len(self._floats) != 1 else self._floats * 2)) if self._floats else None
        )
        self._limits = [(i, c.low, c.high) for i, c in enumerate(columns) if c.low is not None or c.high is not None]
        self._runs = _runs(columns)
        self._silence = self._pack(self._zeros)
        # JSON carries every value of this group as it is: no bytes, no integers beyond 2^53.
        self.plain = all(column.wire not in "qQy" for column in columns)

    def pack(self, raws: Raws, quality: bytes = b"") -> bytes:
        """Return the columns as stored.

        Raises:
            ValueError: a raw does not fit its wire type, or is None without being BAD or OFFLINE.
        """
        if quality:
            if len(quality) != self.count:
                raise ValueError(f"{len(quality)} qualities for {self.count} points")
            if raws == self._nothing and min(quality) >= _BAD:
                return self._silence
            if max(quality) >= _BAD:
                triples = zip(raws, self._zeros, quality, strict=True)
                raws = tuple([zero if raw is None and mark >= _BAD else raw for raw, zero, mark in triples])
        try:
            return self._pack(raws)
        except _UNFIT as exc:
            raise ValueError(f"a raw value does not fit its wire type: {exc}") from exc

    def _pack(self, raws: Raws) -> bytes:
        if not self._variable:
            return self._packer.pack(*raws)
        parts = [self._packer.pack(*[raws[i] for i in self._fixed])]
        for i, wire in self._variable:
            blob = typing.cast(str, raws[i]).encode() if wire == "s" else memoryview(typing.cast(bytes, raws[i]))
            parts.append(len(blob).to_bytes(4, "little"))
            parts.append(bytes(blob))
        return b"".join(parts)

    def without_unfit(self, raws: Raws, quality: bytes) -> tuple[Raws, bytes]:
        """Return raws and quality with every raw that cannot be packed turned into None and BAD."""
        marks = bytearray(quality or bytes(self.count))
        kept = list(raws)
        for i, (raw, zero) in enumerate(zip(raws, self._zeros, strict=True)):
            try:
                self._pack((*self._zeros[:i], zero if raw is None and marks[i] >= _BAD else raw, *self._zeros[i + 1 :]))
            except _UNFIT:
                kept[i], marks[i] = None, max(marks[i], _BAD)
        return tuple(kept), bytes(marks)

    def unpack(self, body: bytes, start: int) -> tuple[Raws, int]:
        """Return the raws that begin at `start`, and where they end.

        Raises:
            struct.error: `body` ends too early.
            UnicodeDecodeError: a text is not UTF-8.
        """
        fixed = self._struct.unpack_from(body, start)
        end = start + self._struct.size
        if not self._variable:
            return fixed, end
        raws: list[Value | None] = list(self._zeros)
        for i, raw in zip(self._fixed, fixed, strict=True):
            raws[i] = raw
        for i, wire in self._variable:
            stop = end + 4 + int.from_bytes(body[end : end + 4], "little")
            if stop > len(body):
                raise struct.error(f"column {i} ends at {stop} of {len(body)} bytes")
            blob = body[end + 4 : stop]
            raws[i] = blob.decode() if wire == "s" else blob
            end = stop
        return tuple(raws), end

    def skip(self, body: bytes, start: int) -> int:
        """Return where the raws that begin at `start` end.

        Raises:
            struct.error: `body` ends too early.
        """
        end = start + self._struct.size
        for _ in self._variable:
            end += 4 + int.from_bytes(body[end : end + 4], "little")
        if end > len(body):
            raise struct.error(f"the columns end at {end} of {len(body)} bytes")
        return end

    def scale(self, raws: Raws) -> Raws:
        """Return engineering values of raws without None."""
        if not self._runs:
            return raws
        values: list[Value | None] = list(raws)
        for start, stop, function in self._runs:
            values[start:stop] = function(typing.cast("Sequence[float]", raws[start:stop]))
        return tuple(values)

    def judge(self, raws: Raws, quality: bytes) -> tuple[Raws, bytes]:
        """Return engineering values and quality: NaN and infinity are BAD, outside the validity limits UNCERTAIN.

        Raises:
            ValueError: a raw is None without being BAD or OFFLINE, or is no number where a number belongs.
        """
        if not quality:
            try:
                values = self.scale(raws)
                if self._finite(values):
                    return values, self._judge_limits(values, b"") if self._limits else b""
            except (TypeError, OverflowError) as exc:
                raise ValueError(f"a raw value is missing or of the wrong type: {exc}") from exc
            quality = bytes(self.count)
        return self._judge_each(raws, quality)

    def values(self, raws: Raws, quality: bytes) -> Raws:
        """Return engineering values of stored raws: None exactly where the quality is BAD or OFFLINE."""
        if not quality or max(quality) < _BAD:
            return self.scale(raws)
        if min(quality) >= _BAD:
            return self._nothing
        triples = zip(raws, self._zeros, quality, strict=True)
        scaled = self.scale(tuple([zero if mark >= _BAD else raw for raw, zero, mark in triples]))
        return tuple([None if mark >= _BAD else value for value, mark in zip(scaled, quality, strict=True)])

    def _finite(self, values: Raws) -> bool:
        """Tell whether all floats are finite; may say no when only their sum is not: then each is looked at."""
        if self._pick is None:
            return True
        return math.isfinite(sum(values if len(self._floats) == self.count else self._pick(values)))

    def _judge_each(self, raws: Raws, quality: bytes) -> tuple[Raws, bytes]:
        if len(quality) != self.count:
            raise ValueError(f"{len(quality)} qualities for {self.count} points")
        marks = bytearray(quality)
        if any(raw is None and mark < _BAD for raw, mark in zip(raws, marks, strict=True)):
            raise ValueError("a raw of None must be BAD or OFFLINE")
        for i in self._floats:
            if marks[i] < _BAD and not math.isfinite(typing.cast(float, raws[i])):
                marks[i] = _BAD
        values = self.values(raws, bytes(marks))
        overflown = [i for i in self._floats if marks[i] < _BAD and not math.isfinite(typing.cast(float, values[i]))]
        for i in overflown:  # a finite raw whose scaling leaves the range of floats
            marks[i] = _BAD
        if overflown:
            values = self.values(raws, bytes(marks))
        judged = bytes(marks)
        return values, self._judge_limits(values, judged) if self._limits else judged

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


def _runs(columns: Sequence[Column]) -> list[tuple[int, int, Scaling]]:
    """Return (start, stop, function) for neighbouring columns of one scaling; columns without scaling are left out.

    Neighbours that are all divided by powers of ten are one run, whichever: as runs of one column each they cost five
    times as much.
    """
    runs: list[tuple[int, int, Scaling]] = []
    start = 0
    while start < len(columns):
        first = columns[start]
        key = (first.scale, first.offset, first.precision)
        stop = start + 1
        while stop < len(columns) and _same_scaling(first, columns[stop]):
            stop += 1
        function = scaler(*key)
        if _divisor(first):
            while stop < len(columns) and _divisor(columns[stop]):
                stop += 1
            divisors = [_divisor(column) for column in columns[start:stop]]
            if len(set(divisors)) > 1:
                function = _dividing(divisors)
        if function is not None and first.wire not in "sy":
            runs.append((start, stop, function))
        start = stop
    return runs


def _divisor(column: Column) -> int:
    """Return the power of ten by which a column is divided and nothing else is done to it; else 0."""
    plain = column.offset == 0.0 and column.precision is None and column.wire not in "sy"
    return power_of_ten(column.scale) if plain else 0


def _dividing(divisors: Sequence[int]) -> Scaling:
    return lambda raws: list(map(truediv, raws, divisors))


def _same_scaling(a: Column, b: Column) -> bool:
    """Tell whether one function scales both; text and bytes are never scaled."""
    same = (a.scale, a.offset, a.precision) == (b.scale, b.offset, b.precision)
    return same and (a.wire in "sy") == (b.wire in "sy")
