"""The watch on the clock: what is noted when it comes to be trusted, and when it is stepped."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import typing
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fluxedge.app import Gateway
from fluxedge.clock import SystemClock
from fluxedge.clock_watch import ClockWatch
from fluxedge.log import LogFault, placing
from fluxedge.log.placing import ClockRow, Places
from fluxedge.log.query import Query, query
from fluxedge.log.segments import Segment
from fluxedge.model import Flag, Lane, Record, Round
from fluxedge.problems import LinkProblem, ProblemBook
from tests.fluxedge.api.running import config
from tests.fluxedge.virtual import VirtualClock, virtual

T = typing.TypeVar("T")
S = 10**9
BOOT = 3


class Held:
    """The part of a log that the watch sees: a real table of clock rows, and the last event of an earlier start."""

    def __init__(self, rows: list[ClockRow], last_boot: int | None) -> None:
        self.boot = BOOT
        self.tables = sqlite3.connect(":memory:", isolation_level=None)
        self.tables.execute("CREATE TABLE clock (boot INTEGER, mono_ms INTEGER, utc_ms INTEGER, source TEXT)")
        for row in rows:
            placing.note(self.tables, row)
        self.tables.execute("CREATE TABLE events_001 (seq INTEGER PRIMARY KEY, boot INTEGER)")
        if last_boot is not None:
            self.tables.execute("INSERT INTO events_001 VALUES (7, ?)", (last_boot,))
        self._filled = last_boot is not None
        self.writable = True
        self.readable = True

    def segments(self) -> list[Segment]:
        return [Segment(Lane.EVENTS, 1, 1, 1, 0, 7)] if self._filled else []

    async def look(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if not self.readable:
            raise LinkProblem("log-damaged", "events 1 of epoch 1")
        return job(self.tables)

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if not self.writable:
            raise LogFault("log-write-failed", "disk full")
        return job(self.tables)

    def rows(self) -> list[ClockRow]:
        return placing.rows_of(self.tables)


class Rig:
    """A watch with everything around it."""

    def __init__(self, *, sure: bool = True, rows: list[ClockRow] | None = None, last_boot: int | None = None) -> None:
        self.clock = VirtualClock()
        self.clock.sure = sure
        self.log = Held(rows or [], last_boot)
        self.problems = ProblemBook(self.clock.wall_ns)
        self.events: list[dict[str, typing.Any]] = []
        self.room = True
        self.ntp = True
        self.watch = ClockWatch(
            typing.cast(typing.Any, self.log), self.clock, self.problems, self.submit, lambda: self.ntp
        )

    def submit(
        self, kind: str, item: str, data: dict[str, typing.Any] | None = None, *, clock: ClockRow | None = None
    ) -> asyncio.Future[None]:
        durable = asyncio.get_running_loop().create_future()
        if not self.room:
            durable.set_exception(LogFault("log-write-failed", "an event was dropped"))
            durable.exception()
            return durable
        assert (kind, item) == ("clock-set", "gateway")
        assert data is not None
        assert clock is not None
        self.events.append(data)
        placing.note(self.log.tables, clock)  # the same commit
        return durable

    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.watch.run())
        yield
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def pass_s(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def watched(test: Callable[[Rig], typing.Coroutine[typing.Any, typing.Any, None]], **options: typing.Any) -> None:
    """Run a test while the watch runs."""

    @virtual
    async def run() -> None:
        rig = Rig(**options)
        async for _ in rig.running():
            await test(rig)

    run()


def test_trust_that_arrives_places_everything_read_before() -> None:
    async def test(rig: Rig) -> None:
        rig.clock.step_ns = 0  # 1970
        read_at_ns = rig.clock.mono_ns()
        await rig.pass_s(600)
        assert [(found.code, found.count) for found in rig.problems] == [("clock-unsynced", 1)], "a look is no event"
        assert rig.log.rows() == []
        rig.clock.step_ns, rig.clock.sure = 1_800_000_000 * S, True
        await rig.pass_s(2)
        assert not rig.problems.stands("clock", "clock-unsynced")
        (event,) = rig.events
        assert event["boot"] == BOOT
        assert event["source"] == "ntp"
        assert event["offset_us"] == 1_800_000_000 * 10**6 == event["utc_us"] - event["mono_us"]
        assert "step_us" not in event  # there was nothing to step from
        assert Places(rig.log.rows()).place(BOOT, read_at_ns) == read_at_ns + 1_800_000_000 * S
        await rig.pass_s(3600)
        assert len(rig.events) == len(rig.log.rows()) == 1

    watched(test, sure=False)


def test_a_clock_that_is_right_from_the_start_leaves_a_row_and_no_event() -> None:
    async def test(rig: Rig) -> None:
        rig.ntp = False
        await rig.pass_s(3600)
        assert rig.events == []
        ((boot, _, _, source),) = rig.log.rows()
        assert (boot, source) == (BOOT, "rtc")

    watched(test)


def test_steps_in_both_directions_are_events_with_a_row_each() -> None:
    async def test(rig: Rig) -> None:
        await rig.pass_s(100)
        for step_s in (3600, -7200):
            rig.clock.step_ns += step_s * S
            await rig.pass_s(100)
        assert [event["step_us"] for event in rig.events] == [3600 * 10**6, -7200 * 10**6]
        assert [event["source"] for event in rig.events] == ["step", "step"]
        places = Places(rig.log.rows())
        now_ns = rig.clock.mono_ns()
        for ago_s, ahead_s in ((250, 0), (150, 3600), (50, -3600)):  # what was read stays where it was
            mono_ns = now_ns - ago_s * S
            assert places.place(BOOT, mono_ns) == mono_ns + (1_800_000_000 + ahead_s) * S
        assert rig.watch.step_ns == -7200 * S
        assert rig.watch.stepped_at_ns > 0

    watched(test)


def test_small_steps_add_up_to_a_row_before_placement_is_a_second_off() -> None:
    async def test(rig: Rig) -> None:
        for _ in range(40):
            rig.clock.step_ns += S // 10
            await rig.pass_s(60)
            mono_ns = rig.clock.mono_ns()
            placed_ns = Places(rig.log.rows()).place(BOOT, mono_ns)
            assert placed_ns is not None
            assert abs(placed_ns - rig.clock.wall_ns()) < S
        assert rig.events == []
        assert {row[3] for row in rig.log.rows()} == {"ntp", "drift"}
        assert 4 <= len(rig.log.rows()) <= 8

    watched(test)


def test_a_restart_in_the_same_boot_goes_on_from_the_rows_of_the_boot() -> None:
    async def test(rig: Rig) -> None:
        await rig.pass_s(60)
        (event,) = rig.events  # it was stepped while no gateway ran
        assert (event["source"], event["step_us"]) == ("step", 3600 * 10**6)

    offset_ms = (1_800_000_000 - 3600) * 1000
    watched(test, rows=[(BOOT - 1, 1, 1, "ntp"), (BOOT, 5_000, 5_000 + offset_ms, "ntp")], last_boot=BOOT)


def test_a_restart_without_a_step_notes_nothing() -> None:
    async def test(rig: Rig) -> None:
        await rig.pass_s(60)
        assert rig.events == []
        assert len(rig.log.rows()) == 1

    watched(test, rows=[(BOOT, 5_000, 5_000 + 1_800_000_000 * 1000, "ntp")], last_boot=BOOT)


def test_records_of_an_earlier_start_in_this_boot_are_placed_by_the_next_one() -> None:
    async def test(rig: Rig) -> None:
        await rig.pass_s(60)
        (event,) = rig.events
        assert event["source"] == "ntp"
        assert len(rig.log.rows()) == 1

    watched(test, last_boot=BOOT)


def test_records_of_another_boot_ask_for_no_event() -> None:
    async def test(rig: Rig) -> None:
        await rig.pass_s(60)
        assert rig.events == []
        assert [row[0] for row in rig.log.rows()] == [BOOT]

    watched(test, last_boot=BOOT - 1)


def test_an_event_that_finds_no_room_is_tried_again() -> None:
    async def test(rig: Rig) -> None:
        rig.room = False
        await rig.pass_s(10)
        rig.clock.sure = True
        await rig.pass_s(10)
        assert rig.events == []
        rig.room = True
        await rig.pass_s(2)
        assert len(rig.events) == 1

    watched(test, sure=False)


def test_a_disk_that_takes_no_row_is_asked_again() -> None:
    async def test(rig: Rig) -> None:
        rig.log.writable = False
        await rig.pass_s(10)
        assert rig.log.rows() == []
        rig.log.writable = True
        await rig.pass_s(2)
        assert len(rig.log.rows()) == 1

    watched(test)


def test_a_log_that_cannot_be_read_does_not_stop_the_watch() -> None:
    @virtual
    async def run() -> None:
        rig = Rig(last_boot=BOOT)
        rig.log.readable = False
        async for _ in rig.running():
            await rig.pass_s(5)
            assert len(rig.log.rows()) == 1

    run()


class Board(SystemClock):
    """A board without a real-time clock: it begins in 1970, until NTP sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.set = False

    def wall_ns(self) -> int:
        return super().wall_ns() if self.set else self.mono_ns()

    def trusted(self) -> bool:
        return self.set


