"""The ballast, and what it is for: a real file system that gets full, is drained, and gets full again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import subprocess
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault
from fluxedge.log.ballast import BALLAST_BYTES, Ballast
from fluxedge.model import Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of, round_of

MiB = 1 << 20
RNG = random.Random(3)
GROUP = group_of("y")


def test_the_ballast_is_made_where_there_is_room_and_really_takes_it(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "log.ballast")
    ballast.keep(100 * MiB, 90 * MiB)
    assert ballast.held_bytes == 0, "above the floor only"
    ballast.keep(100 * MiB, 10 * MiB)
    assert ballast.held_bytes >= BALLAST_BYTES
    made = (tmp_path / "log.ballast").stat()
    assert made.st_size == BALLAST_BYTES
    ballast.keep(100 * MiB, 10 * MiB)
    assert (tmp_path / "log.ballast").stat().st_mtime_ns == made.st_mtime_ns
    assert ballast.give_up()
    assert not ballast.give_up()
    assert ballast.held_bytes == 0


def test_where_nothing_can_be_reserved_zeros_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    ballast = Ballast(tmp_path / "log.ballast")
    ballast.keep(100 * MiB, 0)
    assert ballast.held_bytes >= BALLAST_BYTES


def test_a_ballast_that_could_not_be_made_whole_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, *_: int) -> None:
        os.pwrite(fd, bytes(MiB), 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    ballast = Ballast(tmp_path / "log.ballast")
    ballast.keep(100 * MiB, 0)
    assert not (tmp_path / "log.ballast").exists()


def test_a_sparse_or_short_file_is_no_ballast(tmp_path: Path) -> None:
    path = tmp_path / "log.ballast"
    with path.open("wb") as file:
        file.truncate(BALLAST_BYTES)
    ballast = Ballast(path)
    assert ballast.held_bytes == 0
    ballast.keep(100 * MiB, 0)
    assert ballast.held_bytes >= BALLAST_BYTES


# --- a real disk ----------------------------------------------------------------------------------------------------


class SmallDisk:
    """An ext4 of 48 MiB."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._filler = self.path / "filler"
        image = folder / "image"
        self.path.mkdir()
        with image.open("wb") as file:
            file.truncate(48 * MiB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.path], check=True)

    def fill(self) -> None:
        """Let somebody take every byte."""
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (MiB, 4096, 512):
                with contextlib.suppress(OSError):
                    while os.write(fd, bytes(size)):
                        pass
            os.fsync(fd)
        finally:
            os.close(fd)

    def drain(self) -> None:
        self._filler.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("durability: mounting needs root")
    try:
        made = SmallDisk(tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("durability: this machine has no loop devices")
    yield made
    made.close()


async def commit(log: Log, size: int = 16 << 10) -> bool:
    """Commit one round; tell whether it is durable."""
    batch = Batch()
    log.add_round(batch, round_of(GROUP, RNG.randbytes(size)))
    try:
        await log.commit(batch)
    except LogFault:
        return False
    return True


async def housekeep(log: Log) -> None:
    try:
        while await log.housekeep(["cloud"]):
            pass
    except LogFault:
        pass  # as long as nothing helps


async def fill_log(log: Log, rounds: int) -> int:
    """Commit rounds and keep house, as the pipeline does; return how many commits failed."""
    failed = 0
    for _ in range(rounds):
        while not await commit(log):
            failed += 1
            assert failed < 20
            await housekeep(log)
        if log.rotated:
            await housekeep(log)
    return failed


def settled(log: Log) -> bool:
    """Tell whether every committed round is owed or in a gap: nothing was delivered."""
    owed = sum(ranges.count_upto(log.heads[Lane.ROUNDS]) for _, ranges in log.cursors.of("cloud", Lane.ROUNDS))
    return owed + sum(gap.hi - gap.lo + 1 for gap in log.unannounced) == log.heads[Lane.ROUNDS]


LIMITS: dict[str, typing.Any] = {"free_space_bytes": 4 * MiB, "segment_bytes": 256 << 10}


async def test_a_full_disk_costs_no_committed_record_and_is_a_state_one_leaves(
    open_log: OpenLog, disk: SmallDisk
) -> None:
    log = open_log(disk.path, **LIMITS)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    await fill_log(log, 100)
    await housekeep(log)
    assert log.ballast.held_bytes >= BALLAST_BYTES
    for _ in range(2):
        disk.fill()
        assert await fill_log(log, 700) > 0, "that was no full disk"
        assert log.ballast.held_bytes == 0
        assert log.memory is None, "the file goes on in its own pages"
        log.cursors.begin("other", Lane.EVENTS, log.epoch, 1)
        await log.save_cursors()
        assert log.disk_low
        assert log.unannounced
        assert settled(log)
        disk.drain()
        await housekeep(log)
        assert log.ballast.held_bytes >= BALLAST_BYTES
        assert await fill_log(log, 200) == 0
        assert not log.disk_low
    head = log.heads[Lane.ROUNDS]
    assert head == 100 + 2 * 900
    await log.close()
    log = open_log(disk.path, **LIMITS)
    assert log.heads[Lane.ROUNDS] == head
    assert settled(log)


async def test_a_disk_that_others_fill_even_then_sends_the_log_to_memory_until_there_is_room(
    open_log: OpenLog, disk: SmallDisk, clock: FakeClock
) -> None:
    log = open_log(disk.path, **LIMITS)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    await fill_log(log, 20)
    await housekeep(log)
    before = log.epoch
    disk.fill()
    while await commit(log):
        pass
    log.ballast.give_up()
    disk.fill()
    for _ in range(13):
        if await commit(log):
            break
        await housekeep(log)
        disk.fill()
        clock.advance(1)
    assert log.memory is not None
    during, head = log.epoch, log.last_of(before, Lane.ROUNDS)
    assert await fill_log(log, 100) == 0
    clock.advance(11)
    await housekeep(log)
    assert log.memory is not None, "there is no room yet"
    disk.drain()
    clock.advance(11)
    await housekeep(log)
    assert log.memory is None
    assert await fill_log(log, 10) == 0
    await log.close()
    log = open_log(disk.path, **LIMITS)
    assert (log.last_of(before, Lane.ROUNDS), log.damaged) == (head, None)
    assert log.last_of(during, Lane.ROUNDS) >= 100
    assert log.heads[Lane.ROUNDS] == 10
    assert log.unannounced == []


CHILD = """
import asyncio, os, sys
from pathlib import Path
from fluxedge.clock import SystemClock
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log, LogFault
from fluxedge.model import Group, Point

async def main():
    state = Path(sys.argv[1])
    log = Log(state, LogCfg(free_space_bytes=Bytes(4 << 20)), SystemClock())
    group = Group("m", "g", (Point("p", "y"),))
    while await log.housekeep([]):
        pass
    filler = os.open(state / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 4096, 512):
        try:
            while True:
                os.write(filler, bytes(size))
        except OSError:
            pass
    while True:
        batch = Batch()
        log.add_round(batch, group.round((os.urandom(4000),), 1, 1))
        try:
            await log.commit(batch)
        except LogFault:
            print(log.heads[0], flush=True)
            os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_gateway_that_was_killed_on_a_full_disk_starts_on_it(open_log: OpenLog, disk: SmallDisk) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(disk.path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == -9, done.stderr
    log = open_log(disk.path, **LIMITS)
    assert log.heads[Lane.ROUNDS] == int(done.stdout)
    assert log.memory is None
    assert log.ballast.held_bytes == 0
    assert await commit(log)


async def test_a_disk_that_may_only_be_read_is_started_on_in_memory(open_log: OpenLog, disk: SmallDisk) -> None:
    log = open_log(disk.path, **LIMITS)
    log.begin_uplink("cloud", [Lane.ROUNDS], "oldest")
    assert await commit(log)
    before = log.epoch
    await log.close()
    disk.remount("ro")
    log = open_log(disk.path, **LIMITS)
    assert log.memory is not None
    assert log.last_of(before, Lane.ROUNDS) == 1
    rows = await log.read(before, Lane.ROUNDS, 1, 1, lambda rows, _: rows)
    assert [row.seq for row in rows] == [1]
    assert await commit(log)
    during = log.epoch
    disk.remount("rw")
    await log.close()
    log = open_log(disk.path, **LIMITS)
    assert (log.last_of(before, Lane.ROUNDS), log.last_of(during, Lane.ROUNDS)) == (1, 1)
