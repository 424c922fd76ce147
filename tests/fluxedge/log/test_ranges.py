"""A RangeSet is a set of integers; a plain set says what it must hold."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fluxedge.log.ranges import RangeSet
from fluxedge.model import OPEN_END

numbers = st.integers(min_value=0, max_value=40)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), numbers, numbers), max_size=30)


def plain(ranges: RangeSet) -> set[int]:
    return {number for lo, hi in ranges for number in range(lo, hi + 1)}


@given(steps)
def test_it_holds_what_a_plain_set_holds(todo: list[tuple[str, int, int]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for verb, lo, hi in todo:
        span = set(range(lo, hi + 1))
        if verb == "add":
            ranges.add(lo, hi)
            model |= span
        else:
            assert ranges.remove(lo, hi) == bool(model & span)
            model -= span
        assert plain(ranges) == model
        found = list(ranges)
        assert all(lo <= hi for lo, hi in found)
        assert all(hi + 1 < nxt for (_, hi), (nxt, _) in itertools.pairwise(found)), "ranges touch"
    assert bool(ranges) == bool(model)
    assert RangeSet(list(ranges)) == ranges


@given(steps, numbers, numbers)
def test_its_questions_agree_with_a_plain_set(todo: list[tuple[str, int, int]], lo: int, hi: int) -> None:
    ranges = RangeSet()
    for verb, a, b in todo:
        (ranges.add if verb == "add" else ranges.remove)(a, b)
    model = plain(ranges)
    assert {n for a, b in ranges.intersect(lo, hi) for n in range(a, b + 1)} == {n for n in model if lo <= n <= hi}
    assert ranges.count_upto(hi) == len([n for n in model if n <= hi])
    assert (lo in ranges) == (lo in model)
    above = sorted(n for n in model if n >= lo)
    first = ranges.first_from(lo)
    assert (first is None) == (not above)
    if first is not None:
        assert first[0] == above[0]
        assert set(range(first[0], first[1] + 1)) <= model
        assert first[1] + 1 not in model


def test_an_open_end_is_kept_while_the_front_moves_on() -> None:
    ranges = RangeSet([(1, OPEN_END)])
    assert ranges.remove(1, 500)
    assert list(ranges) == [(501, OPEN_END)]
    assert ranges.remove(601, 700)
    assert list(ranges) == [(501, 600), (701, OPEN_END)]
    assert repr(ranges).startswith("RangeSet(501-600")


def test_an_empty_stretch_changes_nothing() -> None:
    ranges = RangeSet([(1, 10)])
    assert not ranges.remove(1, 0)
    assert not ranges.remove(6, 5)
    ranges.add(20, 19)
    assert list(ranges) == [(1, 10)]
