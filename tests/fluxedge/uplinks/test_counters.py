"""Durations fall into their buckets; a live message is measured from the commit of its first record."""

from __future__ import annotations

import math

import pytest

from fluxedge.model import Lane
from fluxedge.spi import Message
from fluxedge.uplinks.counters import DELIVERY_BOUNDS_S, CommitTimes, ForwardCounters, Histogram


@pytest.mark.parametrize(("duration_s", "bucket"), [(0.0, 1.0), (1.0, 1.0), (1.01, 2.0), (2.0, 2.0), (99.0, math.inf)])
def test_a_duration_is_in_the_first_bucket_that_holds_it(duration_s: float, bucket: float) -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(duration_s)
    assert next(bound for bound, count in histogram.cumulative() if count) == bucket
    assert (histogram.count, histogram.sum_s) == (1, duration_s)


def test_buckets_are_cumulative_and_end_with_all() -> None:
    histogram = Histogram((1.0, 2.0))
    for duration_s in (0.5, 0.6, 1.5, 7.0):
        histogram.add(duration_s)
    assert histogram.cumulative() == [(1.0, 2), (2.0, 3), (math.inf, 4)]
    assert list(DELIVERY_BOUNDS_S) == sorted(set(DELIVERY_BOUNDS_S))


def test_streams_have_counters_of_their_own() -> None:
    counters = ForwardCounters()
    counters.stream(True).records += 1
    counters.stream(False).delivery.add(1.0)
    assert (counters.backlog.records, counters.live.records) == (1, 0)
    assert (counters.backlog.delivery.count, counters.live.delivery.count) == (0, 1)


def message(lo: int, epoch: int = 7, lane: Lane = Lane.ROUNDS) -> Message:
    return Message(epoch, lane, lo, lo, b"", "")


def test_a_message_was_committed_when_its_first_record_was() -> None:
    times = CommitTimes()
    times.committed(7, {Lane.ROUNDS: 10, Lane.EVENTS: 0}, 1.0)
    times.committed(7, {Lane.ROUNDS: 10, Lane.EVENTS: 4}, 2.0)
    times.committed(7, {Lane.ROUNDS: 20, Lane.EVENTS: 4}, 3.0)
    assert [times.of(message(lo)) for lo in (1, 10, 11, 20)] == [1.0, 1.0, 3.0, 3.0]
    assert times.of(message(1, lane=Lane.EVENTS)) == 2.0
    assert times.of(message(21)) is None


def test_a_new_epoch_begins_anew() -> None:
    times = CommitTimes()
    times.committed(7, {Lane.ROUNDS: 10}, 1.0)
    times.committed(8, {Lane.ROUNDS: 2}, 2.0)
    assert times.of(message(5)) == 1.0
    assert times.of(message(1, epoch=8)) == 2.0
    assert times.of(message(9)) is None  # an old one, late


def test_commits_are_kept_in_bounded_number() -> None:
    times = CommitTimes()
    for head in range(1, 3 * CommitTimes.MOST):
        times.committed(7, {Lane.ROUNDS: head}, float(head))
    assert times.of(message(1)) == 2.0 * CommitTimes.MOST
