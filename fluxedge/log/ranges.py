"""Sets of whole numbers as sorted, disjoint, inclusive ranges: what a cursor still has to deliver."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class RangeSet:
    """A set of integers; ranges are inclusive and never touch (2-4 and 5-7 are kept as 2-7)."""

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self._ranges: list[tuple[int, int]] = []
        for lo, hi in ranges or []:
            self.add(lo, hi)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._ranges == other._ranges

    def __repr__(self) -> str:
        return "RangeSet(" + ", ".join(f"{lo}-{hi}" for lo, hi in self._ranges) + ")"

    def __contains__(self, number: int) -> bool:
        i = bisect_right(self._ranges, (number, 2**63)) - 1
        return i >= 0 and self._ranges[i][0] <= number <= self._ranges[i][1]

    def add(self, lo: int, hi: int) -> None:
        """Put lo..hi in."""
        if lo > hi:
            return
        kept = []
        for a, b in self._ranges:
            if b + 1 < lo or hi + 1 < a:
                kept.append((a, b))
            else:
                lo, hi = min(lo, a), max(hi, b)
        kept.append((lo, hi))
        kept.sort()
        self._ranges = kept

    def remove(self, lo: int, hi: int) -> bool:
        """Take lo..hi out; tell whether anything of it was in."""
        if lo > hi:
            return False
        ranges = self._ranges
        if ranges and ranges[0][0] == lo and hi < ranges[0][1]:  # the usual case: the front moves on
            ranges[0] = (hi + 1, ranges[0][1])
            return True
        kept = []
        changed = False
        for a, b in ranges:
            if b < lo or hi < a:
                kept.append((a, b))
                continue
            changed = True
            if a < lo:
                kept.append((a, lo - 1))
            if hi < b:
                kept.append((hi + 1, b))
        self._ranges = kept
        return changed

    def intersect(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """Return the parts of lo..hi that are in."""
        return [(max(a, lo), min(b, hi)) for a, b in self._ranges if a <= hi and lo <= b]

    def first_from(self, number: int) -> tuple[int, int] | None:
        """Return the first stretch that is in and not below `number`."""
        for a, b in self._ranges:
            if b >= number:
                return max(a, number), b
        return None

    def count_upto(self, limit: int) -> int:
        """Return how many numbers <= limit are in."""
        return sum(min(b, limit) - a + 1 for a, b in self._ranges if a <= limit)
