"""Rows become messages of the right size, in order, without a hole, and a little at a time."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from fluxedge.log.body import Row, close_body, pack_event, pack_round
from fluxedge.model import Event, Group, Lane, Point
from fluxedge.spi import Message
from fluxedge.uplinks import messages
from fluxedge.uplinks.messages import Cut, Cutter, Size

GROUP = Group("m", "main", tuple(Point(f"p{i}", "d") for i in range(20)))
TEXT = Group("m", "text", (Point("text", "s"),))
GROUPS = {1: GROUP, 2: TEXT}


def row(seq: int, count: int, *, lane: Lane = Lane.ROUNDS) -> Row:
    if lane is Lane.ROUNDS:
        rnd = random.Random(seq)
        made = [GROUP.round(tuple(rnd.gauss(230, 5) for _ in range(20)), seq + i, 0) for i in range(count)]
        parts = [pack_round(1, round_) for round_ in made]
    else:
        parts = [pack_event(Event("start", "gateway", 1, 1)) for _ in range(count)]
    return Row(9, lane, seq, count, 1, *close_body(parts))


def text_row(seq: int, *sizes: int) -> Row:
    parts = [pack_round(2, TEXT.round(("x" * size,), 1, 0)) for size in sizes]
    return Row(9, Lane.ROUNDS, seq, len(sizes), 1, *close_body(parts))


def damaged(good: Row) -> Row:
    return Row(good.epoch, good.lane, good.seq, good.count, good.boot, good.codec, good.crc, good.body[:-1] + b"\x00")


def cuts(
    rows: list[Row], lo: int = 1, hi: int = 10**9, target: int = 4000, most: int = 0, form: str = "json"
) -> list[Cut]:
    cutter = Cutter("gw", form)
    found = [cutter.start(rows, GROUPS, lo, hi, Size(target, most))]
    while found[-1].more:
        found.append(cutter.next(rows, GROUPS))
    return found


def whole(found: list[Cut]) -> list[Message]:
    return [message for cut in found for message in cut.messages]


def check(made: list[Message], lo: int, hi: int) -> None:
    """Every seq of lo..hi is in exactly one message, in order, and in the payload."""
    expected = lo
    for message in made:
        body = json.loads(message.payload)
        seqs = [record["seq"] for record in body["records"]]
        assert seqs == list(range(message.lo, message.hi + 1))
        assert (message.lo, body["seq"], body["n"]) == (expected, expected, len(seqs))
        expected = message.hi + 1
    assert expected == hi + 1


@pytest.mark.parametrize("lane", list(Lane))
def test_every_record_is_in_exactly_one_message(lane: Lane) -> None:
    rows = [row(1, 50, lane=lane), row(51, 1, lane=lane), row(52, 77, lane=lane)]
    check(whole(cuts(rows)), 1, 128)


@pytest.mark.parametrize(("lo", "hi"), [(1, 1), (3, 9), (10, 10), (11, 11), (9, 12), (20, 20)])
def test_a_range_begins_and_ends_inside_rows(lo: int, hi: int) -> None:
    found = cuts([row(1, 10), row(11, 10)], lo, hi)
    check(whole(found), lo, hi)
    assert found[-1].end == hi


@pytest.mark.parametrize("form", ["json", "json-columns"])
def test_messages_come_close_to_the_wanted_size(form: str) -> None:
    made = whole(cuts([row(1, 2000)], target=16_000, form=form))
    sizes = [len(message.payload) for message in made[1:-1]]  # the first one teaches the ratio
    assert all(11_000 <= size <= 16_500 for size in sizes), sizes


def test_a_message_holds_a_thousand_records_at_most() -> None:
    made = whole(cuts([text_row(1, *[0] * 2500)], target=1 << 20))
    assert [message.hi - message.lo + 1 for message in made] == [1000, 1000, 500]


def test_only_eight_messages_are_made_ahead() -> None:
    found = cuts([row(1, 1000)], target=4000)
    assert len(found) > 3
    assert all(len(cut.messages) <= messages.AHEAD_MESSAGES for cut in found)
    assert [cut.more for cut in found] == [True] * (len(found) - 1) + [False]
    check(whole(found), 1, 1000)


def test_only_a_megabyte_is_made_ahead() -> None:
    found = cuts([text_row(1, *[200_000] * 20)], target=250_000)
    largest = max(sum(len(message.payload) for message in cut.messages) for cut in found)
    assert messages.AHEAD_BYTES <= largest < messages.AHEAD_BYTES + 250_000


def test_no_message_exceeds_the_limit_even_where_the_guess_was_wrong() -> None:
    made = whole(cuts([text_row(1, *[900] * 40)], target=100_000, most=3000))
    assert all(len(message.payload) <= 3000 for message in made)
    check(made, 1, 40)


def test_a_single_record_above_the_limit_is_set_apart_and_the_rest_goes_on() -> None:
    found = cuts([text_row(1, 100, 5000, 100, 100, 9000)], target=10_000, most=3000)
    assert [(m.lo, m.hi) for cut in found for m in cut.too_large] == [(2, 2), (5, 5)]
    assert [seq for m in whole(found) for seq in range(m.lo, m.hi + 1)] == [1, 3, 4]
    assert found[-1].end == 5


def test_only_too_large_records_still_count_as_progress() -> None:
    (cut,) = cuts([text_row(1, 5000)], most=3000)
    assert (cut.messages, cut.end, cut.more) == ([], 1, False)


def test_a_damaged_row_is_told_and_its_neighbours_go_on() -> None:
    found = cuts([row(1, 10), damaged(row(11, 5)), row(16, 10)])
    assert [bad for cut in found for bad in cut.damaged] == [(11, 15)]
    made = whole(found)
    check([m for m in made if m.hi <= 10], 1, 10)
    check([m for m in made if m.lo >= 16], 16, 25)


@pytest.mark.parametrize(("lo", "hi", "bad"), [(13, 100, (13, 15)), (1, 12, (11, 12))])
def test_of_a_damaged_row_only_what_was_wanted_is_lost(lo: int, hi: int, bad: tuple[int, int]) -> None:
    found = cuts([row(1, 10), damaged(row(11, 5))], lo, hi)
    assert [bad_ for cut in found for bad_ in cut.damaged] == [bad]
    assert found[-1].end == bad[1]


def test_a_row_that_ends_early_loses_only_its_end() -> None:
    good = row(1, 10)
    short = Row(9, Lane.ROUNDS, 1, 12, 1, good.codec, good.crc, good.body)  # says 12, holds 10
    found = cuts([short, row(13, 5)], target=10**6)
    assert [bad for cut in found for bad in cut.damaged] == [(11, 12)]
    assert [(m.lo, m.hi) for m in whole(found)] == [(1, 10), (13, 17)]


def test_missing_rows_are_a_gap_and_no_message_bridges_it() -> None:
    found = cuts([row(1, 10), row(21, 10)], target=10**6)
    assert [bad for cut in found for bad in cut.damaged] == [(11, 20)]
    assert [(m.lo, m.hi) for m in whole(found)] == [(1, 10), (21, 30)]


def test_nothing_to_read_is_no_progress() -> None:
    (cut,) = cuts([])
    assert (cut.messages, cut.end, cut.more) == ([], 0, False)


def test_an_unknown_group_is_damage() -> None:
    parts = [pack_round(77, TEXT.round(("x",), 1, 0))]
    found = cuts([Row(9, Lane.ROUNDS, 1, 1, 1, *close_body(parts))])
    assert found[0].damaged == [(1, 1)]


def test_payloads_decode_with_any_reader() -> None:
    (message,) = whole(cuts([row(1, 2)]))
    assert msgspec.json.decode(message.payload) == json.loads(message.payload)
