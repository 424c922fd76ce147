"""Making a backup: configuration, what the state directory must keep, the log and the history, into one archive.

A gateway may run meanwhile. The log is copied first and the history after it: what the log believes to be in history
files is in the files that are copied then. A history file that changed while it was copied is copied once more; one
that a crash left with a rollback journal is rolled back in the copy.

What the compactor knows of the files (history/seam.py) goes before them, as `open`: whoever restores it takes away what
came into a file later, and copies it from the log. So no round is in the history twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fluxedge import __version__
from fluxedge.clock import machine_id
from fluxedge.log.backup.archive import FORMAT, Archive, BackupProblem, Manifest, usual
from fluxedge.log.backup.snapshot import Snapshot, snapshot
from fluxedge.log.history import days, seam

STATE_NAMES = ("gateway-id", "last-good", "site")
CREDENTIALS = "credentials"
ASIDE = "before-restore-"  # folders that a restore left: what was there before
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.db")
SEAM = f"history/{seam.NAME}"
MOST_FILE_BYTES = 64 << 20  # of a configuration file; a larger one is none
TRIES = 60  # a history file changes once an hour, for seconds
AGAIN_S = 1.0
_CHANGES = slice(24, 28)  # of an SQLite file: counts the transactions that changed it

Progress = Callable[[str, int, int], object]  # what is being saved, bytes done, bytes in all (0 = not known)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What goes into a backup."""

    config_dir: Path
    state_dir: Path
    log: bool = True
    history: bool = True
    credentials: bool = False


def save(
    file: typing.BinaryIO, wanted: Wanted, room: Path, made_us: int, progress: Progress = lambda *_: None
) -> Manifest:
    """Write a backup to a file; `room` may be written to.

    Raises:
        BackupProblem: something of it cannot be read.
        LinkProblem: "log-damaged": the log cannot be read.
        OSError: the backup cannot be written.
    """
    archive = Archive(file)
    left_out: list[str] = []
    own = (os.fstat(file.fileno()).st_dev, os.fstat(file.fileno()).st_ino)
    skipped = () if wanted.credentials else (CREDENTIALS,)
    for path, name in _files(wanted.config_dir, "config", left_out, skipped):
        _add(archive, path, name, own, left_out)
    for entry in STATE_NAMES:
        path = wanted.state_dir / entry
        if path.is_dir():
            for inner, name in _files(path, f"state/{entry}", left_out):
                _add(archive, inner, name, own, left_out)
        elif path.exists():
            _add(archive, path, f"state/{entry}", own, left_out)
    meta, schema, epoch, heads = {}, 0, 0, {}
    if wanted.log:
        with snapshot(_log_of(wanted.state_dir), room) as found:
            _save_log(archive, found, wanted.history, progress)
            meta, schema, epoch = found.meta, found.schema, found.epoch
            heads = {lane.label: head for lane, head in found.heads.items()}
    if wanted.history:
        _save_history(archive, wanted.state_dir / "history", room, progress)
    manifest = Manifest(
        format=FORMAT, fluxedge=__version__, made_us=made_us, gateway=_gateway(meta, wanted.state_dir),
        machine=machine_id(), schema=schema, epoch=epoch, heads=heads, log=wanted.log, history=wanted.history,
        credentials=wanted.credentials, left_out=left_out, parts=list(archive.parts.values()),
    )  # fmt: skip
    archive.finish(manifest)
    return manifest


def _gateway(meta: dict[str, typing.Any], state_dir: Path) -> str:
    """Return the gateway's id, as its log or its state directory knows it; empty where they do not."""
    if isinstance(meta.get("gateway_id"), str):
        return str(meta["gateway_id"])
    try:
        return (state_dir / "gateway-id").read_bytes()[:80].decode("ascii", "replace").strip()
    except OSError:
        return ""


