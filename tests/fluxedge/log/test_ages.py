"""Which records are older than an instant."""

from __future__ import annotations

import pytest

from fluxedge.log import Batch, Log, ages
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import START_NS, group_of, round_of

R = Lane.ROUNDS
GROUP = group_of("H")


async def commit(log: Log, *stamps_s: int) -> None:
    batch = Batch()
    for stamp_s in stamps_s:
        log.add_round(batch, round_of(GROUP, 1, at_ns=START_NS + stamp_s * 10**9))
    await log.commit(batch)


async def older(log: Log, than_s: float) -> int:
    return await ages.last_older(rounds(log), log.look, START_NS + int(than_s * 10**9))


def rounds(log: Log) -> list[Segment]:
    return [segment for segment in log.segments() if segment.lane is R]


@pytest.mark.parametrize("segment_bytes", [40, 1 << 20])
async def test_rows_go_up_to_the_first_one_that_is_young(open_log: OpenLog, segment_bytes: int) -> None:
    log = open_log(segment_bytes=segment_bytes)
    for second in range(10):
        await commit(log, second, second)
    assert (len(rounds(log)) > 1) is (segment_bytes == 40)
    assert await older(log, -1) == 0
    assert await older(log, 0) == 0
    assert await older(log, 3.5) == 8
    assert await older(log, 100) == 20


async def test_a_batch_with_one_young_record_is_young(open_log: OpenLog) -> None:
    log = open_log()
    await commit(log, 1)
    await commit(log, 1, 50)
    await commit(log, 2)
    assert await older(log, 10) == 1


async def test_late_records_among_young_ones_stay(open_log: OpenLog) -> None:
    log = open_log()
    await commit(log, 20)
    await commit(log, -9999)
    assert await older(log, 10) == 0


async def test_many_rows_are_read_in_pages(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "PAGE_ROWS", 2)
    log = open_log()
    for second in range(7):
        await commit(log, second)
    assert await older(log, 4.5) == 5
    assert await older(log, 6.5) == 7


async def test_a_segment_that_retention_took_meanwhile_is_passed(open_log: OpenLog) -> None:
    log = open_log()
    await commit(log, 1)
    gone = Segment(R, 7, log.epoch, 1, 0, 5, unsummed=5)
    assert await ages.last_older([gone, *rounds(log)], log.look, START_NS + 10**10) == 1
