"""Day files: the history of one UTC day, one SQLite file, written by the compactor child only, removed by unlink.

    STATE/history/2027-01-31.db        rounds whose stamps lie in that day; readable without any other file
    STATE/history/2027-01-31.damaged   set aside; the newest three are kept
    STATE/history/2027-01-31.before    a sound file that is being made anew all the same (compactor.py)
    STATE/history/lock                 held while a compactor is at work
    STATE/history/seam                 what is in the files (seam.py)

    meta     k, v                      schema, day (days since 1970-01-01)
    groups   id, key, device, name, body         the file's own copy; its id has a meaning in this file only
    chunks   id, hour, grp, epoch, first, last, n, from_ns, to_ns, body      hour: hours since 1970-01-01; first, last:
                                       seqs; from_ns, to_ns: earliest and latest stamp; body: chunks.py draws it
    rollups  id, level, start, grp, body         level 60: start is the hour, its minutes; level 3600: start is the day,
                                       its hours; rollups.py draws the body

A file grows hour by hour in a rollback journal: what is appended is written once, where a WAL would write it twice.
`synchronous=EXTRA`, because the journal that a commit removed could otherwise be there again after a power cut, and
take the commit back. auto_vacuum keeps a map of pages, by which a reader gets at a column in the middle of a body
without reading what is before it; nothing is ever vacuumed.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sqlite3
import stat
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from fluxedge.log.history.chunks import Chunk, DamagedChunk
from fluxedge.log.history.rollups import MINUTE, Rollup
from fluxedge.model import OPEN_END, Group

SCHEMA = 1
HOUR_NS = 3600 * 10**9
DAY_HOURS = 24
DAMAGED_KEPT = 3
_DAMAGE = (
    "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ",
    "SQLITE_IOERR_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA",  # a sector that the device cannot read
)  # fmt: skip
BUSY_S = 10.0
_FEW_GROUPS = 100  # a query about these looks them up; one about more goes through all
_EPOCH_DAY = datetime.date(1970, 1, 1)


class DamagedDay(Exception):
    """A day file is not what the compactor wrote."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class ChunkHead(typing.NamedTuple):
    """What a day file says of a chunk beside its body."""

    id: int
    hour: int  # since 1970-01-01
    grp: int  # number of its group in this file
    epoch: int
    first: int  # seqs of its first and last round
    last: int
    n: int
    from_ns: int  # earliest and latest stamp
    to_ns: int


class Sums(typing.NamedTuple):
    """What a day file has of an epoch."""

    epoch: int
    first: int  # lowest and highest seq
    last: int
    rounds: int
    from_ns: int  # earliest and latest stamp
    to_ns: int
    bytes: int  # bodies of its chunks


def folder_of(state_dir: Path) -> Path:
    """Return where the day files of a gateway are."""
    return state_dir / "history"


def path_of(folder: Path, day: int) -> Path:
    """Return the file of a day (days since 1970-01-01)."""
    return folder / f"{_EPOCH_DAY + datetime.timedelta(days=day)}.db"


def day_of(path: Path) -> int | None:
    """Return the day that a file's name says (days since 1970-01-01); None when it is no day file."""
    try:
        day = (datetime.date.fromisoformat(path.stem) - _EPOCH_DAY).days
    except ValueError:
        return None
    return day if path == path_of(path.parent, day) else None


