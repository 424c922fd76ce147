"""A snapshot of log.db, taken while a gateway writes it: a logical copy in parts, in reads of 50 ms and 1 MiB at most.

    log/table/NAME/000001.mp        a page of a small table          MessagePack {"table", "rows": [[...], ...]}
    log/rounds_001/000000000001.mp  a page of a segment's rows       likewise; named by the first row's seq
    log/tables.mp                   what the pages become            {"schema", "create": [SQL, ...], "segments": [...]}

No read stays open from one page to the next: the WAL of the running gateway is not pinned, and commits do not begin the
copy anew. The order makes one consistent whole of it; T is the instant of step 1:

 1. one short transaction: meta, segments with their last seqs, cursors, clock, compacted, state. Everything below is
    compared with this.
 2. groups, intents, quarantine, page by page. Groups are written before their first use and never changed: all that the
    rows up to T need are there. What an intent or a refused row has become since T is true as well.
 3. rows, segment by segment, up to the last seqs of T: rows never change, so these are the rows of T. A segment that
    was dropped since T is left out, and leaves the cursors of T: whoever still waited for it at T has had it since, or
    has a gap by now.
 4. gaps, so that those of step 3 are among them. A gap that was announced after T is not announced in this copy, which
    does not hold that event.

The cursors are thus never younger than the rows: what was acknowledged after T is sent again from a restored copy, a
duplicate. No record of T is lost.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from fluxedge.log import database, segments
from fluxedge.log.ranges import RangeSet
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

PAGE_BYTES = 1 << 20
PAGE_S = 0.05  # a read that takes longer ends with the row that it has
TABLES = "log/tables.mp"
SEGMENT = re.compile(r"(rounds|events)_\d{3,9}")
_AT_ONCE = ("meta", "segments", "todo", "clock", "compacted", "state")  # small, and one whole together
_BY_KEY = {"intents": "key"}  # tables without rowid that are read page by page
_pack = msgspec.msgpack.Encoder().encode

Part = tuple[str, bytes]
Rows = list[list[typing.Any]]


class Page(msgspec.Struct):
    """Some rows of a table."""

    table: str
    rows: Rows


class Tables(msgspec.Struct):
    """What a log consists of."""

    schema: int
    create: list[str]  # statements that make the tables and their indexes
    segments: list[str]  # tables of rows; pages of others are left out


class Snapshot:
    """A log at one instant. Used on one thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Raises sqlite3.Error where the log cannot be read."""
        self._path = path
        self._connection = connection
        connection.execute("BEGIN")
        try:
            created = connection.execute(
                "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name"
            ).fetchall()
            self._create = {name: sql for name, _, sql in created}
            self._tables = [name for name, kind, _ in created if kind == "table" and not SEGMENT.fullmatch(name)]
            self._held = segments.load(connection)
            self._at_once = {name: self._all(name) for name in self._tables if self._read_at_once(name)}
        finally:
            connection.execute("COMMIT")
        self.meta: dict[str, typing.Any] = dict(self._at_once.get("meta", []))
        self.epoch = int(self.meta["epoch"])
        self.heads = {
            lane: max((s.last for s in self._held if s.lane is lane and s.epoch == self.epoch), default=0)
            for lane in Lane
        }
        self.bytes_total = sum(segment.body_bytes for segment in self._held)

    @property
    def schema(self) -> int:
        """Return the schema of the log."""
        return int(self.meta["schema"])

    def parts(self, *, history: bool) -> Iterator[Part]:
        """Yield the parts; without `history` the copy does not believe that rounds are in history files.

        Raises:
            LinkProblem: "log-damaged": the log cannot be read.
        """
        with _readable(self._path):
            yield from self._parts(history)

    def _parts(self, history: bool) -> Iterator[Part]:
        for name in self._tables:
            if name not in self._at_once and name != "gap":
                yield from self._pages(name)
        dropped: list[Segment] = []
        for segment in self._held:
            try:
                yield from self._rows(segment)
            except sqlite3.OperationalError as exc:
                if "no such table" not in str(exc):
                    raise
                dropped.append(segment)
        for name, rows in self._at_once.items():
            yield from self._whole(name, self._amended(name, rows, dropped, history))
        yield from self._pages("gap", self._unsaid)
        kept = [segment.table for segment in self._held if segment not in dropped]
        create = [sql for name, sql in self._create.items() if not SEGMENT.fullmatch(name) or name in kept]
        yield TABLES, _pack(Tables(self.schema, create, kept))

    def _read_at_once(self, name: str) -> bool:
        return name in _AT_ONCE or ("WITHOUT ROWID" in self._create[name].upper() and name not in _BY_KEY)

    def _all(self, name: str) -> Rows:
        return [list(row) for row in self._connection.execute(f'SELECT * FROM "{name}"')]

    def _amended(self, name: str, rows: Rows, dropped: list[Segment], history: bool) -> Rows:
        """Return a table of step 1 without what was dropped since."""
        if name == "compacted" and not history:
            return []
        gone = {(int(segment.lane), segment.number) for segment in dropped}
        if name == "segments":
            return [row for row in rows if (row[0], row[1]) not in gone]
        if name != "todo" or not dropped:
            return rows
        found: Rows = []
        for uplink, epoch, lane, lo, hi in rows:
            ranges = RangeSet([(lo, hi)])
            for segment in dropped:
                if (segment.epoch, int(segment.lane)) == (epoch, lane):
                    ranges.remove(segment.first, segment.last)
            found += [[uplink, epoch, lane, *one] for one in ranges]
        return found

    def _unsaid(self, row: list[typing.Any]) -> list[typing.Any]:
        """Return a gap as this copy knows it: its event may be younger. Columns as schema.sql has them."""
        said_epoch, said_seq = row[8:10]
        lost = said_epoch == self.epoch and said_seq > self.heads[Lane.EVENTS]
        return [*row[:8], 0, 0, *row[10:]] if lost or said_epoch > self.epoch else row

    # --- pages --------------------------------------------------------------------------------------------------------

    def _rows(self, segment: Segment) -> Iterator[Part]:
        after = segment.first - 1
        sql = f"SELECT * FROM {segment.table} WHERE seq > ? AND seq <= ? ORDER BY seq"
        while rows := self._read(sql, (after, segment.last)):
            yield f"log/{segment.table}/{rows[0][0]:012d}.mp", _pack(Page(segment.table, rows))
            after = rows[-1][0]

    def _pages(
        self, name: str, change: Callable[[list[typing.Any]], list[typing.Any]] = lambda row: row
    ) -> Iterator[Part]:
        key = _BY_KEY.get(name, "rowid")
        after: typing.Any = "" if name in _BY_KEY else -(2**63)
        number = 1
        while rows := self._read(f'SELECT {key}, * FROM "{name}" WHERE {key} > ? ORDER BY {key}', (after,)):
            after = rows[-1][0]
            yield f"log/table/{name}/{number:06d}.mp", _pack(Page(name, [change(row[1:]) for row in rows]))
            number += 1

    def _whole(self, name: str, rows: Rows) -> Iterator[Part]:
        yield f"log/table/{name}/000001.mp", _pack(Page(name, rows))

    def _read(self, sql: str, values: tuple[typing.Any, ...]) -> Rows:
        """Return rows until they are a page; the read ends with it."""
        rows: Rows = []
        size, begun_s = 0, time.monotonic()
        with contextlib.closing(self._connection.execute(sql, values)) as cursor:
            for row in cursor:
                rows.append(list(row))
                size += sum(len(cell) if isinstance(cell, bytes | str) else 8 for cell in row)
                if size >= PAGE_BYTES or time.monotonic() - begun_s > PAGE_S:
                    break
        return rows


@contextlib.contextmanager
def snapshot(path: Path, room: Path) -> Iterator[Snapshot]:
    """Open a log that runs, or lies there, also on a medium that is read-only; `room` may be written to.

    Raises:
        LinkProblem: "log-damaged": it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        with _readable(path):
            connection = stack.enter_context(contextlib.closing(_connect(path, stack, room)))
            found = Snapshot(path, connection)
        yield found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, LookupError, ValueError, TypeError) as exc:
        hint = "Read it as root or as the user that runs fluxedge. Without the log a backup is made with --no-log."
        raise LinkProblem("log-damaged", f"{path} cannot be read: {exc}", hint) from exc


def _connect(path: Path, stack: contextlib.ExitStack, room: Path) -> sqlite3.Connection:
    """Open a log for reading.

    SQLite reads beside a writer by the files -wal and -shm, and makes them when there are none. Where it cannot, a log
    without a WAL is read as it lies there; one with a WAL is copied first, because the newest commits are in it.
    """
    try:
        connection = database.connect_reading(path)
        stack.callback(connection.close)
        connection.isolation_level = None
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as exc:
        if not str(exc).startswith(("unable to open", "attempt to write a readonly")):
            raise
    else:
        return connection
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists() or not wal.stat().st_size:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        return sqlite3.connect(uri, uri=True, isolation_level=None)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".fluxedge-log-", dir=room)))
    for file in (path, wal):
        shutil.copyfile(file, folder / file.name)
    return sqlite3.connect(folder / path.name, isolation_level=None)
