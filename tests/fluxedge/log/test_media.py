"""The media of a log: when a disk fails, and when somebody named a wrong place."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from fluxedge.config.structs import LogCfg
from fluxedge.log.ballast import Ballast
from fluxedge.log.media import MEMORY_BYTES, Disk, Memory, fails
from fluxedge.log.retention import limits_of
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.fake_clock import FakeClock
from tests.fluxedge.log.sick_disk import io_error


def because(cause: BaseException | None) -> LinkProblem:
    problem = LinkProblem("log-write-failed", "x")
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_lock_that_the_disk_does_not_take_is_the_disks_failure(tmp_path: Path, number: int) -> None:
    assert fails(tmp_path / "log.db", because(OSError(number, "x")))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EAGAIN])
def test_a_wrong_place_and_a_log_in_use_are_not(tmp_path: Path, number: int) -> None:
    (tmp_path / "log.db").touch()
    assert not fails(tmp_path / "log.db", because(OSError(number, "x")))


def test_trouble_of_sqlite_is_the_disks_failure_where_a_log_was_before_or_its_name_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    assert fails(path, because(io_error("SQLITE_FULL")))
    assert fails(path, because(io_error("SQLITE_IOERR_FSYNC")))
    assert not fails(path, because(io_error("SQLITE_CANTOPEN")))
    assert not fails(path, because(None)), "a newer schema, a file system without WAL"
    path.with_suffix(".witness").touch()
    assert fails(path, because(io_error("SQLITE_CANTOPEN")))
    assert not fails(path, because(None))


async def test_a_disk_that_was_never_opened_cannot_be_looked_at(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "log.db", FakeClock(), Ballast(tmp_path / "log.ballast"))
    with pytest.raises(LinkProblem, match="cannot be read"):
        await disk.look(lambda c: c)
    disk.close()


async def test_memory_has_the_tables_of_a_log_and_is_small() -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO state VALUES ('k', x'01')")

    memory = Memory(limits_of(LogCfg()))
    memory.fill(fill)
    assert await memory.look(lambda c: c.execute("SELECT * FROM state").fetchall()) == [("k", b"\x01")]
    assert memory.limits.backlog_bytes == MEMORY_BYTES
    assert memory.limits.keep_ms == limits_of(LogCfg()).keep_ms
    memory.close()
