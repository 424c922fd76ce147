"""Retention: what goes, when, and that nothing goes unannounced."""

from __future__ import annotations

import os
import random
import sqlite3
import typing
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault, retention
from fluxedge.log.retention import Fate, Limits, Usage, must_rotate, next_out
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import DAY_S, START_NS, FakeClock, event_of, group_of, round_of

MiB = 1 << 20
NOW_MS = START_NS // 10**6
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
LIMITS = Limits(
    100 * MiB, 10 * MiB, {Lane.ROUNDS: 30 * DAY_MS, Lane.EVENTS: 400 * DAY_MS}, 16 * MiB,
    {Lane.ROUNDS: HOUR_MS, Lane.EVENTS: DAY_MS},
)  # fmt: skip
OWED, DELIVERED = Fate(owed=True, copied=False), Fate(owed=False, copied=False)
ROOM = Usage(used_bytes=1 * MiB, spare_bytes=0, free_bytes=1000 * MiB)


def held(*lanes: tuple[Lane, list[int]], size: int = MiB) -> list[Segment]:
    """Return segments made this many days ago; -1: the clock was not trusted then."""
    made = []
    for lane, days in lanes:
        for i, ago in enumerate(days):
            created = 0 if ago < 0 else NOW_MS - ago * DAY_MS
            made.append(Segment(lane, i + 1, 5, 10 * i + 1, created, 10 * i + 10, size))
    return made


def out(
    segments: list[Segment], usage: Usage = ROOM, now_ms: int | None = NOW_MS, **fates: Fate
) -> tuple[str, str] | None:
    """Return which segment goes and why; a segment is owed where `fates` do not name its table."""
    found = next_out(segments, LIMITS, usage, now_ms, lambda segment: fates.get(segment.table, OWED))
    return found and (found[0].table, found[1])


def test_a_segment_goes_when_the_one_behind_it_is_too_old() -> None:
    assert out(held((Lane.ROUNDS, [40, 31, 5]))) == ("rounds_001", "age")
    assert out(held((Lane.ROUNDS, [40, 29, 5]))) is None, "its youngest record may be 29 days old"
    assert out(held((Lane.EVENTS, [40, 31, 5]))) is None, "events are kept longer"
    assert out(held((Lane.EVENTS, [500, 401]))) == ("events_001", "age")


def test_the_current_segment_of_a_lane_never_goes() -> None:
    full = Usage(10_000 * MiB, 0, 0)
    assert out(held((Lane.ROUNDS, [900])), full) is None
    assert out(held((Lane.ROUNDS, [900]), (Lane.EVENTS, [900])), full) is None


def test_the_lane_that_holds_more_loses_its_oldest() -> None:
    full = Usage(99 * MiB, 0, 1000 * MiB)
    segments = held((Lane.ROUNDS, [9, 8, 7])) + held((Lane.EVENTS, [20, 10]))
    assert out(segments, full) == ("rounds_001", "backlog")
    segments[3].body_bytes = 50 * MiB
    assert out(segments, full) == ("events_001", "backlog")


def test_rounds_go_as_soon_as_they_are_copied_and_delivered() -> None:
    segments = held((Lane.ROUNDS, [3, 2, 1]), (Lane.EVENTS, [3, 2, 1]))
    done = Fate(owed=False, copied=True)
    assert out(segments, rounds_002=done) == ("rounds_002", "compacted")
    assert out(segments, rounds_002=Fate(owed=True, copied=True)) is None
    assert out(segments, rounds_002=Fate(owed=False, copied=False)) is None
    assert out(segments, rounds_003=done) is None, "the current segment grows"
    assert out(segments, events_001=done) is None, "events are kept until they are too old"
    assert out(segments, now_ms=None, rounds_001=done) == ("rounds_001", "compacted")