def files(folder: Path) -> list[tuple[int, Path]]:
    """Return (day, file) of every day that is there, oldest first."""
    try:
        found = [(day_of(path), path) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((day, path) for day, path in found if day is not None)


def is_damage(exc: sqlite3.Error) -> bool:
    """Tell whether an error says that a file's content is not what was written."""
    name = getattr(exc, "sqlite_errorname", "")
    return name.startswith(_DAMAGE) or str(exc).startswith(("no such table", "no such column", "Could not decode"))


def in_the_way(path: Path) -> str:
    """Return why what has the name of a day file cannot be one that we use; empty: nothing speaks against it."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        return exc.strerror or str(exc)
    if not regular:
        return "it is no file"
    ours = os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK)  # else all is read-only
    return "" if ours else "permission denied"


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what SQLite says of damage, or of something that it cannot open, into DamagedDay."""
    try:
        yield
    except sqlite3.Error as exc:
        if is_damage(exc):
            raise DamagedDay(path, exc) from exc
        if why := in_the_way(path):
            raise DamagedDay(path, why) from exc
        raise


def refuse_others(path: Path) -> None:
    """Refuse what is no regular file (DamagedDay): opening a pipe would wait for its other end."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedDay(path, "it is no file")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file of another schema (DamagedDay)."""
    row = connection.execute("SELECT v FROM meta WHERE k = 'schema'").fetchone()
    if row is None or row[0] != SCHEMA:
        raise DamagedDay(path, f"schema {row and row[0]}, this version of fluxedge knows {SCHEMA}")


class DayReader:
    """Read one day file. Blocking; used by one thread.

    While the compactor commits, a reader waits up to ten seconds (sqlite3.OperationalError SQLITE_BUSY behind that).
    A file that goes by retention while it is open can be read to its end.
    """

    def __init__(self, path: Path) -> None:
        """Open a day file.

        Raises:
            DamagedDay: it is not what the compactor wrote.
            sqlite3.OperationalError: it is not there, or cannot be opened.
        """
        self.path = path
        with telling(path):
            self._connection = _connect_reading(path)
        self._groups: dict[int, Group] = {}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def groups(self, devices: Collection[str] = ()) -> dict[int, Group]:
        """Return the groups of these devices, all without any, by the number that `ChunkHead.grp` means.

        Those that cannot be read are left out, as their chunks then are.
        """
        where = f" WHERE device IN ({','.join('?' * len(devices))})" if devices else ""
        with telling(self.path):
            rows = self._connection.execute(f"SELECT id, body FROM groups{where}", tuple(devices)).fetchall()
        found = {}
        for number, body in rows:
            group = self._groups.get(number) or decode_group(body)
            if group is not None:
                found[number] = self._groups[number] = group
        return found

    def heads(
        self, numbers: Collection[int], from_ns: int, to_ns: int, upto: Mapping[int, int] | None = None
    ) -> list[ChunkHead]:
        """Return the chunks of these groups that hold a stamp in [from_ns, to_ns), by hour, group, epoch and first seq.

        `upto` tells what is compacted, for every epoch of the log: chunks beyond it are of a run that has not ended,
        and their rounds are still in the log. Epochs that are not in it have no rounds in the log.
        """
        wanted = set(numbers)
        sql = "SELECT id, hour, grp, epoch, first, last, n, from_ns, to_ns FROM chunks WHERE from_ns < ? AND to_ns >= ?"
        few = sorted(wanted) if len(wanted) <= _FEW_GROUPS else []
        if few:  # by the index alone: 0.4 ms instead of 40 in a day of 200 groups, whose rows are large
            sql += f" AND id IN (SELECT id FROM chunks WHERE grp IN ({','.join('?' * len(few))}))"
        sql += " ORDER BY hour, grp, epoch, first"
        with telling(self.path):
            rows = self._connection.execute(sql, (to_ns, from_ns, *few)).fetchall()
        limits = upto or {}
        heads = [ChunkHead(*row) for row in rows if row[2] in wanted]
        return [head for head in heads if head.first <= limits.get(head.epoch, OPEN_END)]

    def sums(self) -> list[Sums]:
        """Return what the file has of each epoch, runs of the compactor that have not ended included."""
        sql = (
            "SELECT epoch, min(first), max(last), sum(n), min(from_ns), max(to_ns), sum(length(body)) FROM chunks"
            " GROUP BY epoch ORDER BY epoch"
        )
        with telling(self.path):
            return [Sums(*row) for row in self._connection.execute(sql).fetchall()]

    def chunk(self, head: ChunkHead) -> Chunk:
        """Return a chunk to be read column by column, as long as this reader is open.

        Raises:
            DamagedChunk: it is not what was written, or its group cannot be read.
        """
        group = self._groups.get(head.grp) or self.groups().get(head.grp)
        if group is None:
            raise DamagedChunk(f"{self.path}: group {head.grp} cannot be read")
        return Chunk(group, head.epoch, self._reader("chunks", head.id))

    def rollup(self, level: int, start: int, number: int, upto: Mapping[int, int] | None = None) -> Rollup | None:
        """Return what a group did in the minutes of an hour (level 60) or the hours of a day (3600); None: see chunks.

        There is none for texts and bytes, for hours with few rounds, and where chunks beyond `upto` are (see `heads`).

        Raises:
            DamagedChunk: it is not what was written, or its group cannot be read.
        """
        group = self._groups.get(number) or self.groups().get(number)
        with telling(self.path):
            row = self._connection.execute(
                "SELECT id FROM rollups WHERE level = ? AND start = ? AND grp = ?", (level, start, number)
            ).fetchone()
        if row is None or self._unfinished(level, start, number, upto or {}):
            return None
        if group is None:
            raise DamagedChunk(f"{self.path}: group {number} cannot be read")
        return Rollup(group, self._reader("rollups", row[0]))

    def _unfinished(self, level: int, start: int, number: int, upto: Mapping[int, int]) -> bool:
        """Tell whether a rollup may know rounds that are still in the log."""
        if not upto:
            return False
        hours = (start, start) if level == MINUTE else (start * DAY_HOURS, start * DAY_HOURS + DAY_HOURS - 1)
        sql = "SELECT epoch, max(first) FROM chunks WHERE hour BETWEEN ? AND ? AND grp = ? GROUP BY epoch"
        with telling(self.path):
            newest = self._connection.execute(sql, (*hours, number)).fetchall()
        return any(first > upto.get(epoch, OPEN_END) for epoch, first in newest)

    def _reader(self, table: str, row: int) -> typing.Callable[[int, int], bytes]:
        def read(offset: int, size: int) -> bytes:
            with telling(self.path), self._connection.blobopen(table, "body", row, readonly=True) as blob:
                blob.seek(min(offset, len(blob)))
                return blob.read(size)

        return read


def decode_group(body: bytes) -> Group | None:
    """Return a stored group, None when it is damaged."""
    try:
        return Group.from_bytes(body)
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError):
        return None


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Open a file read-only; a compactor that was killed has left a journal, which only a writer can roll back."""
    refuse_others(path)
    uri = path.absolute().as_uri()
    modes = ("ro", "rw") if path.with_name(f"{path.name}-journal").exists() else ("ro",)
    for mode in modes:
        connection = sqlite3.connect(f"{uri}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only = 1")
            check(connection, path)
        except (sqlite3.Error, DamagedDay) as exc:
            connection.close()
            last = mode == modes[-1]
            if last or not isinstance(exc, sqlite3.OperationalError):
                raise
            continue
        return connection
    raise AssertionError("unreachable")


def is_sound(path: Path) -> bool:
    """Tell whether SQLite finds nothing wrong with a day file (blocking; reads all of it)."""
    try:
        with telling(path):
            connection = _connect_reading(path)
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        finally:
            connection.close()
    except DamagedDay:
        return False
    except sqlite3.Error as exc:
        if is_damage(exc):
            return False
        raise


def aside(folder: Path) -> list[Path]:
    """Return what was set aside, oldest first."""
    return sorted(folder.glob("*.damaged*"), key=lambda path: path.lstat().st_mtime)


def set_aside(path: Path) -> Path:
    """Rename a damaged day file; return its new name. The oldest of more than three such files go."""
    target = path.with_suffix(".damaged")
    number = 1
    while target.exists():
        number += 1
        target = path.with_suffix(f".damaged-{number}")
    path.rename(target)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    others = aside(path.parent)
    for old in others[: max(0, len(others) - DAMAGED_KEPT)]:
        if old != target:
            with contextlib.suppress(OSError):  # a directory that somebody put there is not ours to empty
                old.unlink(missing_ok=True)
    return target
