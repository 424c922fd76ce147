"""Samples of one point, in columns, and how columns from several places become one. Pure functions.

The order is that of (stamp, epoch, seq): it is the same wherever the samples came from.
"""

from __future__ import annotations

import itertools
import typing
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from fluxedge.columns import Value, scaler
from fluxedge.model import Point, Quality


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a point that come from groups with the same column."""

    point: Point
    at_ns: Sequence[int]  # placed by the clock table where our clock was not trusted; sorted
    values: Sequence[Value | None]  # engineering; None exactly where BAD or OFFLINE
    marks: bytes  # one Quality each; empty = all GOOD
    epochs: Sequence[int]
    seqs: Sequence[int]
    unsynced: bytes = b""  # 1 where our clock was not trusted; empty = nowhere

    def __len__(self) -> int:
        return len(self.at_ns)

    @property
    def numeric(self) -> bool:
        """Tell whether these values can be averaged."""
        return is_number(self.point)

    def between(self, from_ns: int, to_ns: int) -> Samples:
        """Return those with a stamp in [from, to)."""
        i, j = bisect_left(self.at_ns, from_ns), bisect_left(self.at_ns, to_ns)
        return self if (i, j) == (0, len(self.at_ns)) else self.cut(i, j)

    def cut(self, i: int, j: int) -> Samples:
        """Return the samples i .. j-1."""
        return Samples(
            self.point, self.at_ns[i:j], self.values[i:j], self.marks[i:j], self.epochs[i:j], self.seqs[i:j],
            self.unsynced[i:j],
        )  # fmt: skip

    def picked(self, order: Sequence[int]) -> Samples:
        """Return the samples of these indexes, in their order."""
        return Samples(
            self.point,
            [self.at_ns[i] for i in order],
            [self.values[i] for i in order],
            bytes([self.marks[i] for i in order]) if self.marks else b"",
            [self.epochs[i] for i in order],
            [self.seqs[i] for i in order],
            bytes([self.unsynced[i] for i in order]) if self.unsynced else b"",
        )

    def key(self, i: int) -> tuple[int, int, int]:
        """Return what sample i is sorted by."""
        return self.at_ns[i], self.epochs[i], self.seqs[i]


def is_number(point: Point) -> bool:
    """Tell whether a point's values can be averaged: no switch, enum, bits, text or bytes."""
    return point.wire not in "?sy" and not point.enum and not point.bits


def engineering(point: Point, raws: Sequence[Value], marks: bytes) -> list[Value | None]:
    """Return engineering values of raws: None exactly where BAD or OFFLINE."""
    scale = scaler(point.scale, point.offset, point.precision) if point.wire not in "sy" else None
    bad = bool(marks) and max(marks) >= Quality.BAD
    if bad:  # a bad raw may be infinite, which no scaling with a precision takes
        raws = [0 if mark >= Quality.BAD else raw for raw, mark in zip(raws, marks, strict=True)]
    values: list[Value | None] = list(raws) if scale is None else list(scale(typing.cast("Sequence[float]", raws)))
    if bad:
        return [None if mark >= Quality.BAD else value for value, mark in zip(values, marks, strict=True)]
    return values


def ordered(samples: Samples) -> Samples:
    """Return samples of one epoch that come in the order of their seqs in their own order."""
    at_ns = samples.at_ns
    stamps = at_ns if isinstance(at_ns, list) else list(at_ns)
    if stamps == sorted(stamps):
        return samples
    return samples.picked(sorted(range(len(stamps)), key=stamps.__getitem__))  # stable: of equal stamps the lower seq


def merged(parts: Sequence[Samples]) -> list[Samples]:
    """Return ordered parts as parts that follow each other; parts that lie in each other become one.

    Parts of different groups that lie in each other are cut where they alternate.
    """
    parts = [part for part in parts if len(part)]
    if len(parts) > 1:
        parts.sort(key=lambda part: part.key(0))
    if all(a.at_ns[-1] < b.at_ns[0] or a.key(len(a) - 1) < b.key(0) for a, b in itertools.pairwise(parts)):
        return parts
    keys = sorted((part.key(i), number, i) for number, part in enumerate(parts) for i in range(len(part)))
    found: list[Samples] = []
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end][1] != keys[start][1]:
            first, last = keys[start][2], keys[end - 1][2]  # a part is in order: its samples follow each other
            found.append(parts[keys[start][1]].cut(first, last + 1))
            start = end
    return found