def test_what_nobody_waits_for_goes_first_and_history_goes_before_delivery() -> None:
    full = Usage(99 * MiB, 0, 1000 * MiB)
    segments = held((Lane.ROUNDS, [9, 8, 7, 6, 5]))
    assert out(segments, full) == ("rounds_001", "backlog")
    copied = Fate(owed=True, copied=True)
    assert out(segments, full, rounds_003=copied) == ("rounds_003", "backlog")
    assert out(segments, full, rounds_003=copied, rounds_002=DELIVERED) == ("rounds_002", "backlog")
    assert out(segments, full, rounds_002=DELIVERED, rounds_004=DELIVERED) == ("rounds_002", "backlog")


def test_a_whole_segment_still_fits_below_the_cap() -> None:
    segments = held((Lane.ROUNDS, [9, 8]))
    assert out(segments, Usage(84 * MiB, 0, 1000 * MiB)) is None
    assert out(segments, Usage(84 * MiB + 1, 0, 1000 * MiB)) == ("rounds_001", "backlog")


def test_a_full_disk_costs_only_what_the_file_needs_to_stop_growing() -> None:
    segments = held((Lane.ROUNDS, [9, 8, 7]))
    assert out(segments, Usage(50 * MiB, 0, 9 * MiB)) == ("rounds_001", "disk")
    assert out(segments, Usage(34 * MiB, 32 * MiB, 9 * MiB)) is None, "dropping more gives nothing to anybody"


def test_nothing_goes_by_age_while_the_clock_is_not_trusted() -> None:
    assert out(held((Lane.ROUNDS, [900, 800, 1])), now_ms=None) is None
    assert out(held((Lane.ROUNDS, [900, 800, 1])), Usage(99 * MiB, 0, 10**9), None) == ("rounds_001", "backlog")


def test_segments_made_under_an_untrusted_clock_age_with_the_next_trusted_one() -> None:
    assert out(held((Lane.ROUNDS, [-1, -1, 5]))) is None
    assert out(held((Lane.ROUNDS, [-1, -1, 31, 5]))) == ("rounds_001", "age")
    assert out(held((Lane.ROUNDS, [40, -1, -1]))) is None


def test_a_segment_is_closed_by_size_by_age_and_when_the_clock_gets_trusted() -> None:
    (segment,) = held((Lane.EVENTS, [0]))
    assert not must_rotate(segment, LIMITS, NOW_MS + DAY_MS - 1)
    assert must_rotate(segment, LIMITS, NOW_MS + DAY_MS)
    (segment,) = held((Lane.ROUNDS, [0]))
    assert not must_rotate(segment, LIMITS, NOW_MS + HOUR_MS - 1)
    assert must_rotate(segment, LIMITS, NOW_MS + HOUR_MS)
    assert not must_rotate(segment, LIMITS, None)
    segment.created_ms = 0
    assert not must_rotate(segment, LIMITS, None)
    assert must_rotate(segment, LIMITS, NOW_MS)
    segment.body_bytes = 16 * MiB
    assert must_rotate(segment, LIMITS, None)
    segment.last = segment.first - 1
    assert not must_rotate(segment, LIMITS, NOW_MS), "an empty one has room"


# --- on a real log ----------------------------------------------------------------------------------------------------

RNG = random.Random(1)
GROUP = group_of("y")


async def fill(log: Log, rounds: int = 20, size: int = 4096) -> None:
    """Commit rounds that do not compress, one a commit."""
    for _ in range(rounds):
        batch = Batch()
        log.add_round(batch, round_of(GROUP, RNG.randbytes(size)))
        await log.commit(batch)


def file_bytes(log: Log) -> int:
    """Return the size of the database once everything is checkpointed."""
    connection = sqlite3.connect(f"file:{log.path}?mode=ro", uri=True)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    return int(pages) * 1024


async def housekeep(log: Log, *uplinks: str) -> int:
    """Run housekeeping to its end; return the number of steps."""
    steps = 1
    while await log.housekeep(list(uplinks)):
        steps += 1
    return steps


def spans(log: Log, lane: Lane = Lane.ROUNDS) -> list[tuple[int, int]]:
    return [(segment.first, segment.last) for segment in log.segments() if segment.lane is lane]


