"""How long the log can wait for an uplink: cap, disk and age, and what has to stay meanwhile."""

from __future__ import annotations

import pytest

from fluxedge.api.autonomy import HISTORY_FACTOR, Part, Space, hours, part, upto
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log.ranges import RangeSet
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Lane

NOW_NS = 1_800_000_000 * 10**9
DAY_NS = 86400 * 10**9
GIB = 1 << 30
MIB = 1 << 20
R, E = Lane.ROUNDS, Lane.EVENTS
CFG = LogCfg(
    backlog_bytes=Bytes(4 * GIB + 16 * MIB), segment_bytes=Bytes(16 * MIB), free_space_bytes=Bytes(GIB),
    keep_s=Seconds(30 * 86400.0), keep_events_s=Seconds(400 * 86400.0),
)  # fmt: skip
ROOMY = Space(used_bytes=GIB, spare_bytes=0, free_bytes=100 * GIB, growth_per_s=float(MIB))


def segment(first: int, last: int, *, lane: Lane = R, epoch: int = 1, size: int = GIB // 4, days: float = 1) -> Segment:
    stamp_ns = NOW_NS - int(days * DAY_NS)
    return Segment(lane, first, epoch, first, stamp_ns // 10**6, last, size, stamp_ns, stamp_ns + 1)


FOUR = [segment(1 + 1000 * i, 1000 * (i + 1), days=4 - i) for i in range(4)]  # 1 GiB of 4000 rounds


def left(waiting: dict[Lane, list[tuple[int, RangeSet]]], space: Space = ROOMY, held: list[Segment] = FOUR) -> float:
    found = hours(CFG, space, held, waiting, NOW_NS)
    assert found is not None
    return found


def only(lo: int, hi: int, lane: Lane = R) -> dict[Lane, list[tuple[int, RangeSet]]]:
    return {lane: [(1, RangeSet([(lo, hi)] if lo <= hi else []))]}


def as_hours(size: float, per_s: float = MIB) -> float:
    return round(size / per_s / 3600, 1)


def test_a_log_that_does_not_grow_says_nothing_about_its_end() -> None:
    assert hours(CFG, Space(GIB, 0, GIB, 0.0), FOUR, only(1, 4000), NOW_NS) is None
    assert hours(CFG, ROOMY, [], only(1, 0), NOW_NS) is None


def test_what_is_delivered_makes_room_and_what_waits_does_not() -> None:
    assert left(only(1, 0)) == as_hours(4 * GIB), "every segment that is there may go"
    assert left(only(1, 4000)) == as_hours(3 * GIB)
    assert left(only(3001, 4000)) == as_hours(4 * GIB - GIB / 4)


def test_a_segment_stays_whole_for_one_record_of_it_and_so_do_those_behind_it() -> None:
    assert left(only(1500, 1500)) == as_hours(4 * GIB - 3 * GIB / 4)


def test_the_age_of_the_oldest_that_waits_ends_it_when_there_is_room_enough() -> None:
    slow = Space(GIB, 0, 100 * GIB, 10.0)
    assert left(only(1, 0), slow) == 30 * 24
    assert left(only(1, 4000), slow) == 26 * 24
    assert left(only(1, 0, E), slow) == 400 * 24


def test_a_disk_that_others_fill_ends_it_before_the_cap_and_history_grows_beside() -> None:
    tight = Space(GIB, 0, 2 * GIB, float(MIB))
    assert left(only(1, 4000), tight) == as_hours(GIB, MIB * (1 + HISTORY_FACTOR))
    assert left(only(1, 4000), Space(GIB, 0, 0, float(MIB))) == 0.0


def test_pages_that_hold_nothing_are_used_again_below_the_floor() -> None:
    assert left(only(1, 4000), Space(GIB, GIB, 0, float(MIB))) == as_hours(GIB, MIB * (1 + HISTORY_FACTOR))


def test_without_history_nothing_grows_beside_the_log() -> None:
    cfg = LogCfg(backlog_bytes=Bytes(4 * GIB), free_space_bytes=Bytes(GIB), history_bytes=Bytes(0))
    found = hours(cfg, Space(GIB, 0, 2 * GIB, float(MIB)), FOUR, only(1, 4000), NOW_NS)
    assert found == as_hours(GIB)


def test_the_disk_takes_more_than_the_bodies() -> None:
    assert left(only(1, 4000), Space(2 * GIB, 0, 100 * GIB, float(MIB))) == as_hours(GIB), "twice: 2 of 4 GiB are left"


def test_events_go_last_until_they_are_the_heavier_lane() -> None:
    few = [*FOUR, segment(1, 10, lane=E, size=GIB)]
    space = Space(2 * GIB, 0, 100 * GIB, float(MIB))
    assert left(only(1, 4000), space, few) == as_hours(2 * GIB)
    many = [*FOUR, segment(1, 10, lane=E, size=3 * GIB)]
    space = Space(4 * GIB, 0, 100 * GIB, float(MIB))
    assert left(only(1, 4000), space, many) == as_hours(GIB), "the oldest events make room up to half of it"


def test_the_lane_that_ends_first_counts() -> None:
    held = [*FOUR, segment(1, 10, lane=E, size=MIB, days=399.5)]
    slow = Space(GIB, 0, 100 * GIB, 10.0)
    assert left({R: only(1, 0)[R], E: only(1, 10, E)[E]}, slow, held) == 12.0


def test_a_log_that_is_over_its_cap_has_no_hours_left() -> None:
    assert left(only(1, 4000), Space(5 * GIB, 0, 100 * GIB, float(MIB))) == 0.0


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [
        (1, 4000, Part(4000, GIB, GIB, FOUR[0].from_ns)),
        (1501, 2000, Part(500, GIB // 8, 3 * GIB // 4, FOUR[1].from_ns)),
        (4001, 5000, Part()),
        (1, 0, Part()),
    ],
)
def test_what_waits_is_counted_by_its_share_of_the_segments(lo: int, hi: int, expected: Part) -> None:
    assert part(FOUR, R, only(lo, hi)[R]) == expected


def test_epochs_and_lanes_do_not_mix() -> None:
    held = [segment(1, 100, epoch=1, days=9), segment(1, 100, epoch=2), segment(1, 100, lane=E)]
    assert part(held, R, [(2, RangeSet([(1, 50)]))]) == Part(50, GIB // 8, GIB // 4, held[1].from_ns)


def test_a_cursor_that_grows_with_the_log_ends_at_its_head() -> None:
    assert upto(RangeSet([(3, 4), (7, OPEN_END)]), 9) == RangeSet([(3, 4), (7, 9)])
    assert not upto(RangeSet([(7, OPEN_END)]), 6)
