"""Trouble that passes costs no record and counts as no try: no files to be had, sectors that cannot be read."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import typing
from pathlib import Path

import pytest

from fluxedge.log import LogFault, wal
from fluxedge.log.salvage import copying, leaves, salvage, takeover
from fluxedge.log.salvage.salvage import pending
from fluxedge.log.salvage.wreck import Wreck
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import group_of
from tests.fluxedge.log.salvage.test_leaves import made, rows_of
from tests.fluxedge.log.salvage.test_salvage import EVENTS, ROUNDS, Run, everything, fill, spoil, todo

PAGE = 1024


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    monkeypatch.setattr(salvage, "LOOK_S", 0.02)


def no_files(*_: object, **__: object) -> typing.Any:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_without_files_the_gateway_starts_and_salvages_later(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    run = Run(log)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", no_files)
        await run.salvage.begin()
        assert pending(tmp_path) == []
    with monkeypatch.context() as patch:
        patch.setattr(salvage, "Wreck", no_files)
        await run.salvage.begin()
        for _ in range(2 * salvage.TRIES + 1):
            await run.salvage._try(pending(tmp_path)[0])
    assert "cannot be salvaged now" in run.said[0].message
    run.said.clear()
    report = await run.to_the_end()
    assert not report["gave_up"], "what passes is no try"
    assert await everything(log) == before


async def test_commands_that_cannot_be_read_now_do_not_keep_the_gateway_from_starting(
    open_log: OpenLog, tmp_path: Path
) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    run = Run(log)

    async def unreadable() -> None:
        raise LinkProblem("log-damaged", "x")

    run.salvage._recover = unreadable
    await run.salvage.begin()
    assert await log.unanswered_commands("", 10) == [("open", b"{}")]


async def test_an_uplink_of_the_damaged_log_is_known_also_after_a_kill_in_the_beginning(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    small = salvage._small(pending(tmp_path)[0])
    await log.write(lambda c: takeover.write_small(c, pending(tmp_path)[0].name, small, log.boot))  # and killed
    await log.close()
    log = open_log()
    run = Run(log)
    await run.salvage.begin()
    assert run.recovered == 1
    log.begin_uplink("up", [Lane.ROUNDS], "newest")
    assert todo(log)[(log.epoch, Lane.ROUNDS)] == [(1, OPEN_END)], "it is no new one"


async def test_pages_that_the_disk_does_not_give_cost_what_is_in_them_only(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    (folder / "salvage.tries").write_text(str(salvage.TRIES))  # by hand
    sick_pread(monkeypatch, lambda page: page % 9 == 8)
    report = await Run(log).to_the_end()
    assert not report["gave_up"]
    assert (ROUNDS + EVENTS) / 3 < report["rounds"] + report["events"] < ROUNDS + EVENTS


def sick_pread(monkeypatch: pytest.MonkeyPatch, is_bad: typing.Callable[[int], bool]) -> None:
    """Let some pages of every file be unreadable, as Linux does: a read ends before them, or fails at them."""
    honest = os.pread

    def pread(file: int, size: int, at: int) -> bytes:
        bad = next((p for p in range(at // PAGE, (at + size - 1) // PAGE + 1) if is_bad(p)), None)
        if bad is None:
            return honest(file, size, at)
        if bad * PAGE <= at:
            raise OSError(errno.EIO, "Input/output error")
        return honest(file, bad * PAGE - at, at)

    monkeypatch.setattr(leaves.os, "pread", pread)


def test_rows_behind_an_unreadable_page_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    connection = made(path)
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [(i, i, "x" * 50, None) for i in range(500)])
    connection.close()  # folds the WAL in
    whole = rows_of(path)
    sick_pread(monkeypatch, lambda page: page in (0, 7))
    found = rows_of(path)
    assert found < whole
    assert len(found) > len(whole) - 40
    assert max(found) == max(whole)


def test_frames_behind_an_unreadable_part_of_the_wal_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    connection = made(path)
    for i in range(50):
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (i, i, "x" * 500, None))
    whole = wal.frames(path, PAGE)
    honest = os.pread

    def pread(file: int, size: int, at: int) -> bytes:
        if at == 32 + 10 * (24 + PAGE):
            raise OSError(errno.EIO, "Input/output error")
        return honest(file, size, at)

    monkeypatch.setattr(wal.os, "pread", pread)
    found = wal.frames(path, PAGE)
    assert len(found) >= len(whole) - 2
    connection.close()


async def test_a_group_with_two_numbers_keeps_both_when_a_row_of_it_is_salvaged(open_log: OpenLog) -> None:
    log = open_log()
    group = group_of("H")

    def there(connection: typing.Any) -> list[int]:
        connection.execute("INSERT INTO groups VALUES (1, ?, ?)", (group.key, group.to_bytes()))
        connection.execute("INSERT INTO groups VALUES (9, ?, ?)", (group.key + b"9", group.to_bytes()))
        target = Segment(Lane.ROUNDS, SALVAGED + 1, 5, 1, 0, 0)
        takeover.write_rows(connection, target, [], [(9, group)])
        return [number for (number,) in connection.execute("SELECT id FROM groups ORDER BY id")]

    assert await log.write(there) == [1, 9]


async def test_a_folder_that_vanishes_is_no_defect(open_log: OpenLog, tmp_path: Path) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    run = Run(log)

    async def remove(*_: object) -> None:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    honest = run.salvage._begin
    run.salvage._begin = remove  # type: ignore[method-assign]
    await run.salvage._try(folder)
    run.salvage._begin = honest  # type: ignore[method-assign]
    assert pending(tmp_path) == []


@pytest.mark.parametrize("spare", [0, 1, 2])
async def test_a_log_that_cannot_be_opened_now_is_not_taken_for_an_empty_one(
    open_log: OpenLog, tmp_path: Path, spare: int
) -> None:
    _, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    await log.unanswered_commands("", 10)
    run = Run(log)
    (folder,) = pending(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(spare):
            os.close(taken.pop())
        with pytest.raises(OSError, match="Too many open files"):
            Wreck(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)
    await run.salvage.begin()
    assert await log.unanswered_commands("", 10) == [("open", b"{}")]
    await run.to_the_end()
    assert await everything(log) == before


async def test_what_a_disk_does_not_give_for_a_while_is_not_called_lost(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    run = Run(log)
    (folder,) = pending(tmp_path)
    sick = True
    honest, write = Wreck.rows, log.write

    def rows(self: Wreck, segment: Segment, after: int, *more: typing.Any, **options: typing.Any) -> typing.Any:
        return ([], after, False) if sick else honest(self, segment, after, *more, **options)

    async def fault_once(job: typing.Any) -> typing.Any:
        monkeypatch.setattr(log, "write", write)
        raise LogFault("log-write-failed", "disk I/O error")

    monkeypatch.setattr(Wreck, "rows", rows)
    monkeypatch.setattr(Wreck, "scan", lambda *_: iter(()))
    monkeypatch.setattr(salvage, "AGAIN_S", 0)
    monkeypatch.setattr(copying.Job, "_use_groups", lambda job: monkeypatch.setattr(log, "write", fault_once))
    monkeypatch.setattr(copying.Job, "_copy_quarantine", lambda job: job._write(lambda c: None))
    await run.salvage._try(folder)
    assert "the disk failed while it was read" in run.said[0].message
    assert (log.unannounced, pending(tmp_path)) == ([], [folder])
    monkeypatch.undo()
    sick = False
    run.said.clear()
    report = await run.to_the_end()
    assert report["lost"] == 0
    assert await everything(log) == before
    assert epoch != log.epoch