async def test_over_days_old_segments_go_and_undelivered_ones_tear_a_gap(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log(keep_s=10 * DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for _ in range(15):
        await fill(log, 2, 100)
        clock.advance(DAY_S)
        await housekeep(log, "cloud")
    first = log.first_seq(log.epoch, Lane.ROUNDS)
    assert 5 < first <= 11
    assert log.heads[Lane.ROUNDS] == 30
    lost = [(gap.lo, gap.hi, gap.why) for gap in log.unannounced]
    assert lost[0][0] == 1
    assert lost[-1][1] == first - 1
    assert {why for _, _, why in lost} == {"age"}
    assert [hi + 1 for _, hi, _ in lost[:-1]] == [lo for lo, _, _ in lost[1:]], "no seq is in no gap or in two"
    assert next(log.cursors.of("cloud", Lane.ROUNDS))[1].first_from(1) == (first, OPEN_END)


async def test_what_was_delivered_goes_without_a_gap(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log(keep_s=10 * DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for _ in range(15):
        await fill(log, 2, 100)
        log.cursors.settle("cloud", log.epoch, Lane.ROUNDS, 1, log.heads[Lane.ROUNDS])
        clock.advance(DAY_S)
        await housekeep(log, "cloud")
    assert log.first_seq(log.epoch, Lane.ROUNDS) > 5
    assert log.unannounced == []


async def test_the_cap_in_bytes_holds_at_every_moment(open_log: OpenLog) -> None:
    cap = 4 << 20
    log = open_log(backlog_bytes=cap, segment_bytes=1 << 16)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for _ in range(60):
        await fill(log, 20)
        await housekeep(log, "cloud")
        assert log.used_bytes <= cap
        assert file_bytes(log) <= cap, "dropped pages are used again"
    assert log.unannounced[0].why == "backlog"
    first = log.first_seq(log.epoch, Lane.ROUNDS)
    assert log.unannounced[-1].hi == first - 1
    assert log.heads[Lane.ROUNDS] == 1200


async def test_a_disk_that_others_filled_costs_one_segment_and_not_the_backlog(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(free_space_bytes=1 << 30)
    await fill(log, 200)
    before = len(spans(log))
    assert before > 8

    class Full(typing.NamedTuple):
        f_bavail: int = 10
        f_frsize: int = 4096

    await housekeep(log)
    assert len(spans(log)) == before
    assert not log.disk_low
    monkeypatch.setattr(os, "statvfs", lambda _: Full())
    await housekeep(log)
    assert before - 4 <= len(spans(log)) < before
    assert log.disk_low
    assert log.usage.spare_bytes >= 1 << 16
    size = file_bytes(log)
    for _ in range(6):
        await fill(log, 16)
        await housekeep(log)
    assert file_bytes(log) == size, "the file does not grow while the disk is low"


async def test_an_uplink_that_is_not_configured_holds_nothing_but_learns_of_it_later(
    open_log: OpenLog, clock: FakeClock
) -> None:
    log = open_log(keep_s=DAY_S)
    log.begin_uplink("away", [Lane.ROUNDS], "oldest")
    for _ in range(4):
        await fill(log, 3, 100)
        clock.advance(DAY_S)
    await housekeep(log, "other")
    first = log.first_seq(log.epoch, Lane.ROUNDS)
    assert first > 1
    assert log.unannounced == []
    log.begin_uplink("away", [Lane.ROUNDS], "oldest")
    await log.commit(Batch())
    assert [(gap.uplink, gap.lo, gap.hi, gap.why) for gap in log.unannounced] == [("away", 1, first - 1, "away")]


async def test_gap_drop_and_cursor_are_one_transaction(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log(keep_s=DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for _ in range(4):
        await fill(log, 3, 100)
        clock.advance(DAY_S)
    await log.housekeep(["cloud"])  # one segment; the process dies before anything else is written
    (gap,) = log.unannounced
    connection = sqlite3.connect(f"file:{log.path}?mode=ro", uri=True)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'rounds_%'")}
    assert "rounds_001" not in tables
    assert connection.execute("SELECT uplink, lo, hi, said_seq FROM gap").fetchall() == [("cloud", 1, gap.hi, 0)]
    assert connection.execute("SELECT lo FROM todo WHERE uplink = 'cloud'").fetchall() == [(gap.hi + 1,)]
    connection.close()


async def test_a_gap_stays_unannounced_until_its_event_is_durable(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log(keep_s=DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for _ in range(3):
        await fill(log, 1, 100)
        clock.advance(DAY_S)
    await housekeep(log, "cloud")
    gaps = list(log.unannounced)
    assert gaps
    await log.close()
    log = open_log(keep_s=DAY_S)
    assert log.unannounced == gaps, "also after a restart"
    batch = Batch()
    for gap in gaps:
        log.add_event(batch, event_of("gap", "uplink:cloud", lo=gap.lo, hi=gap.hi))
        batch.announced.append((gap.id, len(batch.parts[Lane.EVENTS]) - 1))
    await log.commit(batch)
    assert log.unannounced == []
    await log.close()
    assert open_log(keep_s=DAY_S).unannounced == []


async def test_a_gap_whose_event_is_evicted_undelivered_is_announced_again(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log(keep_s=DAY_S, keep_events_s=3 * DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for _ in range(3):
        await fill(log, 1, 100)
        clock.advance(DAY_S)
    await housekeep(log, "cloud")
    gap = log.unannounced[0]
    batch = Batch()
    log.add_event(batch, event_of("audit"))
    for held_gap in log.unannounced:
        log.add_event(batch, event_of("gap"))
        batch.announced.append((held_gap.id, len(batch.parts[Lane.EVENTS]) - 1))
    await log.commit(batch)
    log.cursors.settle("cloud", log.epoch, Lane.EVENTS, 1, 1)  # the audit event only
    for _ in range(2):
        clock.advance(2 * DAY_S)
        another = Batch()
        log.add_event(another, event_of("audit"))
        await log.commit(another)
    clock.advance(3 * DAY_S)
    await housekeep(log, "cloud")
    assert gap in log.unannounced
    assert {found.lane for found in log.unannounced} == {Lane.ROUNDS, Lane.EVENTS}


async def test_an_eviction_that_fails_changes_nothing(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(keep_s=DAY_S)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    for _ in range(3):
        await fill(log, 1, 100)
        clock.advance(DAY_S)
    before = spans(log)

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(retention, "add_gap", broken)
    with pytest.raises(LogFault):
        await log.housekeep(["cloud"])
    monkeypatch.undo()
    assert spans(log) == before
    assert log.unannounced == []
    assert next(log.cursors.of("cloud", Lane.ROUNDS))[1].first_from(1) == (1, OPEN_END)
    await housekeep(log, "cloud")
    assert log.unannounced[0].lo == 1


async def test_commands_are_remembered_for_a_day(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log()

    async def known() -> list[str]:
        return [key for key in ("old", "new", "open") if await log.command_result(key) is not None]

    now_ms = clock.wall_ns() // 10**6
    await log.commit(Batch(intents=[("old", now_ms, b"1"), ("open", now_ms, b"3")], results=[("old", b"1")]))
    clock.advance(DAY_S * 0.9)
    await log.commit(Batch(intents=[("new", clock.wall_ns() // 10**6, b"2")], results=[("new", b"2")]))
    clock.advance(DAY_S * 0.2)
    clock.is_trusted = False
    await housekeep(log)
    assert await known() == ["old", "new", "open"], "an untrusted clock forgets nothing"
    clock.is_trusted = True
    await housekeep(log)
    assert await known() == ["new", "open"], "what has no answer yet is not forgotten"


async def test_the_witness_follows_with_housekeeping(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 3, 10)
    before = (tmp_path / "log.witness").read_bytes()
    await housekeep(log)
    after = (tmp_path / "log.witness").stat()
    assert b'"rounds":3' in (tmp_path / "log.witness").read_bytes()
    assert b'"rounds":0' in before
    await housekeep(log)
    assert (tmp_path / "log.witness").stat().st_ino == after.st_ino, "not written when nothing is new"
