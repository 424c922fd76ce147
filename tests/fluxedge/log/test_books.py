"""The loop's books of a log: where batches go, what dropping costs, what is owed."""

from __future__ import annotations

import pytest

from fluxedge.config.structs import LogCfg
from fluxedge.log.books import Books
from fluxedge.log.retention import Fate
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import OPEN_END, Lane
from tests.fluxedge.log.fake_clock import FakeClock

R, E = Lane.ROUNDS, Lane.EVENTS


@pytest.fixture
def books() -> Books:
    made = Books(LogCfg(), FakeClock())
    made.turn_to(5)
    return made


def segment(number: int, epoch: int, first: int, last: int, lane: Lane = R) -> Segment:
    return Segment(lane, number, epoch, first, FakeClock().wall_ns() // 10**6, last)


def test_a_batch_goes_behind_the_head_and_into_the_current_segment_of_its_lane(books: Books) -> None:
    place = books.place(R, books.limits, closing=True)
    assert (place.segment.table, place.seq, place.new, place.closing) == ("rounds_001", 1, True, None)
    books.held.append(segment(1, 5, 1, 9))
    books.heads[R] = 9
    place = books.place(R, books.limits, closing=True)
    assert (place.segment, place.seq, place.new) == (books.held[0], 10, False)
    assert books.place(E, books.limits, closing=True).segment.table == "events_001"


def test_another_epoch_gets_a_segment_of_its_own_and_only_what_is_at_hand_is_closed(books: Books) -> None:
    books.held.append(segment(1, 5, 1, 9))
    books.turn_to(6)
    place = books.place(R, books.limits, closing=True)
    assert (place.segment.table, place.seq, place.closing) == ("rounds_002", 1, books.held[0])
    assert books.place(R, books.limits, closing=False).closing is None, "it is on the other medium"


def test_salvaged_segments_are_never_the_current_one(books: Books) -> None:
    books.held.append(segment(3, 5, 1, 9))
    books.heads[R] = 9
    books.adopt([segment(SALVAGED + 1, 4, 1, 5), segment(SALVAGED + 2, 6, 1, 5)])
    assert books.place(R, books.limits, closing=True).segment.number == 3
    books.turn_to(7)
    assert books.place(R, books.limits, closing=True).segment.number == 4


def test_what_dropping_costs_depends_on_uplinks_and_history(books: Books) -> None:
    rounds, events = segment(1, 5, 1, 9), segment(1, 5, 1, 9, E)
    books.begin_uplink("cloud", [R], "newest")
    assert books.fate(rounds, ["cloud"]) == Fate(owed=True, copied=False)
    assert books.fate(rounds, ["other"]) == Fate(owed=False, copied=False), "who is not configured holds nothing"
    assert books.fate(events, ["cloud"]) == Fate(owed=False, copied=True), "events are not copied"
    books.cursors.settle("cloud", 5, R, 1, 8)
    books.compacted[5] = 8
    assert books.fate(rounds, ["cloud"]) == Fate(owed=True, copied=False)
    books.cursors.settle("cloud", 5, R, 9, 9)
    books.compacted[5] = 9
    assert books.fate(rounds, ["cloud"]) == Fate(owed=False, copied=True)


def test_turning_to_another_epoch_ends_what_is_owed_of_the_old_one_at_its_head(books: Books) -> None:
    books.begin_uplink("cloud", [R], "newest")
    books.heads[R] = 9
    books.turn_to(6)
    assert [(epoch, list(ranges)) for epoch, ranges in books.cursors.of("cloud", R)] == [
        (5, [(1, 9)]), (6, [(1, OPEN_END)]),
    ]  # fmt: skip
    assert books.heads == {R: 0, E: 0}


def test_what_nobody_can_read_is_lost_to_every_uplink_that_was_to_have_it(books: Books) -> None:
    books.begin_uplink("a", [R], "newest")
    books.begin_uplink("b", [R], "newest")
    books.cursors.settle("b", 5, R, 1, 3)
    books.lose_for_all(5, R, 2, 4)
    assert books.lost == [("a", 5, R, 2, 4, "damaged"), ("b", 5, R, 4, 4, "damaged")]


def test_of_a_log_that_was_set_aside_only_what_was_still_owed_comes_back(books: Books) -> None:
    books.begin_uplink("cloud", [R], "newest")
    books.heads[R] = 9
    books.cursors.settle("cloud", 5, R, 1, 6)
    books.turn_to(6)
    books.lay_aside()
    assert [epoch for epoch, _ in books.cursors.of("cloud", R)] == [6]
    stored = {("cloud", 5, R): [(2, 9)], ("away", 5, R): [(1, 9)], ("cloud", 4, R): [(1, 3)]}
    assert books.still_owed(stored) == stored | {("cloud", 5, R): [(7, 9)]}
