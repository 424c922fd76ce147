"""Rescue: what can still be read of a day's file that is made anew.

    2027-01-31.damaged --> chunks whose every column is what was written --> 2027-01-31.db <-- the rest, from the log

SQLite stops at the first page that it cannot read, so the list of chunks is read from both of its ends, and what lies
between two damaged pages number by number. A chunk holds
all rounds of its (hour, group, epoch) between its first and its last seq: what the log has of those is left out.
"""

from __future__ import annotations

import contextlib
import sqlite3
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fluxedge.log.history import days
from fluxedge.log.history.chunks import Chunk, DamagedChunk, reader_of
from fluxedge.log.history.copying import write_rollups
from fluxedge.log.history.day_writer import DayWriter
from fluxedge.log.history.days import DAY_HOURS, ChunkHead, DamagedDay
from fluxedge.model import OPEN_END, Group

COMMIT_BYTES = 8 << 20  # bodies in one transaction
MISSED_MOST = 10_000  # numbers in a row that are not found: then there is nothing more
_HEADS = "SELECT id, hour, grp, epoch, first, last, n, from_ns, to_ns FROM chunks"


class Taken:
    """Which rounds are in the new file already."""

    def __init__(self) -> None:
        self._spans: dict[tuple[int, bytes, int], list[tuple[int, int]]] = {}  # hour, group's key, epoch -> seqs

    def add(self, head: ChunkHead, group: Group) -> bool:
        """Take in a chunk; False when some of it is there."""
        spans = self._spans.setdefault((head.hour, group.key, head.epoch), [])
        if any(head.first <= last and first <= head.last for first, last in spans):
            return False
        spans.append((head.first, head.last))
        return True

    def has(self, hour: int, group: Group, epoch: int, seq: int) -> bool:
        """Tell whether a round is there."""
        spans = self._spans.get((hour, group.key, epoch), ())
        return any(first <= seq <= last for first, last in spans)


def sources(path: Path) -> list[Path]:
    """Return what may have something of a day, the best first."""
    aside = [other for other in reversed(days.aside(path.parent)) if other.name.startswith(f"{path.stem}.")]
    return [found for found in (path.with_suffix(".before"), *aside) if found.is_file()]


def rescue(path: Path, upto: Mapping[int, int], taken: Taken) -> None:
    """Write to a day's new file what its sources still have, up to the seam, and note it in `taken`.

    Raises:
        sqlite3.Error, OSError: the disk takes nothing.
    """
    day = days.day_of(path)
    for source in sources(path):
        writer: DayWriter | None = None
        touched: set[tuple[int, int]] = set()
        size = 0
        try:
            for group, head, body in _chunks(source, upto):
                if head.hour // DAY_HOURS != day or not taken.add(head, group):
                    continue
                if writer is None:
                    writer = DayWriter(path)
                    writer.begin()
                writer.write_chunk(group, head, body)
                touched.add((head.hour, writer.number_of(group)))
                size += len(body)
                if size >= COMMIT_BYTES:
                    writer.commit()
                    writer.begin()
                    size = 0
            if writer is not None:
                write_rollups(writer, touched, writer.groups())
                writer.commit()
        finally:
            if writer is not None:
                writer.close()


def _chunks(source: Path, upto: Mapping[int, int]) -> Iterator[tuple[Group, ChunkHead, bytes]]:
    """Yield the chunks of a damaged file that are whole."""
    try:
        connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        return
    with contextlib.closing(connection):
        decoded = {
            row[0]: days.decode_group(row[1]) for row in _until_damage(connection, "SELECT id, body FROM groups")
        }
        for head in _heads(connection) if decoded else ():
            group = decoded.get(head.grp)
            if group is None or head.first > upto.get(head.epoch, OPEN_END):
                continue
            body = _body(connection, head, group)
            if body is not None:
                yield group, head, body


def _heads(connection: sqlite3.Connection) -> list[ChunkHead]:
    """Return the heads that can be read: from both ends up to damage, and between them one by one."""
    found: dict[int, ChunkHead] = {}
    ends = []
    for order in ("ASC", "DESC"):
        at = 0
        for row in _until_damage(connection, f"{_HEADS} ORDER BY id {order}"):
            at = _keep(found, row)
        ends.append(at)
    number, end, missed = ends[0] + 1, ends[1] or OPEN_END, 0
    while number < end and missed < MISSED_MOST:
        missed += 1
        for row in _until_damage(connection, f"{_HEADS} WHERE id = {number}"):
            missed = 0
            _keep(found, row)
        number += 1
    return [found[number] for number in sorted(found)]


def _keep(found: dict[int, ChunkHead], row: tuple[typing.Any, ...]) -> int:
    if all(isinstance(value, int) for value in row):
        found[row[0]] = ChunkHead(*row)
    return int(row[0])


def _until_damage(connection: sqlite3.Connection, sql: str) -> Iterator[tuple[typing.Any, ...]]:
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from connection.execute(sql)


def _body(connection: sqlite3.Connection, head: ChunkHead, group: Group) -> bytes | None:
    """Return the body of a chunk; None when it is not what was written."""
    try:
        rows: Sequence[tuple[typing.Any]] = connection.execute(
            "SELECT body FROM chunks WHERE id = ?", (head.id,)
        ).fetchall()
        body = rows[0][0]
        chunk = Chunk(group, head.epoch, reader_of(body))
        chunk.check()
    except (sqlite3.DatabaseError, DamagedChunk, DamagedDay, LookupError, TypeError):
        return None
    seqs, stamps = chunk.seqs, chunk.at_ns
    mine = (seqs[0], seqs[-1], len(seqs), min(stamps), max(stamps)) if len(seqs) else ()
    return body if mine == tuple(head[4:]) else None
