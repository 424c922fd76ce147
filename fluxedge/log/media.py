"""What a log is written to: the database on the disk, or one in memory while the disk takes nothing.

    Disk     log.db: one writing connection (writer thread), one that reads beside it (reader thread)
    Memory   the same tables, bounded; one connection and one thread for both

Both run jobs: functions that get a connection. A Disk that cannot be written may still be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import os
import sqlite3
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fluxedge.clock import Clock, boot_id
from fluxedge.log import damage, database, migrations, retention, segments
from fluxedge.log.ballast import Ballast
from fluxedge.log.database import Opened
from fluxedge.log.retention import Limits
from fluxedge.log.writer import Writer
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

T = typing.TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
Load = Callable[[Opened], None]

NO_ROOM_BYTES = 1 << 20  # below this SQLite may fail in more ways than SQLITE_FULL
MEMORY_BYTES = 32 << 20
_MEMORY_SEGMENT_BYTES = 2 << 20
_DISK_ERRNOS = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENODEV, errno.ENXIO)
_DISK_NAMES = ("SQLITE_FULL", "SQLITE_IOERR")


class Disk:
    """log.db with its lock, its connections and their threads."""

    def __init__(self, path: Path, clock: Clock, ballast: Ballast) -> None:
        self.path = path
        self.witness_path = path.with_suffix(".witness")
        self.ballast = ballast
        self.writer: Writer | None = None  # None while it cannot be written
        self.set_aside: LinkProblem | None = None  # what was found damaged, and where it is now; until it is taken
        self.broken: LinkProblem | None = None  # why it must be set aside before it is opened again
        self._clock = clock
        self._lock: typing.BinaryIO | None = None
        self._reading: sqlite3.Connection | None = None
        self._inode = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="log-reader")
        migrations.statements()  # read while there is a disk: the memory is made of them

    # --- opening and closing: blocking; at the start on the loop's thread, afterwards on the reader's ----------------

    def open(self, load: Load) -> Opened:
        """Open the log for writing; set it aside and begin a new one where it is damaged.

        `load` reads what it holds; what that raises is damage, too. On a full disk the ballast is given up for it.

        Raises:
            LinkProblem: it cannot be opened, or another process has it open.
        """
        # Before anything else: where a block is smaller than a page, touching the WAL's index ends in SIGBUS.
        if retention.free_bytes(self.path.parent) < NO_ROOM_BYTES:
            self.ballast.give_up()
        return self._open(load)

    def _open(self, load: Load) -> Opened:
        had_lock = self._lock is not None
        try:
            self._take_lock()
            try:
                opened = self._begin(load)
            except LinkProblem as problem:
                if problem.code not in ("log-damaged", "log-replaced"):
                    raise
                self._move_away(problem)
                opened = self._begin(load)
        except LinkProblem:
            if not had_lock:
                self._unlock()
            raise
        if self.set_aside is not None:
            opened.new_epoch_because = ""
        return opened

    def _take_lock(self) -> None:
        """Lock the log; anew where the lock file was removed, because then it keeps nobody away any more."""
        path = self.path.with_suffix(".lock")
        if self._lock is not None and _inode(path) not in (None, os.fstat(self._lock.fileno()).st_ino):
            self._unlock()
        if self._lock is None:
            self._lock = database.lock(path)

    def _begin(self, load: Load) -> Opened:
        if self.broken is not None:
            raise self.broken
        try:
            if damage.marked(self.path):
                raise LinkProblem("log-damaged", f"{self.path}: a commit found it damaged")
            opened = database.open_log(self.path, self.witness_path, self._clock)
        except OSError as exc:  # of a disk that does not even tell what is on it
            raise LinkProblem("log-write-failed", f"{self.path}: {exc.strerror}") from exc
        try:
            load(opened)
            reading = database.connect_reading(self.path)
        except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as exc:
            opened.connection.close()
            raise database.problem_of(self.path, exc) from exc
        self._close_reading()
        self._reading = reading
        self._inode = database.inode(self.path)
        self.writer = Writer(opened.connection)
        return opened

    def _move_away(self, problem: LinkProblem) -> None:
        self._close_reading()
        moved = damage.set_aside(self.path, self._clock.wall_ns() / 10**9, problem)
        self.broken, self._inode = None, 0
        self.set_aside = LinkProblem(problem.code, moved.message, moved.hint)

    def take_set_aside(self) -> LinkProblem | None:
        """Return what was set aside since this was asked last: once the log goes on in its place, it is told."""
        found, self.set_aside = self.set_aside, None
        return found

    def open_reading(self, load: Load) -> None:
        """Read a log that cannot be written, as far as that goes; without one there is nothing to read."""
        with contextlib.suppress(LinkProblem, OSError):
            if self._lock is None:
                self._lock = _shared_lock(self.path.with_suffix(".lock"))
        with contextlib.suppress(LinkProblem, sqlite3.Error, OSError, ValueError, TypeError, OverflowError):
            connection = _connect_at_rest(self.path)
            with contextlib.ExitStack() as undo:
                undo.callback(connection.close)
                load(_as_it_lies(connection))
                undo.pop_all()
            self._reading = connection

    async def reopen(self, load: Load) -> Opened:
        """Try to write the log again, after it could not be written.

        Raises:
            LinkProblem: it still cannot; it can be read as far as before.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._reopen, load)

    def _reopen(self, load: Load) -> Opened:
        self._stop_writing()
        self.look_for_file()
        return self.open(load)

    def _stop_writing(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Close threads and files, the lock last (blocking)."""
        self._reader.shutdown()
        self._close_reading()
        self._stop_writing()

    def release(self) -> None:
        """Let another process have the log."""
        self._unlock()

    async def look_beside(self, job: Callable[[], T]) -> T:
        """Run what may block on the disk on the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, job)

    # --- use ---------------------------------------------------------------------------------------------------------

    def look_for_file(self) -> None:
        """Note that log.db is not the file any more that is written, if so (blocking)."""
        found = _inode(self.path)
        if self._inode and self.broken is None and found not in (None, self._inode):
            what = "replaced" if found else "removed"
            self.broken = LinkProblem("log-replaced", f"{self.path} was {what} while it was in use")

    async def look(self, job: Job[T]) -> T:
        """Run a reading job beside commits."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._look, job)

    def _look(self, job: Job[T]) -> T:
        if self._reading is None:
            raise LinkProblem("log-damaged", f"{self.path} cannot be read", "Look after the disk's health.")
        return job(self._reading)


class Memory:
    """A log in memory. Its jobs run in their order on one thread."""

    def __init__(self, limits: Limits) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in migrations.statements():
            self._connection.execute(statement)
        self.writer = Writer(self._connection, "log-memory")
        self.limits = dataclasses.replace(
            limits, backlog_bytes=MEMORY_BYTES, rotate_bytes=_MEMORY_SEGMENT_BYTES, free_space_bytes=0
        )
        self.used_bytes = 0  # as of the last housekeeping

    def fill(self, job: Job[None]) -> None:
        """Run a job on this thread; only before the first one of the writer's."""
        job(self._connection)

    async def look(self, job: Job[T]) -> T:
        """Run a reading job between commits."""
        return await self.writer.run(job)

    def close(self) -> None:
        """Let go of everything (blocking)."""
        self.writer.close()


