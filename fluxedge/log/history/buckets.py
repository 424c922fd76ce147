"""Buckets: what a point did in each of N stretches of time. Pure functions and one fold.

A point's samples in the order (stamp, epoch, seq); each holds from its stamp to the next one's, a BAD or OFFLINE one
holds nothing, and the last one holds until now. A bucket [from, to) of a point that is a number:

    count   samples with a stamp in it, BAD and OFFLINE ones too
    last    the value in effect at its end; null: none
    min     of the values of its samples, and of the value that came in from before, if that one was in effect in it
    max     likewise
    mean    of the values in effect, weighted by how long each was; null: none was for any time

        value  ──┐ a        ┌─ c ────┐
                 └─ b ──────┘        ✕ BAD      mean = (a·(t1-from) + b·(t2-t1) + c·(t3-t2)) / (t3-from)
              ├──┼──────────┼────────┼─────┤
            from t1         t2       t3   to

Switches, enums, bits, texts and bytes have `last` and `count` only.
"""

from __future__ import annotations

import math
import typing
from bisect import bisect_left
from collections.abc import Sequence
from operator import mul, sub

import msgspec

from fluxedge.columns import Value

MINUTE_NS, HOUR_NS, DAY_NS = 60 * 10**9, 3600 * 10**9, 86_400 * 10**9
SNAP = 4  # buckets of at least so many minutes or hours begin on whole ones: they differ by a quarter at most

Values = Sequence[Value | None]


class Bucket(msgspec.Struct, frozen=True):
    """One stretch of time of one point."""

    from_ns: int
    to_ns: int
    count: int
    last: Value | None
    min: float | None
    max: float | None
    mean: float | None


class Piece(msgspec.Struct, frozen=True):
    """What is known of a stretch of time without its samples: a rollup. It begins with its first sample."""

    first_ns: int  # stamps of its first and last sample; a piece has at least one
    last_ns: int
    count: int
    last: Value | None  # the value of its last sample
    min: float | None
    max: float | None
    weighed: float  # value times ns, from the first sample to the last
    valid_ns: int  # how long a value was in effect, from the first sample to the last


def edges(from_ns: int, to_ns: int, count: int) -> list[int]:
    """Return where `count` buckets begin and end; inner edges of long ones lie on whole minutes or hours of UTC."""
    span = to_ns - from_ns
    count = max(1, min(count, span))
    width = span // count
    unit = HOUR_NS if width >= SNAP * HOUR_NS else MINUTE_NS if width >= SNAP * MINUTE_NS else 1
    inner = [(from_ns + span * i // count) // unit * unit for i in range(1, count)]
    return [from_ns, *inner, to_ns]


class Fold:
    """Go once through a point's samples, in their order, and make its buckets."""

    def __init__(self, edges: Sequence[int], now_ns: int, *, numeric: bool, held: Value | None = None) -> None:
        """`held` is the value that was in effect at the first edge."""
        self._edges = edges
        self._end_ns = max(edges[0], min(edges[-1], now_ns))  # beyond now nothing is in effect
        self._numeric = numeric
        self._held = held
        self._held_from_ns = edges[0]
        self._at = 0  # the bucket that is being filled
        self._done: list[Bucket] = []
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._min: float | None = None
        self._max: float | None = None
        self._weighed: float = 0.0
        self._valid_ns = 0

    def feed(self, at_ns: Sequence[int], values: Values) -> None:
        """Take in the next samples: numbers and None where the point is a number; sorted, and between the edges."""
        i, count = 0, len(at_ns)
        while i < count:
            self._go_to(at_ns[i])
            j = bisect_left(at_ns, self._edges[self._at + 1], i)
            self._take(at_ns[i:j], values[i:j])
            i = j

    def roll(self, piece: Piece) -> None:
        """Take in a piece that lies within one bucket, behind everything that came before."""
        self._go_to(piece.first_ns)
        self._let_hold(piece.first_ns)
        self._count += piece.count
        if self._numeric and piece.min is not None and piece.max is not None:
            self._bound(piece.min, piece.max)
            self._weighed += piece.weighed
            self._valid_ns += piece.valid_ns
        self._held, self._held_from_ns = piece.last, piece.last_ns

    def finish(self) -> list[Bucket]:
        """Return all buckets that have ended and were not returned before; the last call."""
        while self._at < len(self._edges) - 1:
            self._close()
        return self.take()

    def take(self) -> list[Bucket]:
        """Return the buckets that have ended since the last call."""
        done, self._done = self._done, []
        return done

    def _go_to(self, at_ns: int) -> None:
        """End the buckets before the one that holds an instant."""
        while at_ns >= self._edges[self._at + 1]:
            self._close()

    def _close(self) -> None:
        from_ns, to_ns = self._edges[self._at], self._edges[self._at + 1]
        self._let_hold(to_ns)
        mean = None
        if self._valid_ns and math.isfinite(self._weighed):
            mean = self._weighed / self._valid_ns
            if self._min is not None and self._max is not None:  # a sum of many is off in its last digits
                mean = float(max(self._min, min(self._max, mean)))
        last = self._held if from_ns < self._end_ns or self._count else None
        self._done.append(Bucket(from_ns, to_ns, self._count, last, self._min, self._max, mean))
        self._at += 1
        self._held_from_ns = to_ns
        self._begin()

    def _let_hold(self, until_ns: int) -> None:
        """The value in effect goes on until an instant of this bucket."""
        held, from_ns = self._held, self._held_from_ns
        self._held_from_ns = until_ns
        if not self._numeric or held is None:
            return
        held_ns = min(until_ns, self._end_ns) - from_ns
        if held_ns > 0:
            number = typing.cast(float, held)
            self._bound(number, number)
            self._weighed += number * held_ns
            self._valid_ns += held_ns

    def _bound(self, low: float, high: float) -> None:
        self._min = low if self._min is None or low < self._min else self._min
        self._max = high if self._max is None or high > self._max else self._max

    def _take(self, at_ns: Sequence[int], values: Values) -> None:
        """Take in samples of one bucket; at the speed of C where all of them have values."""
        self._let_hold(at_ns[0])
        self._count += len(at_ns)
        if self._numeric:
            if None in values or at_ns[-1] > self._end_ns:
                self._take_each(at_ns, values)
            else:
                numbers = typing.cast("Sequence[float]", values)
                self._bound(min(numbers), max(numbers))
                self._weighed = sum(map(mul, numbers, map(sub, at_ns[1:], at_ns)), self._weighed)
                self._valid_ns += at_ns[-1] - at_ns[0]
        self._held, self._held_from_ns = values[-1], at_ns[-1]

    def _take_each(self, at_ns: Sequence[int], values: Values) -> None:
        for i, value in enumerate(values):
            if value is None:
                continue
            number = typing.cast(float, value)
            self._bound(number, number)
            if i + 1 < len(at_ns):
                held_ns = max(0, min(at_ns[i + 1], self._end_ns) - at_ns[i])
                self._weighed += number * held_ns
                self._valid_ns += held_ns
