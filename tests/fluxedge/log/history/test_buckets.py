"""Buckets by their definitions: what counts, what is in effect, what is weighed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.log.history.buckets import HOUR_NS, MINUTE_NS, Bucket, Fold, Piece, edges
from tests.fluxedge.log.history.reference import Sample, bucket

NOW = 1 << 40


def folded(
    samples: list[tuple[int, float | None]], bounds: list[int], held: float | None = None, now_ns: int = NOW
) -> list[Bucket]:
    fold = Fold(bounds, now_ns, numeric=True, held=held)
    fold.feed([at for at, _ in samples], [value for _, value in samples])
    return fold.finish()


def test_a_value_holds_until_the_next_one_and_is_weighed_by_how_long() -> None:
    (one,) = folded([(10, 1.0), (40, 4.0)], [0, 100])
    assert (one.count, one.last, one.min, one.max) == (2, 4.0, 1.0, 4.0)
    assert one.mean == pytest.approx((1 * 30 + 4 * 60) / 90)


def test_the_value_that_came_in_from_before_counts_as_long_as_it_holds() -> None:
    (one,) = folded([(50, 1.0)], [0, 100], held=3.0)
    assert (one.count, one.last, one.min, one.max, one.mean) == (1, 1.0, 1.0, 3.0, 2.0)
    (one,) = folded([(0, 1.0)], [0, 100], held=3.0)
    assert (one.max, one.mean) == (1.0, 1.0), "it was in effect for no time"


def test_a_bucket_without_samples_has_the_value_that_holds() -> None:
    first, second, third = folded([(10, 5.0)], [0, 100, 200, 300])
    assert (first.count, second.count, third.count) == (1, 0, 0)
    assert (second.last, second.min, second.mean) == (5.0, 5.0, 5.0)
    assert third == Bucket(200, 300, 0, 5.0, 5.0, 5.0, 5.0)


def test_a_bad_sample_ends_what_holds_and_is_counted() -> None:
    one, two = folded([(10, 2.0), (20, None)], [0, 100, 200])
    assert (one.count, one.last, one.min, one.max, one.mean) == (2, None, 2.0, 2.0, 2.0)
    assert (two.count, two.last, two.min, two.mean) == (0, None, None, None)


def test_nothing_holds_beyond_now() -> None:
    one, two, three = folded([(10, 2.0)], [0, 100, 200, 300], now_ns=150)
    assert (one.mean, two.mean, three.mean) == (2.0, 2.0, None)
    assert (one.last, two.last, three.last) == (2.0, 2.0, None)
    (one,) = folded([(50, 2.0), (80, 4.0)], [0, 100], now_ns=60)  # a device whose clock is ahead
    assert (one.count, one.last, one.max, one.mean) == (2, 4.0, 4.0, 2.0)


def test_switches_and_texts_have_count_and_last_only() -> None:
    fold = Fold([0, 100], NOW, numeric=False, held="a")
    fold.feed([10, 20], ["b", None])
    assert fold.finish() == [Bucket(0, 100, 2, None, None, None, None)]


def test_the_mean_never_leaves_the_range_of_its_values() -> None:
    (one,) = folded([(at, 0.1) for at in range(0, 100, 3)], [0, 100])
    assert one.mean == 0.1


def test_values_at_the_end_of_the_range_of_floats_have_no_mean_that_is_infinite() -> None:
    (one,) = folded([(0, 1e308), (1 << 39, 1e308)], [0, NOW])
    assert one.mean is None
    assert one.max == 1e308


@given(
    st.lists(st.tuples(st.integers(0, 400), st.none() | st.integers(-50, 50).map(float)), max_size=40),
    st.lists(st.integers(1, 399), max_size=6, unique=True),
    st.none() | st.integers(-5, 5).map(float),
    st.integers(0, 500),
    st.integers(1, 7),
)
def test_whatever_the_pieces_it_is_what_the_definitions_say(
    samples: list[tuple[int, float | None]], inner: list[int], held: float | None, now_ns: int, step: int
) -> None:
    samples = sorted((sample for sample in samples if sample[0] < 400), key=lambda sample: sample[0])
    bounds = [0, *sorted(inner), 400]
    fold = Fold(bounds, now_ns, numeric=True, held=held)
    found = []
    for i in range(0, len(samples), step):
        fold.feed([at for at, _ in samples[i : i + step]], [value for _, value in samples[i : i + step]])
        found += fold.take()
    found += fold.finish()
    before = [] if held is None else [Sample(-1, 0, 0, held, 0)]
    all_ = before + [Sample(at, 0, i, value, 0) for i, (at, value) in enumerate(samples, 1)]
    for one, lo, hi in zip(found, bounds, bounds[1:], strict=False):
        wanted = bucket(all_, lo, hi, now_ns, number=True)
        assert (one.count, one.last, one.min, one.max) == (wanted.count, wanted.last, wanted.min, wanted.max)
        assert one.mean == pytest.approx(wanted.mean)


def test_a_piece_counts_like_its_samples() -> None:
    fold = Fold([0, 100], NOW, numeric=True, held=1.0)
    fold.roll(Piece(10, 30, 3, 5.0, 2.0, 6.0, 2.0 * 10 + 6.0 * 10, 20))
    (rolled,) = fold.finish()
    (fed,) = folded([(10, 2.0), (20, 6.0), (30, 5.0)], [0, 100], held=1.0)
    assert rolled == fed


def test_inner_edges_of_long_buckets_lie_on_whole_minutes_and_hours() -> None:
    day = 24 * HOUR_NS
    assert edges(5, 5 + day, 1000)[1] == 5 + day // 1000
    assert all(edge % MINUTE_NS == 0 for edge in edges(5, 5 + day, 100)[1:-1])
    year = edges(5, 5 + 365 * day, 1000)
    assert all(edge % HOUR_NS == 0 for edge in year[1:-1])
    assert (year[0], year[-1], len(year)) == (5, 5 + 365 * day, 1001)
    assert year == sorted(set(year))
    assert edges(0, 3, 10) == [0, 1, 2, 3]
