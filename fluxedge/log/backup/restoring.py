"""Restoring a backup: everything is built beside its place first, then what is there steps aside, by renaming.

    STATE/restoring-XXXXXXXX/        what is being built; goes at the end, whatever happens
    STATE/before-restore-TIME/       what was there: log.db with its -wal and -shm, history/, gateway-id, ...
    CONFIG/before-restore-TIME/      likewise

Nothing is written outside the two directories. The log is made anew from the backup's pages. A witness says that it is
not the file it was: the gateway begins a new epoch, in which no seq is used twice. What was not delivered when the
backup was made is delivered, with its old epoch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import tempfile
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fluxedge.config.sources import FOLDERS, MAIN_FILE
from fluxedge.log import database, segments
from fluxedge.log.backup.archive import BackupProblem, Checked, Manifest
from fluxedge.log.backup.saving import ASIDE, CREDENTIALS, DAY, SEAM, STATE_NAMES
from fluxedge.log.backup.snapshot import SEGMENT, TABLES, Page, Tables
from fluxedge.log.database import Witness
from fluxedge.log.history.seam import Seam

MOST_PAGE_BYTES = 256 << 20  # a page has one row at least, and a row is at most what fits into memory once
CONFIG_NAMES = (MAIN_FILE, *(name for name in FOLDERS if name != CREDENTIALS))  # nothing else of it is ours to move
LOG_NAMES = ("log.db", "log.db-wal", "log.db-shm", "log.witness", "log.broken")
_NO_INODE = -1  # no file has it: the log notices that it was restored
_CREATE = re.compile(r'CREATE (TABLE|(UNIQUE )?INDEX) "?[a-z_][a-z0-9_]*"?[\s(]')
_TABLE = re.compile(r"(?!sqlite_)[a-z_][a-z0-9_]{0,62}")
_PERMITTED = (
    sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_READ,
    sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_REINDEX,
)  # fmt: skip

Progress = Callable[[str, int, int], object]


@dataclass(slots=True)
class Step:
    """Something that takes a place in one of the two directories."""

    place: Path
    built: Path | None  # None: what is there only steps aside


@dataclass(slots=True)
class Plan:
    """What a restore does."""

    config_dir: Path
    state_dir: Path
    replaced: list[Path] = field(default_factory=list)  # what is there now and steps aside
    new: list[Path] = field(default_factory=list)


def judge(manifest: Manifest) -> None:
    """Refuse a backup whose log this version cannot read.

    Raises:
        BackupProblem: it is of a newer schema.
    """
    if manifest.schema > database.SCHEMA:
        text = f"its log has schema {manifest.schema}, this version of fluxedge knows {database.SCHEMA}"
        raise BackupProblem(text, f"Install fluxedge {manifest.fluxedge}, which made it, or a newer one.")


def plan(checked: Checked, config_dir: Path, state_dir: Path) -> Plan:
    """Return what a restore would replace.

    Raises:
        BackupProblem: what it holds does not fit what is there.
    """
    if checked.names("history") and not checked.manifest.log and os.path.lexists(state_dir / "log.db"):
        text = f"it holds history without its log, and {state_dir} has another log, which relies on other history files"
        raise BackupProblem(text, "Make a backup with the log, or move log.db and history out of the way.")
    found = Plan(config_dir, state_dir)
    for place in _places(checked, config_dir, state_dir):
        (found.replaced if os.path.lexists(place) else found.new).append(place)
    return found


def _places(checked: Checked, config_dir: Path, state_dir: Path) -> list[Path]:
    """Return what of the two directories the backup has something for, or must step aside for it."""
    files = {name.split("/")[1] for name in checked.names("config")}
    comes = {config_dir / name for name in files}
    comes |= {state_dir / name.split("/")[1] for name in checked.names("state") if name.split("/")[1] in STATE_NAMES}
    goes = {config_dir / name for name in CONFIG_NAMES} if files else set()
    if checked.manifest.log:
        comes |= {state_dir / "log.db", state_dir / "log.witness"}
        goes |= {state_dir / name for name in (*LOG_NAMES, "history")}  # old history is of another log
    if checked.names("history"):
        comes.add(state_dir / "history")
    return sorted(comes | {place for place in goes if os.path.lexists(place)})


def restore(checked: Checked, wanted: Plan, progress: Progress = lambda *_: None) -> list[Path]:
    """Do it; return the folders that hold what was there. Called while nobody else uses the state directory.

    Raises:
        BackupProblem: what the backup holds cannot be used; nothing was touched.
        OSError: it cannot be written; what had stepped aside is back.
    """
    with contextlib.ExitStack() as stack:
        state = _room(wanted.state_dir, stack)
        config = _room(wanted.config_dir, stack) if checked.names("config") else None
        if config is not None:
            _extract(checked, "config", config, wanted.config_dir)
        _extract(checked, "state", state, wanted.state_dir)
        if checked.names("history"):
            _extract_history(checked, state, wanted.state_dir, progress)
        if checked.manifest.log:
            _build_log(checked, state / "log.db", progress)
            _write_witness(checked.manifest, state / "log.witness", wanted.state_dir / "log.witness")
            for name in ("log.db", "log.witness"):
                _hand_over(state / name, wanted.state_dir)
        steps = []
        for place in [*wanted.replaced, *wanted.new]:
            room = config if config is not None and place.parent == wanted.config_dir else state
            built = room / place.name
            steps.append(Step(place, built if built.exists() else None))
        return _swap(steps, time.strftime(f"{ASIDE}%Y%m%dT%H%M%SZ", time.gmtime()))


def _room(directory: Path, stack: contextlib.ExitStack) -> Path:
    """Make a folder to build in, in the directory itself: renaming works within one file system."""
    directory.mkdir(parents=True, exist_ok=True)
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="restoring-", dir=directory)))


# --- building ---------------------------------------------------------------------------------------------------------


def _extract(checked: Checked, folder: str, room: Path, directory: Path) -> None:
    """Write the parts of a folder below a room; archive.check has seen that their names stay there."""
    for name in checked.names(folder):
        if folder == "state" and name.split("/")[1] not in STATE_NAMES:  # a log.db would not be built anew
            raise BackupProblem(f"it holds {name}, which no backup does", "It was not made by fluxedge backup.")
        path = room.joinpath(*name.split("/")[1:])
        for parent in reversed(path.relative_to(room).parents[:-1]):
            if not (room / parent).exists():
                (room / parent).mkdir(mode=0o750)
                _hand_over(room / parent, directory, 0o750)
        _put(path, checked.pieces(name))
        _hand_over(path, directory)


def _extract_history(checked: Checked, room: Path, directory: Path, progress: Progress) -> None:
    (room / "history").mkdir(mode=0o750)
    _hand_over(room / "history", directory, 0o750)
    names = checked.names("history")
    for i, name in enumerate(names, 1):
        if name == SEAM:
            _put(room / name, [msgspec.json.encode(_seam(checked))])
        elif DAY.fullmatch(name.removeprefix("history/")):
            _put(room / name, checked.pieces(name))
        else:
            raise BackupProblem(f"{name} is no history file", "It was not made by fluxedge backup.")
        _hand_over(room / name, directory)
        progress("history", i, len(names))


def _seam(checked: Checked) -> Seam:
    """Return what the history files hold; anything may be in them beyond it.

    Raises:
        BackupProblem: it is none.
    """
    try:
        found = msgspec.json.decode(checked.read(SEAM, MOST_PAGE_BYTES), type=Seam)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BackupProblem(f"{SEAM} cannot be read: {exc}", "It was not made by fluxedge backup.") from exc
    numbers = [*found.upto, *found.upto.values()]
    if any(not 0 <= number < 2**63 for number in numbers) or not all(DAY.fullmatch(f"{d}.db") for d in found.rebuild):
        raise BackupProblem(f"{SEAM} holds what no history has", "It was not made by fluxedge backup.")
    found.open = True
    return found


def _put(path: Path, pieces: Iterable[bytes]) -> None:
    """Make a file, durably."""
    with path.open("xb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _hand_over(path: Path, directory: Path, mode: int = 0o640) -> None:
    """Give a file to whom its directory belongs; root restores for the user that runs fluxedge."""
    owner = directory.stat()
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(mode)


def _write_witness(manifest: Manifest, path: Path, old: Path) -> None:
    """Write a witness that no log.db fits: the newest epoch that is known, what it held, and no file's inode."""
    kept = database.read_witness(old)
    found = kept if kept is not None and kept.epoch >= manifest.epoch else None
    if found is None:
        found = Witness(manifest.epoch, manifest.machine, manifest.heads)
    found = msgspec.structs.replace(found, inode=_NO_INODE, wal_bytes=0)
    _put(path, [msgspec.json.encode(found)])


