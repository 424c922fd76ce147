"""Upkeep on a real log: copied and delivered rounds go, the ballast is given up for a full disk only."""

from __future__ import annotations

import os

import pytest

from fluxedge.log import Batch, Log, LogFault
from fluxedge.model import Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of, round_of
from tests.fluxedge.log.sick_disk import Sickness, io_error

R = Lane.ROUNDS
HOUR_S = 3600.0


async def fill(log: Log, clock: FakeClock, hours: int) -> None:
    for number in range(hours):
        for minute in (0, 1):
            batch = Batch()
            log.add_round(batch, round_of(group_of("HH"), number, minute))
            await log.commit(batch)
        clock.advance(HOUR_S)


async def housekeep(log: Log, *uplinks: str) -> None:
    while await log.housekeep(list(uplinks)):
        pass


async def test_rounds_leave_the_log_when_they_are_in_the_history_and_every_uplink_has_had_them(
    open_log: OpenLog, clock: FakeClock
) -> None:
    log = open_log()
    for uplink in ("one", "two", "away"):
        log.begin_uplink(uplink, [R], "oldest")
    await fill(log, clock, 5)
    assert [(s.first, s.last) for s in log.segments()] == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)], "an hour each"
    for uplink, upto in (("one", 10), ("two", 5)):
        log.cursors.settle(uplink, log.epoch, R, 1, upto)
    await log.note_compacted(log.epoch, 3)
    await housekeep(log, "one", "two")
    assert log.first_seq(log.epoch, R) == 3, "the second hour is not copied whole"
    await log.note_compacted(log.epoch, 8)
    await housekeep(log, "one", "two")
    assert log.first_seq(log.epoch, R) == 5, "one record of the third hour is owed"
    log.cursors.settle("two", log.epoch, R, 6, 6)
    await housekeep(log, "one", "two")
    assert log.first_seq(log.epoch, R) == 7
    log.cursors.settle("two", log.epoch, R, 7, 10)
    await log.note_compacted(log.epoch, 10)
    await housekeep(log, "one", "two")
    assert log.first_seq(log.epoch, R) == 9, "the current segment grows"
    assert (log.unannounced, log.unkept_rounds) == ([], 0)
    await log.close()
    log = open_log()
    assert log.compacted == {log.epoch: 10}
    log.begin_uplink("away", [R], "oldest")
    await log.commit(Batch())
    assert [(gap.uplink, gap.lo, gap.hi, gap.why) for gap in log.unannounced] == [("away", 1, 8, "away")]


async def test_without_room_what_is_delivered_goes_first_and_is_counted_when_no_history_has_it(
    open_log: OpenLog, clock: FakeClock
) -> None:
    log = open_log(backlog_bytes=1 << 18, segment_bytes=1 << 14)
    log.begin_uplink("cloud", [R], "oldest")
    await fill(log, clock, 100)
    log.cursors.settle("cloud", log.epoch, R, 101, 120)
    before = [(s.first, s.last) for s in log.segments()]
    log.limits = type(log.limits)(**{
        name: getattr(log.limits, name) for name in log.limits.__dataclass_fields__ if name != "backlog_bytes"
    }, backlog_bytes=log.used_bytes)  # fmt: skip
    for _ in range(13):
        await log.housekeep(["cloud"])
    gone = sorted(set(before) - {(s.first, s.last) for s in log.segments()})
    assert gone == [(1, 2), (3, 4), (5, 6), *((n, n + 1) for n in range(101, 120, 2))]
    assert [(gap.lo, gap.hi) for gap in log.unannounced] == [(1, 2), (3, 4), (5, 6)]
    assert log.unkept_rounds == 26


async def test_the_ballast_is_given_up_for_a_full_disk_and_made_again(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Sickness(monkeypatch)
    log = open_log()
    await housekeep(log)
    assert log.ballast.held_bytes
    sick.infect(log)
    sick.error = io_error("SQLITE_BUSY")
    batch = Batch()
    log.add_round(batch, round_of(group_of("HH"), 1, 2))
    for name, held in (("SQLITE_BUSY", True), ("SQLITE_FULL", False)):
        sick.error = io_error(name)
        with pytest.raises(LogFault):
            await log.commit(batch)
        with pytest.raises(LogFault):
            await log.housekeep([])
        assert (log.ballast.held_bytes > 0) is held
    sick.error = None
    await housekeep(log)
    assert not log.ballast.held_bytes, "as long as commits fail there is no room for it"
    await log.commit(batch)
    await housekeep(log)
    assert log.ballast.held_bytes


async def test_a_quota_is_a_full_disk_whatever_the_file_system_says(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=1 << 14, free_space_bytes=1 << 20)
    log.begin_uplink("cloud", [R], "oldest")

    async def commit() -> bool:
        batch = Batch()
        log.add_round(batch, round_of(group_of("y"), os.urandom(4096)))
        try:
            await log.commit(batch)
        except LogFault:
            return False
        return True

    for _ in range(40):
        assert await commit()
    await log.write(lambda c: c.execute(f"PRAGMA max_page_count = {c.execute('PRAGMA page_count').fetchone()[0]}"))
    refused = 0
    for _ in range(100):
        while not await commit():
            refused += 1
            assert refused < 50
            while await log.housekeep(["cloud"]):
                pass
    assert refused > 0
    assert log.memory is None
    assert log.heads[R] == 140
    first = log.first_seq(log.epoch, R)
    assert first > 10
    assert [gap.why for gap in log.unannounced] == ["disk"] * len(log.unannounced)
    assert sum(gap.hi - gap.lo + 1 for gap in log.unannounced) == first - 1
