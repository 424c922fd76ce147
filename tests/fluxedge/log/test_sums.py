"""Sizes and stamps of segments that were there at the start."""

from __future__ import annotations

import typing
from pathlib import Path

from fluxedge.log.segments import Segment
from fluxedge.log.sums import sum_up
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.test_damage import write_one


async def test_a_start_looks_at_the_last_row_only_and_sums_up_later(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    for _ in range(30):
        await write_one(log)
    held = [(s.last, s.body_bytes, s.from_ns, s.to_ns) for s in log.segments()]
    await log.close()
    log = open_log()
    assert [s.last for s in log.segments()] == [30]
    assert log.segments()[0].unsummed == 30
    await write_one(log)
    grown = log.segments()[0].body_bytes
    await log.housekeep([])
    segment = log.segments()[0]
    assert (segment.unsummed, segment.last, segment.body_bytes) == (0, 31, held[0][1] + grown)
    assert (segment.from_ns, segment.to_ns) == held[0][2:]


async def test_a_segment_that_cannot_be_read_stays_without_sums_and_is_told() -> None:
    async def look(job: object) -> typing.Any:
        raise LinkProblem("log-damaged", "malformed")

    segment = Segment(Lane.ROUNDS, 1, 1, 1, 0, 9, unsummed=9)
    assert str(await sum_up([segment], look)) == "log-damaged: malformed"
    assert segment.unsummed == 9