def _build_log(checked: Checked, path: Path, progress: Progress) -> None:
    """Make a log of the backup's pages.

    Raises:
        BackupProblem: they do not make one.
        OSError: the disk takes nothing.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for pragma in (f"page_size = {database.PAGE_BYTES}", "journal_mode = OFF", "synchronous = OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.set_authorizer(_authorise)
            connection.execute("BEGIN")
            _fill(connection, checked, progress)
            connection.execute("COMMIT")
            connection.set_authorizer(None)
            _look_at(connection, checked.manifest)
    except (sqlite3.OperationalError, sqlite3.InternalError) as exc:
        name = getattr(exc, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            number = errno.ENOSPC if name == "SQLITE_FULL" else errno.EIO
            raise OSError(number, os.strerror(number), str(path.parent.parent)) from exc
        raise _no_log(exc) from exc
    except (sqlite3.Error, msgspec.MsgspecError, LookupError, ValueError, TypeError, OverflowError) as exc:
        raise _no_log(exc) from exc
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _no_log(exc: Exception) -> BackupProblem:
    return BackupProblem(f"its log cannot be rebuilt: {exc}", "It was not made by fluxedge backup.")


def _authorise(action: int, *_: object) -> int:
    """Permit what fills tables: statements of a backup come from outside."""
    return sqlite3.SQLITE_OK if action in _PERMITTED else sqlite3.SQLITE_DENY


def _fill(connection: sqlite3.Connection, checked: Checked, progress: Progress) -> None:
    tables = msgspec.msgpack.decode(checked.read(TABLES, MOST_PAGE_BYTES), type=Tables)
    for sql in tables.create:
        if not _CREATE.match(sql):
            raise ValueError(f"not a table: {sql[:80]!r}")
        connection.execute(sql)
    names = [name for name in checked.names("log") if name != TABLES]
    for i, name in enumerate(names, 1):
        page = _page(checked, name)
        if not SEGMENT.fullmatch(page.table) or page.table in tables.segments:
            _insert(connection, page)
        progress("log", i, len(names))


def _page(checked: Checked, name: str) -> Page:
    page = msgspec.msgpack.decode(checked.read(name, MOST_PAGE_BYTES), type=Page)
    if not _TABLE.fullmatch(page.table):
        raise ValueError(f"{name}: no table is called {page.table[:80]!r}")
    return page


def _insert(connection: sqlite3.Connection, page: Page) -> None:
    if page.rows:
        places = ", ".join("?" * len(page.rows[0]))
        connection.executemany(f'INSERT INTO "{page.table}" VALUES ({places})', page.rows)


def _look_at(connection: sqlite3.Connection, manifest: Manifest) -> None:
    """See that it is a log, and the one that the manifest tells of."""
    meta: dict[str, typing.Any] = dict(connection.execute("SELECT k, v FROM meta"))
    held = segments.load(connection)
    found = {
        lane: max((s.last for s in held if s.lane.label == lane and s.epoch == manifest.epoch), default=0)
        for lane in manifest.heads
    }
    if meta.get("schema") != manifest.schema or meta.get("epoch") != manifest.epoch or found != manifest.heads:
        raise ValueError(f"it ends at {found} of epoch {meta.get('epoch')}, its manifest says {manifest.heads}")


# --- taking its place -------------------------------------------------------------------------------------------------


def _swap(steps: list[Step], aside: str) -> list[Path]:
    """Let what is there step aside and what was built take its place; everything, or nothing.

    Raises:
        OSError: a renaming failed; those before it were taken back.
    """
    undo: list[tuple[Path, Path]] = []  # (where it is, where it was)
    folders: dict[Path, Path] = {}
    try:
        for place in [step.place for step in steps if os.path.lexists(step.place)]:  # all: an old WAL fits no new log
            if place.parent not in folders:
                folders[place.parent] = _make(place.parent, aside)
            _move(place, folders[place.parent] / place.name, undo)
        for step in steps:
            if step.built is not None:
                _move(step.built, step.place, undo)
    except OSError:
        for now, before in reversed(undo):
            with contextlib.suppress(OSError):
                now.rename(before)
        for folder in folders.values():
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    for directory in {step.place.parent for step in steps}:
        _sync(directory)
    return list(folders.values())


def _move(source: Path, target: Path, undo: list[tuple[Path, Path]]) -> None:
    source.rename(target)
    undo.append((target, source))


def _make(parent: Path, name: str) -> Path:
    for number in range(1, 100):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o750)
            _hand_over(folder, parent, 0o750)
            return folder
    raise FileExistsError(17, f"{name} exists a hundred times")


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def lock(state_dir: Path) -> Iterator[None]:
    """Keep every gateway away from a state directory.

    Raises:
        LinkProblem: "log-write-failed": one uses it.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    file = database.lock(state_dir / "log.lock")
    try:
        with contextlib.suppress(OSError):
            owner = state_dir.stat()
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        yield
    finally:
        file.close()


def room_for(checked: Checked, directory: Path) -> None:
    """Refuse a restore for which there is no room.

    Raises:
        BackupProblem: the file system has too little.
    """
    needed = sum(part.bytes for part in checked.manifest.parts)
    there = directory
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        text = f"{directory} has room for {free >> 20} MiB, the backup needs {needed >> 20} MiB beside what is there"
        raise BackupProblem(text, "Free space, or name a directory on another disk with --state.")
