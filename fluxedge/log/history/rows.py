"""Reading log.db for compaction: rows of rounds, page by page; no read transaction lasts longer than a page."""

from __future__ import annotations

import sqlite3
import typing
from collections.abc import Callable, Iterator

from fluxedge.log import groups as stored_groups
from fluxedge.log import segments
from fluxedge.log.body import Row
from fluxedge.log.damage import is_damage
from fluxedge.log.history.units import RowHead
from fluxedge.log.segments import Segment
from fluxedge.model import Group, Lane

PAGE_HEADS = 512
PAGE_BYTES = 256 << 10  # bodies in one read: a few milliseconds

Wanted = Callable[[RowHead], bool]


class LogRows:
    """The rounds of a log, read beside its writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` is read-only and in autocommit."""
        self._connection = connection
        self._segments = [s for s in segments.load(connection) if s.lane is Lane.ROUNDS and s.last >= s.first]
        self.groups: dict[int, Group] = {}
        for number, body in connection.execute("SELECT id, body FROM groups ORDER BY id").fetchall():
            group = stored_groups.decode(body)
            if group is not None:
                self.groups[number] = group
        self.compacted: dict[int, int] = dict(connection.execute("SELECT epoch, upto FROM compacted").fetchall())
        self.unreadable: set[str] = set()  # tables with pages that SQLite cannot read

    def epochs(self) -> list[int]:
        """Return the epochs that have rounds, oldest first."""
        return sorted({segment.epoch for segment in self._segments})

    def read(self, epoch: int, after: int, upto: int, wanted: Wanted | None = None) -> Iterator[tuple[RowHead, Row]]:
        """Yield the rows of an epoch that hold a seq in (after, upto], and that are `wanted`.

        What was dropped in the meantime is left out; so is the rest of a segment that SQLite cannot read.
        """
        for segment in self._segments:
            if segment.epoch == epoch and segment.last > after and segment.first <= upto:
                try:
                    yield from self._read(segment, after, upto, wanted)
                except sqlite3.DatabaseError as exc:
                    if "no such table" in str(exc):
                        continue
                    if not is_damage(exc):
                        raise
                    self.unreadable.add(f"{segment.table}: {exc}")

    def _read(self, segment: Segment, after: int, upto: int, wanted: Wanted | None) -> Iterator[tuple[RowHead, Row]]:
        table = segment.table
        found = self._fetch(f"SELECT max(seq) FROM {table} WHERE seq <= ?", after + 1)
        at = (found[0][0] or 1) - 1
        while True:
            heads = self._fetch(
                f"SELECT seq, n, boot, mono_ms, from_ns, to_ns, length(body) FROM {table}"
                f" WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {PAGE_HEADS}",
                at,
                upto,
            )
            taken = [(RowHead(*head[:6]), head[6]) for head in heads if head[0] + head[1] - 1 > after]
            for page in _pages([(head, size) for head, size in taken if wanted is None or wanted(head)]):
                marks = ",".join("?" * len(page))
                sql = f"SELECT seq, n, boot, codec, crc, body FROM {table} WHERE seq IN ({marks}) ORDER BY seq"
                rows = self._fetch(sql, *[head.seq for head in page])
                by_seq = {row[0]: Row(segment.epoch, Lane.ROUNDS, *row) for row in rows}
                yield from ((head, by_seq[head.seq]) for head in page if head.seq in by_seq)
            if len(heads) < PAGE_HEADS:
                return
            at = heads[-1][0]

    def _fetch(self, sql: str, *values: int) -> list[typing.Any]:
        return self._connection.execute(sql, values).fetchall()


def _pages(heads: list[tuple[RowHead, int]]) -> Iterator[list[RowHead]]:
    """Cut heads into pages of about PAGE_BYTES."""
    page: list[RowHead] = []
    size = 0
    for head, length in heads:
        if page and size + length > PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(head)
        size += length
    if page:
        yield page
