"""Troubles that come together: damage that later commits hide, a state folder that is gone, no files to be had."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import typing
from pathlib import Path

import pytest

from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log, LogFault, damage, database, media, migrations, move
from fluxedge.log.salvage.salvage import pending
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of, round_of
from tests.fluxedge.log.sick_disk import Sickness, io_error

R = Lane.ROUNDS
GROUP = group_of("H")


async def commit(log: Log, number: int = 1, **more: typing.Any) -> None:
    batch = Batch(**more)
    log.add_round(batch, round_of(GROUP, number))
    await log.commit(batch)


def no_files(*_: object, **__: object) -> typing.Any:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_damage_that_a_job_met_is_set_aside_though_commits_succeed_behind_it(open_log: OpenLog) -> None:
    log = open_log()
    await commit(log)

    def corrupt(_: sqlite3.Connection) -> None:
        raise io_error("SQLITE_CORRUPT_INDEX")

    with pytest.raises(LogFault):
        await log.write(corrupt)
    await commit(log)
    await log.housekeep([])
    assert log.damaged is not None
    assert "log.damaged-" in log.damaged.message


async def test_commands_that_cannot_be_read_are_told_and_the_log_is_set_aside(open_log: OpenLog) -> None:
    log = open_log()
    await commit(log, intents=[("k", 1, b"{}")])

    async def corrupt(_: object) -> typing.Any:
        raise io_error("SQLITE_CORRUPT")

    log.disk.look, honest = corrupt, log.disk.look  # type: ignore[method-assign,assignment]
    with pytest.raises(LinkProblem):
        await log.unanswered_commands("", 10)
    log.disk.look = honest  # type: ignore[method-assign]
    await commit(log)
    await log.housekeep([])
    assert log.damaged is not None
    assert len(pending(log.path.parent)) == 1


async def test_the_log_goes_to_memory_without_opening_a_file(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Sickness(monkeypatch)
    log = open_log()
    await commit(log)
    sick.infect(log)
    sick.error = io_error()
    with pytest.raises(LogFault):
        await commit(log)
    monkeypatch.setattr(Path, "open", no_files)
    monkeypatch.setattr(Path, "read_text", no_files)
    monkeypatch.setattr(migrations.resources, "files", no_files)
    await log.housekeep([])
    assert log.memory is not None
    await commit(log)
    monkeypatch.undo()


async def test_what_housekeeping_cannot_open_is_a_fault_and_tried_again(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    sick = Sickness(monkeypatch)
    log = open_log()
    await commit(log)
    sick.infect(log)
    sick.error = io_error()
    with pytest.raises(LogFault):
        await commit(log)
    with monkeypatch.context() as patch:
        patch.setattr(media.Memory, "__init__", no_files)
        with pytest.raises(LogFault, match="Too many open files"):
            await log.housekeep([])
        assert (log.memory, log.gate) == (None, None)
    await log.housekeep([])
    assert log.memory is not None
    sick.error = None
    with monkeypatch.context() as patch:
        patch.setattr(database, "open_log", no_files)
        clock.advance(10)
        assert not await log.housekeep([])
    with monkeypatch.context() as patch:  # a reading of the folder that is not the log's
        patch.setattr(log.disk, "_reopen", no_files)
        clock.advance(20)
        assert not await log.housekeep([])
        assert log.volatile_because is not None
        assert "Too many open files" in log.volatile_because.message
    clock.advance(20)
    await log.housekeep([])
    assert log.memory is None


async def test_a_folder_that_cannot_be_listed_does_not_keep_a_damaged_log_from_being_set_aside(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    await commit(log)
    await log.close()
    damage.mark(log.path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", no_files)
        log = open_log()
    assert log.damaged is not None
    await commit(log)


def test_folders_that_were_salvaged_go_before_those_that_were_not(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "log.db").write_bytes(b"x")
        damage.set_aside(tmp_path / "log.db", 3e9 + number, LinkProblem("log-damaged", "x"))
        if number in (1, 2, 3):
            (sorted(tmp_path.glob("log.damaged-*"))[-1] / "salvaged.json").write_text("{}")
    kept = sorted(folder.name[-3:-1] for folder in tmp_path.glob("log.damaged-*"))
    assert len(kept) == damage.KEPT
    assert [(folder / "salvaged.json").exists() for folder in tmp_path.glob("log.damaged-*")] == [False] * 3


async def test_a_log_that_was_set_aside_is_told_by_the_attempt_that_succeeds_at_last(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("up", [R], "oldest")
    await commit(log)
    epoch = log.epoch
    log.disk.broken = LinkProblem("log-damaged", "a page is garbage")
    honest = database.open_log

    def full(*_: object) -> typing.Any:
        raise LinkProblem("log-write-failed", "full") from io_error("SQLITE_FULL")

    monkeypatch.setattr(database, "open_log", full)
    await log.housekeep(["up"])
    assert log.memory is not None
    assert len(pending(log.path.parent)) == 1
    monkeypatch.setattr(database, "open_log", honest)
    with monkeypatch.context() as patch:
        patch.setattr(move.Move, "prepare", no_files)
        clock.advance(10)
        assert not await log.housekeep(["up"])
    clock.advance(10)
    await log.housekeep(["up"])
    assert log.memory is None
    assert log.damaged is not None
    assert "a page is garbage" in log.damaged.message
    owed = {e: list(ranges) for e, ranges in log.cursors.of("up", R) if ranges}
    assert epoch not in owed, "what was owed of the old log is the salvage's business"
    assert list(log.laid_aside["up", epoch, R]) == [(1, 1)]


async def test_a_log_whose_folder_was_removed_never_touches_the_one_that_another_gateway_made_there(
    open_log: OpenLog, tmp_path: Path, clock: FakeClock
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    first = open_log(state)
    await commit(first)
    shutil.rmtree(state)
    state.mkdir()
    second = Log(state, LogCfg(), clock)
    try:
        await commit(second)
        inode = os.stat(second.path).st_ino
        for _ in range(3):
            clock.advance(20)
            await first.housekeep([])
            await commit(first)
        assert first.memory is not None
        assert first.volatile_because is not None
        assert "another fluxedge" in first.volatile_because.message
        await second.housekeep([])
        await commit(second)
        assert (os.stat(second.path).st_ino, second.disk.broken, second.memory) == (inode, None, None)
    finally:
        await second.close()


async def test_what_is_committed_while_the_log_leaves_a_file_that_was_removed_goes_along(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    await commit(log)
    await log.unanswered_commands("", 10)  # the reader has the file open
    log.path.unlink()
    honest = log.disk.look
    late: list[asyncio.Task[None]] = []

    async def look(job: typing.Any) -> typing.Any:
        found = await honest(job)
        if not late:
            late.append(asyncio.ensure_future(commit(log, 2, intents=[("late", 1, b"{}")])))
            await asyncio.sleep(0.2)
        return found

    monkeypatch.setattr(log.disk, "look", look)
    await log.housekeep([])
    await late[0]
    while log.memory is not None:
        await log.housekeep([])
    assert [key for key, _ in await log.unanswered_commands("", 10)] == ["late"]


async def test_garbage_in_a_log_that_could_not_be_read_at_the_start_is_set_aside_when_it_can(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    log = open_log()
    log.begin_uplink("up", [R], "oldest")
    await commit(log)
    await log.write(lambda c: c.execute("INSERT INTO todo VALUES ('up', 5, 7, 1, 2)"))  # there is no lane 7
    await log.close()
    sick = Sickness(monkeypatch)
    sick.error = io_error()
    with monkeypatch.context() as patch:
        patch.setattr(media, "_connect_at_rest", no_files)
        log = open_log()
    assert log.memory is not None
    sick.error = None
    for _ in range(2):
        clock.advance(20)
        await log.housekeep(["up"])
    assert log.memory is None
    assert log.damaged is not None
    await commit(log)
    assert list(dict(log.cursors.of("up", R)).get(log.epoch, ())) in ([], [(1, OPEN_END)])


def test_a_problem_while_a_log_is_opened_keeps_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> str:
        raise LinkProblem("log-write-failed", "x") from cause

    monkeypatch.setattr(migrations, "bring_up", fail)
    with pytest.raises(LinkProblem) as caught:
        database.open_log(tmp_path / "log.db", tmp_path / "log.witness", FakeClock())
    assert caught.value.__cause__ is cause
    assert media.fails(tmp_path / "log.db", caught.value)


async def test_a_failure_that_passed_does_not_keep_housekeeping_in_a_hurry(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Sickness(monkeypatch)
    log = open_log()
    sick.infect(log)
    sick.error = io_error("SQLITE_FULL")
    with pytest.raises(LogFault):
        await commit(log)
    with pytest.raises(LogFault):
        await log.housekeep([])  # it is waited for
    assert log.volatile_because is not None
    sick.error = None
    await commit(log)
    await log.housekeep([])
    assert (log.memory, log.volatile_because) == (None, None)