async def test_a_gateway_places_what_it_read_before_its_clock_was_set(tmp_path: Path) -> None:
    board = Board()
    gateway = Gateway(config(), tmp_path, board)
    await gateway.start()
    async with asyncio.timeout(20):
        while gateway.pipeline.rounds_total < 10:  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)
        assert gateway.problems.stands("clock", "clock-unsynced")
        board.set = True
        while gateway.problems.stands("clock", "clock-unsynced"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    ahead_ns = board.wall_ns() - board.mono_ns()
    await gateway.stop()

    async def held(lane: Lane) -> list[Record]:
        async with contextlib.aclosing(query(tmp_path / "log.db", Query(lane))) as found:
            return [record async for record in found]

    places = await placing.load_file(tmp_path / "log.db")
    events = await held(Lane.EVENTS)
    (said,) = [r.body for r in events if not isinstance(r.body, Round) and r.body.kind == "clock-set"]
    assert abs(said.data["offset_us"] * 1000 - ahead_ns) < S
    assert not said.flags & Flag.CLOCK_UNSYNCED
    assert events[0].body.at_ns < 10**17  # 1970: the row itself is never rewritten
    unsynced: list[Record] = []
    synced: list[Record] = []
    for record in (*events, *await held(Lane.ROUNDS)):
        (unsynced if record.body.flags & Flag.CLOCK_UNSYNCED else synced).append(record)
    assert len(unsynced) > 10
    for record in unsynced:
        body = record.body
        placed_ns = places.of(record)
        assert placed_ns is not None
        assert abs(placed_ns - (body.arrived_mono_ns if isinstance(body, Round) else body.mono_ns) - ahead_ns) < S
    assert {places.of(record) for record in synced} == {None}
