"""A log that was set aside, as far as it can be read. Nothing is written to it but SQLite's -shm.

Two ways lead into it. By SQL a table is read from its beginning until an error, then from its end; that loses what lies
between two errors, and everything where the schema is gone. By the leaf pages (`leaves`) every row is found that is
whole, wherever it stands, but not to which table it belongs: a row of records is told by its checksum and its columns,
its epoch by the segment whose seqs it has. Where two segments could have it, it is not taken. Where the table of
segments is gone, the newest epoch is told by time (`adrift`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import typing
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from fluxedge.log import database, groups
from fluxedge.log.body import DamagedBody, Row, checked
from fluxedge.log.database import PAGE_BYTES, Witness
from fluxedge.log.salvage.adrift import MADE_UP, Adrift, leaf_of
from fluxedge.log.salvage.leaves import Column, Pages, Record
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import OPEN_END, Group, Lane

SCANNED_AT_ONCE = 512  # pages looked at in one step
MOST_RECORDS = 1 << 20  # in a row, which is a batch of about 1 MiB
_ROW = "seq, n, boot, codec, crc, body, mono_ms"
_NO_ROOM = ("SQLITE_IOERR_SHM", "SQLITE_FULL", "SQLITE_READONLY")  # for the -shm
Owed = dict[tuple[str, int, Lane], list[tuple[int, int]]]  # (uplink, epoch, lane) -> ranges


class Found(typing.NamedTuple):
    """A row with what its table has beside it."""

    row: Row
    mono_ms: int
    of: int  # first seq of its segment


class Wreck:
    """A damaged log in its folder. Every method blocks."""

    def __init__(self, folder: Path, *, by_hand: bool = False, blind: bool = False) -> None:
        """Open what is in a folder: by hand without SQLite, which may die of it; blind with the witness only.

        Raises:
            OSError, sqlite3.Error: that passes, and what cannot be read now may be whole.
        """
        self.folder = folder
        self.path = folder / "log.db"
        self.witness: Witness | None = database.read_witness(folder / "log.witness")
        self.groups: dict[int, Group] = {}
        self.intents: list[tuple[typing.Any, ...]] = []  # found in leaf pages: key, at_ms, request, result
        self.segments: list[Segment] = []
        self.broken: set[str] = set()  # tables that could not be read to the end
        self._blind = blind
        self.left = False  # whole rows were seen whose epoch cannot be told
        self._adrift: Adrift | None = None  # judges rows of epochs that no table tells
        self._reached: dict[tuple[int, Lane], int] = {}  # last seq of the rows that were seen, readable or not
        self._connection = None if by_hand or blind else self._connect()

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> sqlite3.Connection | None:
        connection: sqlite3.Connection | None = None
        try:
            if not self.path.is_file():
                return None
            with contextlib.ExitStack() as files:  # SQLite needs three, and does not say when it cannot have them
                for _ in range(3):
                    files.enter_context(self.path.open("rb"))
            self.path.with_name("log.db-shm").unlink(missing_ok=True)  # an index of the WAL, made anew from it
            connection = database.connect_reading(self.path)
            connection.execute("PRAGMA cell_size_check = 1")
            connection.execute("PRAGMA trusted_schema = 0")
            connection.text_factory = lambda content: content.decode("utf-8", "replace")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as exc:
            if connection is not None:
                connection.close()
            if getattr(exc, "sqlite_errorname", "").startswith(_NO_ROOM):
                raise
            return None
        return connection

    def look_around(self, known_groups: Mapping[bytes, Group]) -> Iterator[int]:
        """Find out which segments and groups there are, by SQL and, where that is not whole, by the leaf pages.

        It goes on with every step of the iteration. `known_groups` by key, for those of which that is all there is.
        """
        held = [_segment(row) for row in self.table("segments", _SEGMENT, "lane, number")]
        known = [_group(row) for row in self.table("groups", "id, key, body", "id")]
        self.groups = self._keyed(known_groups) | {pair[0]: pair[1] for pair in known if pair is not None}
        held += self._rebuilt() if "segments" in self.broken else []
        newest = self.witness.epoch if self.witness is not None else 0
        if self.broken & {"segments", "groups"}:
            for records in self._steps():
                for rowid, record in records:
                    held.append(_segment(record) if rowid is None else None)
                    known.append(_group([rowid, *record[1:]]) if rowid is not None else None)
                    newest = max(newest, _epoch(record)) if rowid is None else newest
                    self.intents += [tuple(record)] if rowid is None and _is_intent(record) else []
                yield len(held)
        self.groups = self._keyed(known_groups) | {pair[0]: pair[1] for pair in known if pair is not None}
        kept: dict[tuple[int, int, int], Segment] = {}
        for segment in held:
            if segment is not None:  # a page may be older than another one
                other = kept.setdefault((segment.lane, segment.epoch, segment.first), segment)
                if segment.last > other.last:
                    kept[(segment.lane, segment.epoch, segment.first)] = segment
        self.segments = sorted(kept.values(), key=lambda s: (s.lane, s.epoch, s.first))
        if "segments" in self.broken and newest:
            yield from self._look_adrift(Adrift(newest))

    def _look_adrift(self, adrift: Adrift) -> Iterator[int]:
        """Make up segments of the newest epoch for rows that may be of it."""
        for look in (adrift.look, adrift.look_again):
            for records in self._steps():
                look(leaf for record in records if (leaf := leaf_of(record)) is not None)
                yield len(self.segments)
        self._adrift = adrift
        self.left = adrift.seen and not adrift.knows and not self.segments
        self.segments += adrift.made_up(self.segments)
        self.segments.sort(key=lambda s: (s.lane, s.epoch, s.first))

    def _keyed(self, known: Mapping[bytes, Group]) -> dict[int, Group]:
        """Return known groups by the number that they have here, as table, index or witness still tell."""
        if "groups" not in self.broken:
            return {}
        fits = self.witness is not None and self.witness.inode == database.inode(self.path)
        rows: list[tuple[typing.Any, ...]] = list(self.witness.groups.items()) if self.witness and fits else []
        rows += self.table("groups", "id, key", "id")
        rows += self.table("groups INDEXED BY sqlite_autoindex_groups_1", "id, key", "key")
        return {number: known[key] for number, key in rows if isinstance(number, int) and key in known}

    def _rebuilt(self) -> list[Segment]:
        """Make up what the table of segments said of the witness's epoch, from the names of tables and their rows.

        Going back from the newest table of a lane, as long as seqs are without a hole: the first one is number 1.
        """
        names = [str(name) for (name,) in self.table("sqlite_master", "name", "rowid")]
        if self.witness is None or "sqlite_master" in self.broken:
            return []
        found = []
        for lane in Lane:
            numbers = [name.partition("_")[2] for name in names if name.startswith(f"{lane.label}_")]
            mine = sorted((int(n) for n in numbers if n.isdigit() and int(n) < SALVAGED), reverse=True)
            following = 0
            for number in mine:
                segment = Segment(lane, number, self.witness.epoch, 1, 0, 0)
                ends = [self.rows(segment, after, 0, backward=bool(after))[0] for after in (0, OPEN_END)]
                first, last = (ends[0][0].row.seq, ends[1][0].row.last) if all(ends) else (0, 0)
                reached = self.witness.heads.get(lane.label, 0)
                if not 0 < reached <= last if not following else last + 1 != following:
                    break
                segment.first, segment.last, following = first, last, first
                found.append(segment)
        return found

    def table(self, name: str, columns: str, key: str) -> list[tuple[typing.Any, ...]]:
        """Return the rows of a small table, from both ends where it is broken in the middle."""
        rows: dict[tuple[typing.Any, ...], None] = {}
        for order in ("", " DESC"):
            by = ", ".join(f"{column.strip()}{order}" for column in key.split(","))
            if self._read(f"SELECT {columns} FROM {name} ORDER BY {by}", (), rows):
                return list(rows)
            self.broken.add(name)
        return list(rows)

    def _read(self, question: str, values: tuple[object, ...], rows: dict[tuple[typing.Any, ...], None]) -> bool:
        """Add the rows that come before an error; tell whether there was none."""
        if self._connection is None:
            return False
        try:
            with contextlib.closing(self._connection.execute(question, values)) as cursor:
                for row in cursor:
                    rows[row] = None
        except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError):
            return False
        return True

    def has(self, name: str) -> bool:
        """Tell whether a table can be found; older schemas have not all."""
        rows: dict[tuple[typing.Any, ...], None] = {}
        self._read("SELECT 1 FROM sqlite_master WHERE name = ?", (name,), rows)
        return bool(rows)

    # --- what is owed -------------------------------------------------------------------------------------------------

    def last_of(self, epoch: int, lane: Lane) -> int:
        """Return the last seq that the witness, a closed segment or a row knows of; 0 when none does."""
        known = [s.last for s in self.segments if s.epoch == epoch and s.lane is lane]
        known.append(self._reached.get((epoch, lane), 0))
        if self.witness is not None and self.witness.epoch == epoch:
            known.append(self.witness.heads.get(lane.label, 0))
        return max(known, default=0)

    def epochs(self) -> list[tuple[int, Lane]]:
        """Return every epoch and lane of which there was something."""
        found = {(s.epoch, s.lane) for s in self.segments}
        if self.witness is not None:
            found |= {(self.witness.epoch, lane) for lane in Lane if self.witness.heads.get(lane.label, 0) > 0}
        return sorted(found)

    def owed(self, uplinks: dict[str, list[Lane]]) -> tuple[Owed, bool]:
        """Return what uplinks had not had, and whether the cursors could be read.

        Where they cannot, everything is to do again for the uplinks that are known: duplicates, never a loss.
        """
        known = {(uplink, lane) for uplink, lanes in uplinks.items() for lane in lanes}
        rows = self.table("todo", "uplink, epoch, lane, lo, hi", "uplink, epoch, lane, lo")
        rows = [row for row in rows if _is_range(row)]
        if "todo" not in self.broken:
            owed: Owed = {}
            for uplink, epoch, lane, lo, hi in rows:
                owed.setdefault((uplink, epoch, Lane(lane)), []).append((lo, hi))
            return owed, True
        known |= {(row[0], Lane(row[2])) for row in rows}
        everything = [(1, OPEN_END)]
        return {
            (u, epoch, lane): everything for epoch, lane in self.epochs() for u, mine in known if mine is lane
        }, False

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(
        self, segment: Segment, after: int, limit_bytes: int, *, backward: bool = False
    ) -> tuple[list[Found], int, bool]:
        """Return the next whole rows of a segment, the seq to go on from, and whether the table can be read further."""
        where, order = ("<", "DESC") if backward else (">", "ASC")
        question = f"SELECT {_ROW} FROM {segment.table} WHERE seq {where} ? ORDER BY seq {order}"
        found: list[Found] = []
        size = 0
        if self._connection is None:
            return [], after, False
        try:
            with contextlib.closing(self._connection.execute(question, (after,))) as cursor:
                for values in cursor:
                    after = int(values[0])
                    self._reach(segment, after, values[1], values[4], values[5])
                    row = self._found(segment, values)
                    found += [row] if row is not None else []
                    size += len(values[5]) + 100
                    if size > limit_bytes:
                        return found, after, True
        except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError):
            return found, after, False
        return found, OPEN_END, True

    def _reach(self, segment: Segment, seq: int, count: object, crc: object, body: object) -> None:
        """Note how far a lane went, also by a row that nobody can read."""
        told = isinstance(body, bytes) and zlib.crc32(body) == crc and type(count) is int and 0 < count <= MOST_RECORDS
        last = seq + count - 1 if told and isinstance(count, int) else seq
        key = (segment.epoch, segment.lane)
        if segment.first <= last <= self.end_of(segment):
            self._reached[key] = max(last, self._reached.get(key, 0))

    def _found(self, segment: Segment, values: typing.Sequence[typing.Any]) -> Found | None:
        seq, count, boot, codec, crc, body, mono_ms = values
        row = Row(segment.epoch, segment.lane, seq, count, boot, codec, crc, body)
        if not (segment.first <= seq <= self.end_of(segment) and 1 <= count <= MOST_RECORDS):
            return None
        if not _is_whole(row, self.groups):
            return None
        return Found(row, mono_ms, segment.first)

    def scan(self, wanted: list[Segment]) -> Iterator[list[Found]]:
        """Iterate over the rows of some segments that stand in leaf pages, a step at a time."""
        for records in self._steps():
            yield [found for rowid, record in records if (found := self._placed(rowid, record, wanted))]

    def _placed(self, rowid: int | None, record: list[Column], wanted: list[Segment]) -> Found | None:
        """Return a row of records that can be of one of the segments only."""
        if rowid is None or len(record) != 9 or not _is_row(record):
            return None
        count, boot, mono_ms, _, _, codec, crc, body = typing.cast(typing.Any, record[1:])
        if count < 1 or zlib.crc32(body) != crc:
            return None
        could = [s for s in self.segments if s.first <= rowid <= self.end_of(s) and self._may_have(s, boot, mono_ms)]
        fit = [(s, self._found(s, (rowid, count, boot, codec, crc, body, mono_ms))) for s in could]
        fit = [pair for pair in fit if pair[1] is not None]
        self.left = self.left or (self._adrift is not None and not could)
        return fit[0][1] if len(fit) == 1 and fit[0][0] in wanted else None

    def _may_have(self, segment: Segment, boot: int, mono_ms: int) -> bool:
        """Tell whether a row that was committed then can be of a segment's epoch."""
        if self._adrift is None or not self._adrift.knows:
            return True
        if self._adrift.is_newest(boot, mono_ms):
            return segment.epoch == self._adrift.epoch
        older = self._adrift.is_older(boot, mono_ms)
        return segment.epoch != self._adrift.epoch if older else segment.number != MADE_UP

    def end_of(self, segment: Segment) -> int:
        """Return the last seq that a segment can have."""
        later = [s.first for s in self.segments if s.lane is segment.lane and s.epoch == segment.epoch]
        return min((first - 1 for first in later if first > segment.first), default=OPEN_END)

    def _steps(self) -> Iterator[Iterator[Record]]:
        """Iterate over the records of all pages, some pages at a time: as the WAL leaves them, then the file alone."""
        for with_wal in () if self._blind else (True, False):
            try:
                pages = Pages(self.path, PAGE_BYTES, with_wal=with_wal)
            except (FileNotFoundError, IsADirectoryError):
                return
            with contextlib.closing(pages):
                for first in range(1, pages.count + 1, SCANNED_AT_ONCE):
                    yield pages.records(first, first + SCANNED_AT_ONCE - 1)
                if not pages.has_wal:
                    return


