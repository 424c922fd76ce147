"""The log in memory: where it goes when the disk takes nothing, and from where it comes home."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import shutil
import sqlite3
import typing
from collections.abc import Mapping
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault, database, media, move, volatile
from fluxedge.log.body import Row, records
from fluxedge.model import OPEN_END, Group, Lane, Record, Round
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, event_of, group_of, round_of
from tests.fluxedge.log.sick_disk import Sickness, io_error

R, E = Lane.ROUNDS, Lane.EVENTS
GROUP = group_of("HH")


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sickness:
    return Sickness(monkeypatch)


async def commit(log: Log, *numbers: int, **more: typing.Any) -> None:
    batch = Batch(**more)
    for number in numbers:
        log.add_round(batch, round_of(GROUP, number, 0))
    await log.commit(batch)


def decode(rows: list[Row], groups: Mapping[int, Group]) -> list[Record]:
    return [record for row in rows for record in records(row, groups)]


async def held(log: Log, epoch: int, lane: Lane = R) -> list[object]:
    found: list[object] = []
    seq = log.first_seq(epoch, lane)
    while page := [record for record in await log.read(epoch, lane, seq, 1, decode) if record.seq >= seq]:
        for record in page:
            found.append(record.body.values[0] if isinstance(record.body, Round) else record.body.kind)
        seq = page[-1].seq + 1
    return found


async def fall(log: Log, sick: Sickness, *numbers: int) -> int:
    """Let the disk fail under a commit of these numbers, and the log go to memory; return the volatile epoch."""
    sick.infect(log)
    sick.error = io_error()
    with pytest.raises(LogFault):
        await commit(log, *numbers)
    await log.housekeep(log.cursors.uplinks())
    assert log.memory is not None
    await commit(log, *numbers)
    return log.epoch


async def come_home(log: Log, sick: Sickness, clock: FakeClock) -> None:
    sick.error = None
    clock.advance(10)
    while await log.housekeep(log.cursors.uplinks()):
        pass
    assert log.memory is None


def todo(log: Log, uplink: str = "cloud", lane: Lane = R) -> dict[int, list[tuple[int, int]]]:
    return {epoch: list(ranges) for epoch, ranges in log.cursors.of(uplink, lane) if ranges}


async def test_a_disk_that_fails_for_a_while_costs_no_record(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 1, 2)
    before = log.epoch
    during = await fall(log, sick, 3)
    assert during > before
    assert (log.is_durable(before), log.is_durable(during)) == (True, False)
    assert log.volatile_because is not None
    assert "IOERR_WRITE" in log.volatile_because.message
    await commit(log, 4, 5)
    assert await held(log, before) == [1, 2], "what is on the disk stays readable"
    assert await held(log, during) == [3, 4, 5]
    assert todo(log) == {before: [(1, 2)], during: [(1, OPEN_END)]}

    await come_home(log, sick, clock)
    after = log.epoch
    assert after > during
    assert log.is_durable(during)
    await commit(log, 6)
    for again in (log, None):
        if again is None:
            await log.close()
            log = open_log()
        assert [await held(log, epoch) for epoch in (before, during, after)] == [[1, 2], [3, 4, 5], [6]]
        assert todo(log) == {before: [(1, 2)], during: [(1, 3)], after: [(1, OPEN_END)]}
    assert (log.epoch, log.new_epoch_because, log.damaged) == (after, "", None)


async def test_what_was_acknowledged_in_memory_is_not_owed_again(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 1, 2, 3)
    before, during = log.epoch, await fall(log, sick, 4, 5, 6)
    log.cursors.settle("cloud", before, R, 1, 2)
    log.cursors.settle("cloud", during, R, 2, 2)
    await come_home(log, sick, clock)
    await log.close()
    log = open_log()
    assert todo(log) == {before: [(3, 3)], during: [(1, 1), (3, 3)], log.epoch: [(1, OPEN_END)]}


async def test_commands_state_quarantine_gaps_and_clock_go_along_both_ways(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R, E], "oldest")
    now_ms = clock.wall_ns() // 10**6
    await commit(log, 1, intents=[("old", now_ms, b"ask"), ("open", now_ms, b"ask")], results=[("old", b"done")])
    await commit(log, 2, state={"alarm": b"on", "timer": b"3", "other": b"x"})
    log.lose("cloud", log.epoch, R, 1, 1)
    await log.commit(Batch())
    (gap,) = log.unannounced
    epoch = log.epoch
    during = await fall(log, sick, 3)
    assert await log.command_result("old") == (b"ask", b"done")
    assert [key for key, _ in await log.unanswered_commands("", 9)] == ["open"]
    assert await log.load_state() == {"alarm": b"on", "timer": b"3", "other": b"x"}

    batch = Batch(intents=[("new", now_ms, b"ask")], results=[("open", b"late")])
    batch.state |= {"timer": None, "alarm": b"off"}
    batch.clock.append((1, 2, 3, "ntp"))
    log.add_event(batch, event_of("gap"))
    batch.announced.append((gap.id, 0))
    log.quarantine("cloud", Message(epoch, R, 2, 2, b"payload", "text/plain"), "no")
    log.lose("cloud", during, R, 1, 1)
    await log.commit(batch)
    (made,) = log.unannounced
    assert made.id > gap.id

    await come_home(log, sick, clock)
    assert log.unannounced == [made]
    batch = Batch()
    log.add_event(batch, event_of("gap"))
    batch.announced.append((made.id, 0))
    await log.commit(batch)
    await log.close()
    log = open_log()
    assert log.unannounced == []
    assert await log.load_state() == {"alarm": b"off", "other": b"x"}
    assert await log.command_result("open") == (b"ask", b"late")
    assert await log.command_result("new") == (b"ask", None)

    def tables(connection: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
        asked = (
            "SELECT epoch, lo, said_epoch, said_seq FROM gap ORDER BY epoch",
            "SELECT lo, reason, payload, tries FROM quarantine",
            "SELECT * FROM clock",
        )
        return [connection.execute(sql).fetchall() for sql in asked]

    assert await log.look(tables) == [
        [(epoch, 1, during, 1), (during, 1, log.epoch, 1)], [(2, "no", b"payload", 1)], [(1, 2, 3, "ntp")],
    ]  # fmt: skip


async def test_memory_is_bounded_and_its_oldest_records_go_as_an_announced_gap(
    open_log: OpenLog, sick: Sickness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MEMORY_BYTES", 400 << 10)
    monkeypatch.setattr(media, "_MEMORY_SEGMENT_BYTES", 50 << 10)
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 1)
    before = log.epoch
    during = await fall(log, sick, 2)
    big = group_of("y", "big")
    for number in range(200):
        batch = Batch()
        log.add_round(batch, round_of(big, noise(number)))
        await log.commit(batch)
        while log.rotated and await log.housekeep(["cloud"]):
            pass
        assert log.memory_bytes <= 400 << 10
    first = log.first_seq(during, R)
    assert first > 50
    gaps = [(gap.epoch, gap.lo, gap.hi, gap.why) for gap in log.unannounced]
    assert gaps[0][:2] == (during, 1)
    assert gaps[-1][2] == first - 1
    assert {gap[3] for gap in gaps} == {"memory"}
    assert log.unkept_rounds == first - 1
    await come_home(log, sick, clock)
    assert todo(log) == {before: [(1, 1)], during: [(first, 201)], log.epoch: [(1, OPEN_END)]}
    assert len(await held(log, during)) == 201 - first + 1
    unannounced = log.unannounced
    await log.close()
    log = open_log()
    assert log.unannounced == unannounced
    assert len(await held(log, during)) == 201 - first + 1


def noise(number: int) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(number).randbytes(4096)


async def test_commits_wait_for_the_switch_and_none_is_lost(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    await commit(log, 0)
    epochs = [log.epoch, await fall(log, sick, 1)]
    sick.error = None
    clock.advance(10)
    stop = False
    done = 1

    async def keep_committing() -> None:
        nonlocal done
        while not stop:
            await commit(log, done + 1)
            done += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_committing())
        await asyncio.sleep(0.05)
        while log.memory is not None:
            await log.housekeep([])
        await asyncio.sleep(0.05)
        stop = True
    epochs.append(log.epoch)
    found = [number for epoch in epochs for number in await held(log, epoch)]
    assert found == list(range(done + 1))
    assert len(await held(log, epochs[2])) > 1


async def test_a_move_that_breaks_off_anywhere_is_done_again_and_doubles_nothing(
    open_log: OpenLog, sick: Sickness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "PAGE_BYTES", 100)
    honest = media.Writer
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 0)
    before, during = log.epoch, await fall(log, sick, 1)
    for number in range(2, 12):
        await commit(log, number)

    class Weak(honest):  # type: ignore[valid-type, misc]
        def _transact(self, job: typing.Any) -> typing.Any:
            if sick.takes == 0:
                raise io_error()
            sick.takes -= 1
            return super()._transact(job)

    monkeypatch.setattr(media, "Writer", Weak)
    sick.error = None
    attempts = 0
    while log.memory is not None:
        sick.takes = attempts
        attempts += 1
        clock.advance(10)
        await log.housekeep(["cloud"])
        if log.memory is not None:
            sick.takes = -1
            assert log.volatile_because is not None
            await commit(log, 11 + attempts)
    assert attempts > 4
    sick.takes = -1
    await commit(log, 1000)
    await log.close()
    log = open_log()
    assert await held(log, before) == [0]
    assert await held(log, during) == list(range(1, 11 + attempts))
    assert await held(log, log.epoch) == [1000]
    assert todo(log) == {before: [(1, 1)], during: [(1, 10 + attempts)], log.epoch: [(1, OPEN_END)]}


async def test_a_kill_in_the_middle_of_the_move_never_leads_to_a_seq_that_is_used_twice(
    open_log: OpenLog, sick: Sickness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(move, "PAGE_BYTES", 100)
    state = tmp_path / "s"
    state.mkdir()
    log = open_log(state)
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 0)
    before, during = log.epoch, await fall(log, sick, 1)
    for number in range(2, 8):
        await commit(log, number)
    copies: list[Path] = []
    honest = media.Writer

    class Watched(honest):  # type: ignore[valid-type, misc]
        def _transact(self, job: typing.Any) -> typing.Any:
            result = super()._transact(job)
            if state in Path(self._connection.execute("PRAGMA database_list").fetchone()[2]).parents:
                copy = tmp_path / str(len(copies))
                copy.mkdir()
                for file in state.glob("log.*"):
                    shutil.copy(file, copy)
                (copy / "log.witness").unlink()
                copies.append(copy)
            return result

    monkeypatch.setattr(media, "Writer", Watched)
    await come_home(log, sick, clock)
    after = log.epoch
    monkeypatch.undo()
    assert len(copies) > 5
    for copy in copies:
        found = open_log(copy)
        assert found.epoch in (before, after)
        moved = await held(found, during)
        assert moved == list(range(1, len(moved) + 1))
        assert todo(found).get(during, []) == ([(1, len(moved))] if moved else [])
        await commit(found, 99)
        await commit(found, 100)
        assert len([s for s in found.segments() if s.lane is R and s.epoch == found.epoch]) == 1
        await found.close()


# --- when -----------------------------------------------------------------------------------------------------------


async def test_trouble_that_may_pass_is_waited_for(open_log: OpenLog, sick: Sickness, clock: FakeClock) -> None:
    log = open_log()
    sick.infect(log)
    sick.error = io_error("SQLITE_FULL")
    for _ in range(3):
        with pytest.raises(LogFault):
            await commit(log, 1)
        with pytest.raises(LogFault):
            await log.housekeep([])
        assert log.memory is None
        clock.advance(3)
    clock.advance(2)
    await log.housekeep([])
    assert log.memory is not None


async def test_a_commit_that_succeeds_in_the_last_moment_keeps_the_log_where_it_is(
    open_log: OpenLog, sick: Sickness, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    sick.infect(log)
    sick.error = io_error()
    with pytest.raises(LogFault):
        await commit(log, 1)
    sick.error = None
    honest = log._upkeep.rescue

    async def hopeless() -> bool:
        found = await honest()
        last.append(asyncio.ensure_future(commit(log, 1)))
        return found

    last: list[asyncio.Task[None]] = []
    monkeypatch.setattr(log._upkeep, "rescue", hopeless)
    assert not await log.housekeep([])
    monkeypatch.undo()
    assert log.memory is None
    assert await held(log, log.epoch) == [1]


async def test_the_disk_is_asked_more_and_more_seldom_but_every_ten_seconds(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    await fall(log, sick, 1)
    asked: list[float] = []
    honest = log.disk.reopen

    async def reopen(load: typing.Any) -> database.Opened:
        asked.append(clock.mono_ns() / 10**9)
        return await honest(load)

    log.disk.reopen = reopen  # type: ignore[method-assign]
    for _ in range(60):
        clock.advance(1)
        await log.housekeep([])
    pauses = [b - a for a, b in itertools.pairwise(asked)]
    assert pauses[0] <= 2
    assert max(pauses) == 10
    assert len(asked) > 6


async def test_stopping_in_memory_brings_home_what_the_disk_takes(open_log: OpenLog, sick: Sickness) -> None:
    log = open_log()
    during = await fall(log, sick, 1)
    sick.error = None
    await log.close()
    assert await held(open_log(), during) == [1]


async def test_stopping_on_a_disk_that_takes_nothing_ends_all_the_same(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    await commit(log, 1)
    before = log.epoch
    during = await fall(log, sick, 2)
    await log.close()
    sick.error = None
    log = open_log()
    assert (log.epoch, log.new_epoch_because) == (before, "")
    assert await held(log, before) == [1]
    assert await held(log, during) == []


# --- starting -------------------------------------------------------------------------------------------------------


async def test_a_log_starts_on_a_disk_that_may_only_be_read_and_comes_home_when_it_may_be_written(
    open_log: OpenLog, sick: Sickness, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 1, 2)
    await log.close()
    before = log.epoch
    sick.error = io_error("SQLITE_READONLY_DIRECTORY")
    log = open_log()
    assert log.memory is not None
    assert not log.is_durable(log.epoch)
    assert await held(log, before) == [1, 2]
    assert todo(log) == {before: [(1, 2)], log.epoch: [(1, OPEN_END)]}
    await commit(log, 3)
    during = log.epoch
    await come_home(log, sick, clock)
    await commit(log, 4)
    assert [await held(log, epoch) for epoch in (before, during, log.epoch)] == [[1, 2], [3], [4]]


async def test_a_log_that_cannot_even_be_read_at_the_start_is_found_again(
    open_log: OpenLog, sick: Sickness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit(log, 1, 2)
    await log.close()
    before = log.epoch
    sick.error = io_error("SQLITE_IOERR_READ")

    def unreadable(_: Path) -> sqlite3.Connection:
        raise io_error("SQLITE_IOERR_READ")

    with monkeypatch.context() as patch:
        patch.setattr(media, "_connect_at_rest", unreadable)
        log = open_log()
    assert log.epoch > before
    assert log.segments() == []
    log.begin_uplink("cloud", [R], "oldest")
    other = group_of("HH", "m2")
    batch = Batch()
    log.add_round(batch, round_of(other, 7, 0))
    log.add_round(batch, round_of(GROUP, 8, 0))  # the disk knows it under another number
    await log.commit(batch)
    during = log.epoch
    await come_home(log, sick, clock)
    await commit(log, 9)
    for again in (False, True):
        if again:
            await log.close()
            log = open_log()
        assert [await held(log, epoch) for epoch in (before, during, log.epoch)] == [[1, 2], [7, 8], [9]]
        assert todo(log) == {before: [(1, 2)], during: [(1, 2)], log.epoch: [(1, OPEN_END)]}


async def test_a_disk_that_does_not_even_tell_what_is_on_it_is_started_on_and_waited_for(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    await commit(log, 1)
    await log.close()
    before = log.epoch

    def dead(*_: object) -> typing.NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(database, "open_log", dead)
        patch.setattr(os, "statvfs", dead)
        patch.setattr(media, "_connect_at_rest", dead)
        log = open_log()
        await commit(log, 2)
        during = log.epoch
        clock.advance(10)
        assert not await log.housekeep([])
        assert log.volatile_because is not None
        assert log.memory is not None
    clock.advance(10)
    assert await log.housekeep([])
    assert [await held(log, epoch) for epoch in (before, during)] == [[1], [2]]


async def test_a_first_start_on_a_broken_disk_works_and_one_at_a_wrong_place_is_refused(
    open_log: OpenLog, sick: Sickness, tmp_path: Path
) -> None:
    sick.error = io_error("SQLITE_FULL")
    log = open_log(tmp_path)
    await commit(log, 1)
    assert log.memory is not None
    sick.error = io_error("SQLITE_CANTOPEN")
    (tmp_path / "new").mkdir()
    with pytest.raises(LinkProblem, match="disk I/O error"):
        open_log(tmp_path / "new")
    with pytest.raises(LinkProblem, match="No such file"):
        open_log(tmp_path / "nowhere")


async def test_volatile_epochs_differ_even_where_the_clock_was_lost(
    open_log: OpenLog, sick: Sickness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    await log.close()
    sick.error = io_error()
    epochs = set()
    for _ in range(3):
        log = open_log()
        epochs.add(log.epoch)
        await log.close()
    assert len(epochs) == 3
    assert volatile.CLOSE_S < 10, "a service that stops waits for ten seconds"
