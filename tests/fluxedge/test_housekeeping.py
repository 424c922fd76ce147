"""Housekeeping on a real log and pipeline: what stands while the disk takes nothing, and that the road goes on."""

from __future__ import annotations

import asyncio
import os
import typing
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fluxedge import housekeeping as housekeeping_module
from fluxedge import pipeline as pipeline_module
from fluxedge.config.quantities import Bytes
from fluxedge.log import Gap
from fluxedge.log.body import records
from fluxedge.model import Event, Lane, Round
from fluxedge.problems import Problem
from tests.fluxedge.log.fake_clock import group_of, round_of
from tests.fluxedge.log.sick_disk import Sickness, io_error
from tests.fluxedge.test_pipeline import Road, until

R, E = Lane.ROUNDS, Lane.EVENTS


@pytest.fixture
async def road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Road]:
    monkeypatch.setattr(pipeline_module, "RETRY_S", 0.02)
    monkeypatch.setattr(housekeeping_module, "VOLATILE_S", 0.02)
    made = Road(tmp_path, commit_s=0.02)
    yield made
    await made.stop()
    await made.log.close()


async def values(road: Road, epoch: int) -> list[object]:
    def first(rows: typing.Any, groups: typing.Any) -> list[tuple[int, object]]:
        found = [record for row in rows for record in records(row, groups)]
        return [(r.seq, r.body.values[0] if isinstance(r.body, Round) else r.body) for r in found]

    found: list[tuple[int, object]] = []
    while page := await road.log.read(epoch, R, len(found) + 1, 10**9, first):
        found += page
    return [value for _, value in found]


async def test_while_the_disk_takes_nothing_the_road_goes_on_and_a_problem_says_so(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Sickness(monkeypatch)
    sick.infect(road.log)
    road.start()
    await road.put(1, 2)
    await until(lambda: road.log.heads[R] == 2)
    before = road.log.epoch
    sick.error = io_error()
    await road.put(3, 4)
    await until(lambda: road.problems.stands("log", "log-volatile"))
    await until(lambda: road.log.heads[R] == 2)
    during = road.log.epoch
    assert during > before
    await asyncio.wait_for(road.pipeline.submit("command-intent", "d", urgent=True, intent=("k", b"ask")), 5)
    await asyncio.sleep(3 * housekeeping_module.VOLATILE_S)
    assert [(standing.code, standing.count) for standing in road.problems.of("log")] == [("log-volatile", 1)]
    heard = road.pipeline.last_outcome_s
    await road.put(5)
    await until(lambda: road.log.heads[R] == 3)
    assert road.pipeline.last_outcome_s > heard, "the watchdog hears of a writer that works"

    sick.error = None
    road.clock.advance(10)
    await until(lambda: not road.problems.stands("log", "log-volatile"))
    await road.put(6)
    await until(lambda: road.log.epoch > during and road.log.heads[R] == 1)
    assert [await values(road, epoch) for epoch in (before, during, road.log.epoch)] == [[1, 2], [3, 4, 5], [6]]
    assert await road.log.command_result("k") == (b"ask", None)
    assert road.problems.of("log") == []


async def test_damage_is_set_aside_while_the_road_runs_and_costs_no_uncommitted_round(road: Road) -> None:
    road.start()
    await road.put(1)
    await until(lambda: road.log.heads[R] == 1)
    before = road.log.epoch
    await road.log.write(lambda c: c.execute("DROP TABLE rounds_001"))
    await road.put(2, 3)
    await until(lambda: road.problems.stands("log", "log-damaged"))
    await until(lambda: road.log.epoch > before and road.log.memory is None)
    await road.put(4)
    await until(lambda: sum(s.last - s.first + 1 for s in road.log.segments() if s.lane is R) == 3)
    epochs = sorted({segment.epoch for segment in road.log.segments() if segment.lane is R})
    assert [value for epoch in epochs for value in await values(road, epoch)] == [2, 3, 4]
    assert [standing.code for standing in road.problems.of("log")] == ["log-damaged"]


async def test_rounds_that_go_before_they_are_in_the_history_leave_a_trace(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    road = Road(tmp_path / "s", commit_s=0.01, backlog_bytes=Bytes(64 << 10), segment_bytes=Bytes(8 << 10))
    road.start()
    wide = group_of("y", "wide")
    for _ in range(60):
        await road.pipeline.put("w", round_of(wide, os.urandom(1000)))
        await asyncio.sleep(0.005)
    await until(lambda: road.log.unkept_rounds > 10)
    await road.stop()
    told = [typing.cast(Event, record.body) for record in await road.held(E)]
    lost = [event.data["n"] for event in told if event.kind == "history-lost"]
    assert 0 < sum(lost) <= road.log.unkept_rounds
    assert road.log.unannounced == []
    await road.log.close()


@pytest.mark.parametrize(
    ("why", "standing", "found"),
    [
        ("backlog", "", ["log-full"]),
        ("damaged", "", ["log-damaged"]),
        ("damaged", "log-replaced", ["log-replaced"]),  # after a restore: one problem, and not one about the uplink
        ("dropped", "", []),  # an operator's drop is no trouble
    ],
)
async def test_a_gap_is_a_problem_of_room_only_where_room_tore_it(
    road: Road, why: str, standing: str, found: list[str]
) -> None:
    if standing:
        road.problems.report("log", Problem(standing, "x"))
    road.pipeline._house._judge_space([Gap(1, "cloud", road.log.epoch, R, 1, 2, why)])
    assert [problem.code for problem in road.problems.of("log") if problem.code != "disk-low"] == found
