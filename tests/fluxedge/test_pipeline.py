"""The pipeline on a real log: when batches close, what waits for whom, and what a failing disk costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import typing
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from fluxedge import housekeeping as housekeeping_module
from fluxedge import pipeline as pipeline_module
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.intake import URGENT_BURST
from fluxedge.latest import Latest
from fluxedge.log import Log, LogFault
from fluxedge.log.body import Row, records
from fluxedge.model import Event, Flag, Group, Lane, Quality, Record, Round
from fluxedge.pipeline import Pipeline
from fluxedge.problems import ProblemBook
from tests.fluxedge.log.fake_clock import DAY_S, START_NS, FakeClock, group_of, round_of
from tests.fluxedge.virtual import VirtualClock, virtual

GROUP = group_of("HH")
R, E = Lane.ROUNDS, Lane.EVENTS


class Road:
    """A log, a pipeline and its task; the disk can be broken, blocked and repaired."""

    def __init__(self, state: Path, commit_s: float = 0.05, **cfg: typing.Any) -> None:
        self.clock = FakeClock()
        self.log = Log(state, LogCfg(free_space_bytes=Bytes(0), **cfg), self.clock)
        self.latest = Latest()
        self.problems = ProblemBook(self.clock.wall_ns)
        self.pipeline = Pipeline(self.log, self.latest, self.clock, self.problems, commit_s)
        self.problems.listeners.append(
            lambda change, item, standing: self.pipeline.submit("problem", item, {"change": change}) and None
        )
        self.commit_times: list[float] = []
        self.log.listeners.append(lambda: self.commit_times.append(asyncio.get_running_loop().time()))
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self._honest = self.log._writer._transact
        self.log._writer._transact = self._transact  # type: ignore[method-assign]
        self.task: asyncio.Task[None] | None = None

    def _transact(self, job: typing.Any) -> typing.Any:
        assert self.open.wait(20)
        if self.broken:
            raise sqlite3.OperationalError("database or disk is full")
        return self._honest(job)

    def start(self) -> Road:
        self.task = asyncio.get_running_loop().create_task(self.pipeline.run(), name="pipeline")
        return self

    async def put(self, *numbers: int, channel: str = "c", group: Group = GROUP) -> None:
        for number in numbers:
            await self.pipeline.put(channel, round_of(group, number, 0))

    async def stop(self) -> None:
        self.pipeline.stop()
        if self.task is not None:
            await asyncio.wait_for(self.task, 10)

    async def held(self, lane: Lane) -> list[Record]:
        def decode(rows: list[Row], groups: Mapping[int, Group]) -> list[Record]:
            return [record for row in rows for record in records(row, groups)]

        found: list[Record] = []
        while page := await self.log.read(self.log.epoch, lane, len(found) + 1, 10**9, decode):
            found += page
        return found

    async def first_values(self) -> list[object]:
        return [typing.cast(Round, record.body).values[0] for record in await self.held(R)]

    async def kinds(self) -> list[str]:
        return [typing.cast(Event, record.body).kind for record in await self.held(E)]


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    made = Road(tmp_path)
    yield made
    made.broken = False
    made.open.set()
    if made.task is not None and not made.task.done():
        made.task.cancel()
        await asyncio.wait([made.task])
    await made.log.close()


async def until(condition: typing.Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# --- when a batch closes ----------------------------------------------------------------------------------------------


async def test_the_first_record_commits_at_once_and_then_every_interval(road: Road) -> None:
    road.pipeline._commit_s = 0.2
    road.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 0.9:
        await road.put(1)
        await asyncio.sleep(0.01)
    assert road.commit_times[0] - began < 0.15
    gaps = [b - a for a, b in zip(road.commit_times, road.commit_times[1:], strict=False)]
    assert 3 <= len(gaps) <= 5
    assert min(gaps) > 0.15


async def test_after_a_quiet_time_the_next_record_commits_at_once(road: Road) -> None:
    road.pipeline._commit_s = 0.2
    road.start()
    await road.put(1)
    await until(lambda: len(road.commit_times) == 1)
    await asyncio.sleep(0.25)
    began = asyncio.get_running_loop().time()
    await road.put(2)
    await until(lambda: len(road.commit_times) == 2)
    assert road.commit_times[1] - began < 0.15


async def test_a_mebibyte_closes_the_batch(road: Road) -> None:
    road.pipeline._commit_s = 60.0
    road.start()
    await road.put(1)
    await until(lambda: len(road.commit_times) == 1)
    wide = group_of("y", "wide")
    for _ in range(9):
        await road.pipeline.put("w", round_of(wide, bytes(1 << 18)))
    await until(lambda: len(road.commit_times) >= 3)
    sizes = [segment.last for segment in road.log.segments() if segment.lane is R]
    assert sizes[-1] == 9, "two batches of four rounds; the ninth waits for its interval"


async def test_urgent_events_commit_at_once_as_long_as_the_bucket_lasts(road: Road) -> None:
    road.pipeline._commit_s = 60.0
    road.start()
    await road.pipeline.submit("start", "gateway")
    loop = asyncio.get_running_loop()
    for _ in range(URGENT_BURST):
        began = loop.time()
        await asyncio.wait_for(road.pipeline.submit("alarm", "x", urgent=True), 5)
        assert loop.time() - began < 0.2
    later = road.pipeline.submit("alarm", "x", urgent=True)
    await asyncio.sleep(0.4)
    assert not later.done(), "beyond the bucket it rides with the next commit"
    began = loop.time()
    intent = road.pipeline.submit("command-intent", "d", urgent=True, intent=("k", b"ask"))
    await asyncio.wait_for(intent, 5)
    assert 0.2 <= loop.time() - began < 0.45, "an intent waits 250 ms at most"
    assert later.done()


async def test_urgent_events_that_share_a_commit_take_one_token(road: Road) -> None:
    road.pipeline._commit_s = 60.0
    road.start()
    await road.pipeline.submit("start", "gateway")
    for _ in range(2):
        await asyncio.gather(*(road.pipeline.submit("alarm", "x", urgent=True) for _ in range(URGENT_BURST)))
    assert len(road.commit_times) == 3


async def test_an_event_is_done_when_it_is_durable_and_not_before(road: Road) -> None:
    road.open.clear()
    road.start()
    durable = road.pipeline.submit("audit", "gateway", {"n": 1})
    await asyncio.sleep(0.05)
    assert not durable.done()
    road.open.set()
    await asyncio.wait_for(durable, 5)
    assert await road.kinds() == ["audit"]


async def test_latest_is_up_to_date_before_the_commit(road: Road) -> None:
    road.open.clear()
    road.start()
    await road.put(7)
    await until(lambda: road.latest.of("m1", "main") is not None)
    await road.put(8)
    await until(lambda: road.latest.of("m1", "main").values[0] == 8)  # type: ignore[union-attr]
    assert road.log.heads[R] == 0
    road.open.set()
    await until(lambda: road.log.heads[R] == 2)


async def test_rounds_and_events_are_counted(road: Road) -> None:
    road.start()
    await road.put(1, 2, 3)
    await road.pipeline.submit("audit", "gateway")
    await until(lambda: road.log.heads[R] == 3)
    assert (road.pipeline.rounds_total, road.pipeline.points_total, road.pipeline.events_total) == (3, 6, 1)


async def test_other_tasks_get_their_turn_while_a_crowd_is_packed(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "TURN_POINTS", 4)
    for i in range(100):
        await road.put(*range(4), channel=f"c{i}")
    road.start()
    turns = 0
    while road.pipeline.rounds_total < 400:
        turns += 1
        await asyncio.sleep(0)
    assert turns > 50


# --- channels ---------------------------------------------------------------------------------------------------------


async def test_a_channel_with_four_rounds_waits_and_is_counted_while_its_neighbours_go_on(road: Road) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(road.put(*range(6), channel="busy"), 0.05)
    await asyncio.wait_for(road.put(*range(4), channel="calm"), 1)
    assert road.pipeline.queue.waited == {"busy": 1}
    road.start()
    await asyncio.wait_for(road.put(*range(20), channel="busy"), 5)
    await until(lambda: road.log.heads[R] == 28)


# --- a failing disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "RETRY_S", 0.03)


@pytest.mark.usefixtures("soon")
async def test_a_failed_commit_keeps_everything_and_tries_again(road: Road) -> None:
    road.broken = True
    road.start()
    await road.put(1, 2)
    await until(lambda: road.pipeline.commit_failures_total >= 2)
    (standing,) = road.problems.of("log")
    assert standing.code == "log-write-failed"
    assert "disk is full" in standing.message
    await road.put(3, 4, 5)
    await until(lambda: road.latest.of("m1", "main").values[0] == 5)  # type: ignore[union-attr]
    road.broken = False
    await until(lambda: road.log.heads[R] == 5)
    assert await road.first_values() == [1, 2, 3, 4, 5]
    assert road.problems.of("log") == []
    await until(lambda: road.log.heads[E] == 2)
    told = [typing.cast(Event, record.body).data for record in await road.held(E)]
    assert told == [{"change": "raised"}, {"change": "cleared"}]


@pytest.mark.usefixtures("soon")
async def test_while_commits_fail_pollers_go_on_up_to_a_bound_and_then_wait(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "HELD_BYTES", 50_000)
    monkeypatch.setattr(pipeline_module, "BATCH_BYTES", 10_000)
    road.broken = True
    road.start()
    wide = group_of("y", "wide")
    sent = 0

    async def poll() -> None:
        nonlocal sent
        while sent < 100:
            await road.pipeline.put("w", round_of(wide, os.urandom(1000)))
            sent += 1

    async with asyncio.TaskGroup() as tasks:
        poller = tasks.create_task(poll())
        await asyncio.sleep(0.4)
        assert not poller.done()
        assert 48 <= sent <= 56, "50,000 bytes and four rounds in the queue"
        assert road.pipeline.queue.waited["w"] >= 1
        road.broken = False
    await until(lambda: road.log.heads[R] == 100)
    connection = sqlite3.connect(f"file:{road.log.path}?mode=ro", uri=True)
    (most,) = connection.execute("SELECT max(n) FROM rounds_001").fetchone()
    connection.close()
    assert most <= 11, "what was held goes in batches of the usual size"


@pytest.mark.usefixtures("soon")
async def test_who_waits_for_durability_learns_at_once_that_it_is_not_to_be_had(road: Road) -> None:
    road.broken = True
    road.start()
    with pytest.raises(LogFault):
        await asyncio.wait_for(road.pipeline.submit("command-intent", "d", urgent=True, intent=("k", b"ask")), 5)
    with pytest.raises(LogFault):
        await asyncio.wait_for(road.pipeline.submit("audit", "gateway"), 5)
    road.broken = False
    await asyncio.wait_for(road.pipeline.submit("audit", "later"), 5)
    kinds = await road.kinds()
    assert kinds.count("audit") == 2
    assert "command-intent" in kinds
    assert await road.log.unanswered_commands("", 9) == [("k", b"ask")]


@pytest.mark.usefixtures("soon")
async def test_events_beyond_the_bound_are_dropped_counted_and_told(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "HELD_BYTES", 1000)
    monkeypatch.setattr(pipeline_module, "HELD_EVENT_BYTES", 1000)
    road.broken = True
    road.start()
    asked = [road.pipeline.submit("audit", "gateway", {"text": "x" * 50}) for _ in range(100)]
    dropped = road.pipeline.dropped_events_total
    assert 50 < dropped < 99
    with pytest.raises(LogFault, match="dropped"):
        await asked[-1]
    road.broken = False
    await until(lambda: road.log.heads[E] > 100 - dropped)
    told = [typing.cast(Event, record.body) for record in await road.held(E)]
    (event,) = [event for event in told if event.kind == "dropped"]
    assert event.data == {"lane": "events", "n": road.pipeline.dropped_events_total}
    assert len([event for event in told if event.kind == "audit"]) == 100 - dropped


async def test_a_slow_disk_does_not_keep_rounds_from_being_seen(road: Road) -> None:
    road.start()
    await road.put(0)
    await until(lambda: road.log.heads[R] == 1)
    road.open.clear()
    for number in range(1, 41):
        await asyncio.wait_for(road.put(number), 1)
        await asyncio.sleep(0.002)
    await until(lambda: road.latest.of("m1", "main").values[0] == 40)  # type: ignore[union-attr]
    assert road.log.heads[R] == 1
    road.open.set()
    await until(lambda: road.log.heads[R] == 41)
    assert await road.first_values() == list(range(41))


async def test_a_defect_in_a_commit_ends_the_pipeline_loudly(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(road.log._writer, "_transact", broken)
    road.start()
    await road.put(1)
    assert road.task is not None
    with pytest.raises(KeyError):
        await asyncio.wait_for(road.task, 5)
    monkeypatch.undo()


# --- rounds that cannot be stored -------------------------------------------------------------------------------------


async def test_a_raw_that_does_not_fit_becomes_bad_and_its_neighbours_are_stored(road: Road) -> None:
    road.start()
    bent = Round(GROUP, (70_000, 5), (70_000, 5), b"", START_NS, 1)
    await road.pipeline.put("c", bent)
    await until(lambda: road.log.heads[R] == 1)
    (record,) = await road.held(R)
    assert isinstance(record.body, Round)
    assert (record.body.values, record.body.quality) == ((None, 5), bytes([Quality.BAD, Quality.GOOD]))
    assert road.latest.of("m1", "main").values == (None, 5)  # type: ignore[union-attr]
    (standing,) = road.problems.of("device:m1/main")
    assert standing.code == "bad-value"
    await road.put(6)
    await until(lambda: road.log.heads[R] == 2)
    assert road.problems.of("device:m1/main") == []


async def test_a_round_that_cannot_be_stored_at_all_is_dropped_and_counted(road: Road) -> None:
    road.start()
    await road.pipeline.put("c", Round(GROUP, (1, 2), (1, 2), b"", 2**70, 1))
    await road.put(3)
    await until(lambda: road.log.heads[R] == 1)
    assert road.pipeline.dropped_rounds_total == 1
    assert await road.first_values() == [3]


async def test_events_of_an_untrusted_clock_say_so(road: Road) -> None:
    road.clock.is_trusted = False
    road.start()
    await road.pipeline.submit("audit", "gateway")
    (record,) = await road.held(E)
    assert record.body.flags == Flag.CLOCK_UNSYNCED


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_stop_commits_everything_that_is_there(road: Road) -> None:
    road.pipeline._commit_s = 60.0
    road.start()
    await road.put(1)
    await until(lambda: road.log.heads[R] == 1)
    await road.put(2, 3, 4)
    durable = road.pipeline.submit("stop", "gateway")
    await road.stop()
    assert durable.done()
    assert await road.first_values() == [1, 2, 3, 4]
    assert await road.kinds() == ["stop"]


async def test_after_the_end_events_are_refused_and_nobody_waits_for_ever(road: Road) -> None:
    road.start()
    await road.stop()
    with pytest.raises(LogFault, match="stopping"):
        await road.pipeline.submit("audit", "gateway")


@pytest.mark.usefixtures("soon")
async def test_cancelling_a_pipeline_that_cannot_commit_answers_who_waits(road: Road) -> None:
    road.open.clear()
    road.start()
    waiting = road.pipeline.submit("audit", "gateway")
    await asyncio.sleep(0.02)
    assert road.task is not None
    road.task.cancel()
    await asyncio.wait([road.task])
    with pytest.raises(LogFault, match="stopped"):
        await waiting


# --- idle, cursors, housekeeping --------------------------------------------------------------------------------------


async def test_an_idle_pipeline_still_hears_from_the_writer_but_writes_nothing(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "CURSORS_S", 0.05)
    road.start()
    await road.put(1)
    await until(lambda: road.log.heads[R] == 1)
    heard, commits = road.pipeline.last_outcome_s, road.log.commits
    size = road.log.path.with_name("log.db-wal").stat()
    await asyncio.sleep(0.3)
    assert road.pipeline.last_outcome_s - heard > 0.2
    assert road.log.commits == commits
    after = road.log.path.with_name("log.db-wal").stat()
    assert (after.st_size, after.st_mtime_ns) == (size.st_size, size.st_mtime_ns)
    road.open.clear()
    await asyncio.sleep(0.1)
    heard = road.pipeline.last_outcome_s
    await asyncio.sleep(0.2)
    assert road.pipeline.last_outcome_s == heard, "a writer that hangs is no sign of life"


async def test_acknowledged_ranges_are_saved_though_nothing_else_commits(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "CURSORS_S", 0.1)
    road.log.begin_uplink("cloud", [R], "oldest")
    road.start()
    await road.put(1)
    await until(lambda: road.log.heads[R] == 1)
    road.log.cursors.settle("cloud", road.log.epoch, R, 1, 1)
    await until(lambda: road.log.commits == 2)
    assert not road.log.cursors.dirty
    await asyncio.sleep(0.25)
    assert road.log.commits == 2


async def test_cursors_alone_are_not_saved_more_often_than_records_commit(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "CURSORS_S", 0.03)
    road.pipeline._commit_s = 30.0
    road.log.begin_uplink("cloud", [R], "oldest")
    road.start()
    await road.put(1)
    await until(lambda: road.log.heads[R] == 1)
    road.log.cursors.settle("cloud", road.log.epoch, R, 1, 1)
    await asyncio.sleep(0.2)
    assert road.log.cursors.dirty


async def evicting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Road:
    """Return a road whose log drops what is older than a day, with an uplink that has had nothing of three days."""
    monkeypatch.setattr(housekeeping_module, "HOUSEKEEPING_S", 0.05)
    road = Road(tmp_path, keep_s=Seconds(DAY_S))
    road.log.begin_uplink("cloud", [R, E], "oldest")
    road.pipeline.uplinks = lambda: ["cloud"]
    for number in range(3):
        road.start()
        await road.put(number)
        await until(lambda n=number: road.log.heads[R] == n + 1)  # type: ignore[misc]
        await road.stop()
        road.pipeline = Pipeline(road.log, road.latest, road.clock, road.problems, 0.05)
        road.pipeline.uplinks = lambda: ["cloud"]
        road.clock.advance(DAY_S)
    return road


async def test_what_goes_undelivered_is_announced_once_by_an_event_and_stands_as_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = await evicting(tmp_path, monkeypatch)
    with contextlib.nullcontext():
        road.start()
        await until(lambda: road.log.heads[E] > 0 and not road.log.unannounced)
        await asyncio.sleep(0.2)
        gaps = [typing.cast(Event, r.body) for r in await road.held(E) if typing.cast(Event, r.body).kind == "gap"]
        first = road.log.first_seq(road.log.epoch, R)
        lost = [(gap.data["lo"], gap.data["hi"]) for gap in gaps]
        assert lost == [(seq, seq) for seq in range(1, first)]
        assert {gap.data["why"] for gap in gaps} == {"age"}
        assert {gap.item for gap in gaps} == {"uplink:cloud"}
        assert road.problems.stands("log", "log-full")
        await road.stop()
        await road.log.close()


async def test_a_gap_that_was_not_announced_before_a_crash_is_announced_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = await evicting(tmp_path, monkeypatch)
    assert await road.log.housekeep(["cloud"])  # dropped, and the process dies here
    lost = [(gap.lo, gap.hi) for gap in road.log.unannounced]
    assert lost
    await road.log.close()
    monkeypatch.setattr(housekeeping_module, "HOUSEKEEPING_S", 60.0)
    again = Road(tmp_path)
    again.pipeline.uplinks = list
    again.start()
    await until(lambda: not again.log.unannounced)
    gaps = [typing.cast(Event, record.body).data for record in await again.held(E)]
    assert [(gap["lo"], gap["hi"]) for gap in gaps if "lo" in gap] == lost
    await again.stop()
    await again.log.close()


async def test_the_cap_is_looked_at_whenever_a_segment_is_full(tmp_path: Path) -> None:
    road = Road(tmp_path, commit_s=0.01, backlog_bytes=Bytes(64 << 10), segment_bytes=Bytes(8 << 10))
    road.pipeline.uplinks = lambda: ["cloud"]
    road.log.begin_uplink("cloud", [R], "oldest")
    road.start()
    wide = group_of("y", "wide")
    for _ in range(60):
        await road.pipeline.put("w", round_of(wide, os.urandom(1000)))
        await asyncio.sleep(0.005)
    await until(lambda: road.log.first_seq(road.log.epoch, R) > 20)
    await until(lambda: road.log.heads[E] > 0 and not road.log.unannounced)
    await road.stop()
    await road.log.close()


async def test_records_that_cannot_be_read_are_announced_with_the_next_commit(road: Road) -> None:
    road.log.begin_uplink("cloud", [R], "oldest")
    road.start()
    await road.put(1, 2)
    await until(lambda: road.log.heads[R] == 2)
    road.log.lose("cloud", road.log.epoch, R, 1, 2)
    await road.put(3)
    await until(lambda: road.log.heads[E] == 1)
    (record,) = await road.held(E)
    assert typing.cast(Event, record.body).data == {
        "uplink": "cloud", "epoch": road.log.epoch, "lane": "rounds", "lo": 1, "hi": 2, "why": "damaged",
    }  # fmt: skip


async def test_a_disk_below_the_floor_stands_as_a_problem(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping_module, "HOUSEKEEPING_S", 0.03)
    monkeypatch.setattr(type(road.log), "disk_low", property(lambda _: low))
    low = True
    road.start()
    await until(lambda: road.problems.stands("log", "disk-low"))
    (first,) = road.problems.of("log")
    road.clock.advance(1)
    await until(lambda: road.problems.of("log")[0].last_ns > first.last_ns)
    assert road.problems.of("log")[0].count == 1, "a look is no event"
    low = False
    await until(lambda: not road.problems.stands("log", "disk-low"))


# --- a channel that must wait -----------------------------------------------------------------------------------------


def unwatched() -> tuple[Pipeline, ProblemBook]:
    """Return a pipeline whose task does not run: nothing is taken but by the test."""
    clock = VirtualClock()
    problems = ProblemBook(clock.wall_ns)
    return Pipeline(typing.cast(Log, None), Latest(), clock, problems, 1.0), problems


@virtual
async def test_a_channel_that_waits_for_a_second_has_a_problem_until_it_need_not_wait() -> None:
    pipeline, problems = unwatched()
    for number in range(4):
        await pipeline.put("bus", round_of(GROUP, number, 0))
    waiting = asyncio.ensure_future(pipeline.put("bus", round_of(GROUP, 4, 0)))
    await asyncio.sleep(pipeline_module.CROWDED_S - 0.01)
    assert len(problems) == 0
    await asyncio.sleep(0.02)
    assert problems.stands("channel:bus", "queue-full")
    await pipeline.put("other", round_of(GROUP, 0, 0))  # its neighbours go on
    assert [standing.item for standing in problems] == ["channel:bus"]

    pipeline.queue.take()
    await waiting
    assert problems.stands("channel:bus", "queue-full")  # its four places are taken again
    pipeline.queue.take()
    await pipeline.put("bus", round_of(GROUP, 5, 0))
    assert len(problems) == 0


@virtual
async def test_a_channel_that_waits_for_less_than_a_second_has_no_problem() -> None:
    pipeline, problems = unwatched()
    for number in range(4):
        await pipeline.put("bus", round_of(GROUP, number, 0))
    for number in range(5):
        waiting = asyncio.ensure_future(pipeline.put("bus", round_of(GROUP, number, 0)))
        await asyncio.sleep(pipeline_module.CROWDED_S - 0.01)
        pipeline.queue.take()
        await waiting
    await asyncio.sleep(10 * pipeline_module.CROWDED_S)
    assert problems.raised_total["queue-full"] == 0
    assert pipeline.queue.waited == {"bus": 5}
