"""The copy of one damaged log: what is wanted of it, in which order, and what is said of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log
from fluxedge.log.salvage import copying
from fluxedge.log.salvage.copying import Job, Report
from fluxedge.log.salvage.wreck import Wreck
from fluxedge.model import OPEN_END, Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of

GROUP = group_of("H" * 30)
FOLDER = Path("/state/log.damaged-20270131T235959Z")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report(10, 2), "10 rounds and 2 events of it were saved; nothing that was still to be sent is lost"),
        (Report(lost=3), "0 rounds and 0 events of it were saved; 3 records that were still to be sent are lost"),
        (Report(5, 5, 3, 4), "7 records that were still to be sent are lost and announced as gaps, 4 of them because"),
        (Report(1, 1, cursors=False), "what was delivered is not known, records may be sent again"),
        (Report(older=True), "records of older epochs were found, of which ones is not known: they are left"),
        (Report(gave_up=True), "reading it ended the gateway again and again, it is left alone"),
    ],
)
def test_one_sentence_says_what_was_saved_and_lost(report: Report, said: str) -> None:
    assert report.said(FOLDER).startswith(f"the log was damaged and is set aside in {FOLDER}: ")
    assert said in report.said(FOLDER)


async def until_written(job):  # type: ignore[no-untyped-def]
    return await job()


@pytest.fixture
async def logs(open_log: OpenLog, tmp_path: Path) -> tuple[Log, Wreck]:
    """Return a new log, and what lies in another folder: some segments a lane."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    log = open_log(tmp_path / "old", segment_bytes=1500)
    log.begin_uplink("up", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for i in range(30):
        batch = Batch()
        log.add_round(batch, round_of(GROUP, *[(i * k * 7919) % 65536 for k in range(30)]))
        log.add_event(batch, event_of(number=i, text="x" * 90))
        await log.commit(batch)
    await log.close()
    new = open_log(tmp_path / "new")
    new.clock.advance(100)
    wreck = Wreck(tmp_path / "old")
    for _ in wreck.look_around({}):
        pass
    return new, wreck


def job_of(log: Log, wreck: Wreck) -> Job:
    return Job(log, wreck, {"up": [Lane.ROUNDS]}, {}, until_written, asyncio.sleep)


async def test_events_come_before_rounds_and_newer_ones_before_older_ones(logs: tuple[Log, Wreck]) -> None:
    log, wreck = logs
    order = [(s.lane, s.first) for s in job_of(log, wreck)._newest_first()]
    assert order == sorted(order, reverse=True)
    assert order[0][0] is Lane.EVENTS
    wreck.close()


async def test_a_segment_that_nobody_needs_is_not_wanted(logs: tuple[Log, Wreck]) -> None:
    log, wreck = logs
    job = job_of(log, wreck)
    first, second, *_ = [s for s in wreck.segments if s.lane is Lane.ROUNDS]
    owed = {("up", first.epoch, Lane.ROUNDS): [(second.first, OPEN_END)]}
    assert job._wanted(first, owed), "it is in no history file"
    log.compacted[first.epoch] = second.last
    assert not job._wanted(first, owed)
    assert job._wanted(second, owed), "it is not delivered"
    events = next(s for s in wreck.segments if s.lane is Lane.EVENTS)
    assert job._wanted(events, {}), "events are in the log only"
    wreck.close()


async def test_a_salvage_writes_no_row_twice_and_reads_in_small_steps(
    logs: tuple[Log, Wreck], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, wreck = logs
    monkeypatch.setattr(copying, "STEP_BYTES", 400)
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    written: list[int] = []
    append = copying.takeover.segments.append

    def counted(connection, segment, row, mono_ms):  # type: ignore[no-untyped-def]
        written.append(row.seq)
        append(connection, segment, row, mono_ms)

    monkeypatch.setattr(copying.takeover.segments, "append", counted)
    report = await job_of(log, wreck).run()
    assert (report.rounds, report.events, report.lost) == (30, 30, 0)
    assert len(written) == 60
    wreck.close()