def _log_of(state_dir: Path) -> Path:
    path = state_dir / "log.db"
    if not path.is_file():
        hint = "Name the state directory with --state, or leave the log out with --no-log."
        raise BackupProblem(f"there is no log at {path}", hint)
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def _files(folder: Path, prefix: str, left_out: list[str], skipped: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder with their names; links to folders are left out, and said."""

    def fail(exc: OSError) -> None:
        raise BackupProblem(f"{exc.filename} cannot be read: {exc.strerror}", "Run it as root or with sudo.") from exc

    for where, folders, names in os.walk(folder, onerror=fail):
        here = Path(where)
        top = here == folder
        shown = prefix if top else f"{prefix}/{here.relative_to(folder).as_posix()}"
        left_out += [_printable(f"{shown}/{name}") for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if not (top and (name in skipped or name.startswith(ASIDE))))
        for name in sorted(names):
            yield here / name, f"{shown}/{name}"


def _add(archive: Archive, path: Path, name: str, own: tuple[int, int], left_out: list[str]) -> None:
    """Add a file that is small enough to be one of a configuration."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) == own or not usual(name):
            left_out.append(_printable(name))
            return
        if found.st_size > MOST_FILE_BYTES:
            text = f"{path} has {found.st_size} bytes, more than a configuration file may have ({MOST_FILE_BYTES})"
            raise BackupProblem(text, "Move it out of the directory.")
        archive.add(name, path.read_bytes())
    except FileNotFoundError:  # removed meanwhile, or a link that leads nowhere
        left_out.append(_printable(name))
    except OSError as exc:
        if exc.filename is None:  # the backup's own file
            raise
        raise BackupProblem(f"{path} cannot be read: {exc.strerror}", "Run it as root or with sudo.") from exc


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- log and history --------------------------------------------------------------------------------------------------


def _save_log(archive: Archive, found: Snapshot, history: bool, progress: Progress) -> None:
    done = 0
    for name, data in found.parts(history=history):
        archive.add(name, data)
        done += len(data)
        progress("log", done, max(done, found.bytes_total))


def _save_history(archive: Archive, folder: Path, room: Path, progress: Progress) -> None:
    try:
        names = sorted(name for name in os.listdir(folder) if DAY.fullmatch(name))
        known = seam.load(folder)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise BackupProblem(f"{folder} cannot be read: {exc.strerror}", "Run it as root or with sudo.") from exc
    known.open = True
    archive.add(SEAM, msgspec.json.encode(known))
    sizes = {name: _size(folder / name) for name in names}
    done = 0
    for name in names:
        _copy_day(archive, folder / name, f"history/{name}", room)
        done += sizes[name]
        progress("history", done, sum(sizes.values()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _copy_day(archive: Archive, path: Path, name: str, room: Path) -> None:
    """Copy a history file as it lies there, and once more when somebody wrote it meanwhile."""
    for _ in range(TRIES):
        try:
            before = _state_of(path)
            if before.journal is None:
                with path.open("rb") as source:
                    archive.add_file(name, source, before.size)
                if _state_of(path) == before:
                    return
            elif _copy_without_journal(archive, path, name, room, before):
                return
        except FileNotFoundError:  # retention removed it: what was copied of it is as good as before
            if not path.exists():
                return
        except OSError as exc:
            if exc.filename is None:
                raise
            raise BackupProblem(f"{path} cannot be read: {exc.strerror}", "Run it as root or with sudo.") from exc
        time.sleep(AGAIN_S)
    hint = "Try again, or leave history out with --no-history."
    raise BackupProblem(f"{path} is being written all the time", hint)


class _State(typing.NamedTuple):
    """What tells one state of a history file from another."""

    inode: int
    mtime_ns: int
    size: int
    changes: bytes
    journal: tuple[int, int, int] | None  # inode, mtime and size; None = no transaction is under way


def _state_of(path: Path) -> _State:
    """Return the state of a history file.

    Its writer uses a rollback journal (journal_mode DELETE): the journal is there from before the first page of the
    file is changed until after the last one, or until the next start of a writer that died in the middle.
    """
    journal = None
    with contextlib.suppress(FileNotFoundError):
        there = _journal_of(path).stat()
        journal = (there.st_ino, there.st_mtime_ns, there.st_size)
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        return _State(found.st_ino, found.st_mtime_ns, found.st_size, file.read(100)[_CHANGES], journal)


def _journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def _copy_without_journal(archive: Archive, path: Path, name: str, room: Path, before: _State) -> bool:
    """Copy a history file that was left in the middle of a transaction, which is rolled back in the copy.

    False: somebody is at work on it, and will end the transaction.
    """
    with tempfile.TemporaryDirectory(prefix=".fluxedge-day-", dir=room) as folder:
        copy = Path(folder) / path.name
        if _at_work(path.parent):
            return False
        shutil.copyfile(path, copy)
        shutil.copyfile(_journal_of(path), _journal_of(copy))
        if _state_of(path) != before or _at_work(path.parent):
            return False
        try:
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # the first read rolls it back
        except sqlite3.Error as exc:
            if not days.is_damage(exc):
                hint = "Is there room beside the backup? Without history it is made with --no-history."
                raise BackupProblem(f"what a crash left of {path} cannot be rolled back: {exc}", hint) from exc
        with copy.open("rb") as source:
            archive.add_file(name, source, copy.stat().st_size)
    return True


def _at_work(folder: Path) -> bool:
    """Tell whether a compactor writes to a folder (compactor.lock)."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