def _epoch(record: list[Column]) -> int:
    """Return the epoch that a record of table meta names; 0 where it is none."""
    return record[1] if len(record) == 2 and record[0] == "epoch" and type(record[1]) is int else 0


_SEGMENT = "lane, number, epoch, first, created_ms, last, bytes, from_ns, to_ns"


def _segment(row: typing.Sequence[typing.Any]) -> Segment | None:
    """Return a row of table segments; None where it is none."""
    if len(row) != 9 or not all(type(value) is int for value in row[:5]):
        return None
    lane, number, epoch, first, created_ms, last, size, *_ = row
    if lane not in (0, 1) or min(number, epoch, first) < 1 or created_ms < 0:
        return None
    if not all(value is None or type(value) is int for value in row[5:]) or (last is not None and last < first - 1):
        return None
    segment = Segment(Lane(lane), number, epoch, first, created_ms, first - 1 if last is None else last)
    segment.body_bytes = max(0, size or 0)
    return segment


def _group(row: typing.Sequence[typing.Any]) -> tuple[int, Group] | None:
    """Return a row of table groups; None where it is none."""
    if len(row) != 3 or not isinstance(row[1], bytes) or not isinstance(row[2], bytes) or len(row[1]) != 16:
        return None
    group = groups.decode(row[2])
    return (row[0], group) if group is not None and group.key == row[1] else None


def _is_range(row: typing.Sequence[typing.Any]) -> bool:
    return (
        isinstance(row[0], str)
        and all(type(value) is int for value in row[1:])
        and row[2] in (0, 1)
        and 1 <= row[3] <= row[4]
    )


def _is_intent(record: list[Column]) -> bool:
    """Tell whether a record has the columns of table intents."""
    if len(record) != 4 or not isinstance(record[0], str) or type(record[1]) is not int:
        return False
    return isinstance(record[2], bytes) and record[2][:1] == b"{" and isinstance(record[3], bytes | None)


def _is_row(record: list[Column]) -> bool:
    return record[0] is None and isinstance(record[8], bytes) and all(type(value) is int for value in record[1:8])


def _is_whole(row: Row, held: dict[int, Group]) -> bool:
    try:
        checked(row, held, {number: number for number in held})
    except DamagedBody:
        return False
    return True