def fails(path: Path, problem: LinkProblem) -> bool:
    """Tell whether a log could not be opened because its disk fails, and not because somebody named a wrong place.

    A disk that is full, read-only or broken is that. So is any trouble of SQLite with a log that was there before.
    """
    cause = problem.__cause__
    if isinstance(cause, OSError):
        return cause.errno in _DISK_ERRNOS
    if not isinstance(cause, sqlite3.Error):
        return False  # locked, a newer schema, a file system that cannot do WAL
    if getattr(cause, "sqlite_errorname", "").startswith(_DISK_NAMES):
        return True
    try:
        read_only = bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
        return read_only or path.exists() or path.with_suffix(".witness").exists()
    except OSError:
        return True


def _shared_lock(path: Path) -> typing.BinaryIO:
    """Lock a log whose lock file cannot be opened for writing."""
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _connect_at_rest(path: Path) -> sqlite3.Connection:
    """Open a log for reading; where its folder cannot be written and nobody has it open, as it lies there."""
    in_use = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm"))
    if in_use or os.access(path.parent, os.W_OK):
        return database.connect_reading(path)
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _as_it_lies(connection: sqlite3.Connection) -> Opened:
    """Return what a log is that may only be read; nothing of it is brought up to date."""
    meta = dict(connection.execute("SELECT k, v FROM meta"))
    if meta.get("schema") != migrations.SCHEMA:
        raise ValueError(f"schema {meta.get('schema')}")
    found = segments.load(connection)
    epoch, boot = int(meta["epoch"]), int(meta["boot"]) + (meta.get("boot_id") != boot_id())
    heads = {
        lane: max((s.last for s in found if s.lane is lane and s.epoch == epoch), default=0) for lane in Lane
    }  # fmt: skip
    return Opened(connection, epoch, boot, found, heads, "", [])


def _inode(path: Path) -> int | None:
    """Return which file a log is, 0 when there is none; None when it cannot be told."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
    except OSError:
        return None
