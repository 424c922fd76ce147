"""Scans: hour by hour, and the last sample before an instant. What they give in all is held by test_query."""

from __future__ import annotations

import random
import sqlite3

import pytest

from fluxedge.log.history.hot import Vanished
from fluxedge.log.history.scan import AGAIN_MOST, Hour, Scan, Sides, before
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import BASE_NS, HOUR, POINTS, compact, fill, rounds, samples


@pytest.fixture
async def sides(open_log: OpenLog):
    rng = random.Random(9)
    made = rounds(rng, 200)
    log = open_log(segment_bytes=3000)
    await fill(log, made, rng)
    compact(log.path.parent, log.epoch, 120)
    connection = sqlite3.connect(log.path, isolation_level=None)
    found = Sides(connection, log.path.parent / "history")
    found.begin(POINTS)
    yield found, samples(made, log.epoch, "a.count")
    found.past.close()
    connection.close()


async def test_hours_come_in_order_and_are_cut_to_the_range(sides) -> None:
    both, wanted = sides
    lo, hi = BASE_NS + HOUR // 3, BASE_NS + 3 * HOUR + HOUR // 2
    hours = list(Scan(both, "a.count", lo, hi).each(lambda hour: hour))
    assert [hour.from_ns for hour in hours] == sorted(hour.from_ns for hour in hours)
    assert (hours[0].from_ns, hours[-1].to_ns) == (lo, hi)
    assert [hour.whole for hour in hours] == [False, True, True, False]
    found = [seq for parts in Scan(both, "a.count", lo, hi).each(Hour.parts) for part in parts for seq in part.seqs]
    assert found == [sample.seq for sample in wanted if lo <= sample.at_ns < hi]


async def test_an_hour_in_which_the_seam_moved_is_read_again_and_those_before_it_are_not(sides) -> None:
    both, _ = sides
    seen: list[int] = []

    def work(hour: Hour) -> int:
        seen.append(hour.from_ns)
        if len(seen) == 3:
            raise Vanished("rounds_002")
        return hour.from_ns

    made = list(Scan(both, "a.count", BASE_NS, BASE_NS + 4 * HOUR).each(work))
    assert made == [BASE_NS + i * HOUR for i in range(4)]
    assert seen == [*made[:3], *made[2:]]


async def test_a_log_that_changes_for_ever_is_given_up(sides) -> None:
    both, _ = sides
    tries = 0

    def work(hour: Hour) -> int:
        nonlocal tries
        tries += 1
        raise Vanished("rounds_002")

    with pytest.raises(Vanished):
        list(Scan(both, "a.count", BASE_NS, BASE_NS + HOUR).each(work))
    assert tries == AGAIN_MOST + 1


async def test_the_last_sample_before_an_instant_is_found_on_either_side(sides) -> None:
    both, wanted = sides
    for at_ns in (
        BASE_NS,
        BASE_NS + HOUR,
        BASE_NS + 3 * HOUR,
        BASE_NS + 9 * HOUR,
        wanted[7].at_ns,
        wanted[7].at_ns + 1,
    ):
        earlier = [sample.seq for sample in wanted if sample.at_ns < at_ns]
        found = before(both, "a.count", at_ns)
        assert (None if found is None else found.seqs[0]) == (earlier[-1] if earlier else None)
