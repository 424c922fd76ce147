"""Queries: read-only, page by page, of a log that runs or that was left behind by a stopped gateway.

    segments --> pages of row heads (seq, stamps) --> rows that can match --> decoded on a thread --> records

Rounds that have left the log come out of the history, in their order.

A page ends its read transaction: one that stayed open would pin the WAL of the running gateway. Memory holds one page.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import aiosqlite

from fluxedge.log import groups, segments
from fluxedge.log.body import DamagedBody, Row, records
from fluxedge.log.filed import Filed
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Event, Group, Lane, Record, Round
from fluxedge.problems import LinkProblem

PAGE_HEADS = 512  # rows looked at in one read
PAGE_BYTES = 256 << 10  # stored bodies decoded at once: about a second of 100,000 points/s
TURN_RECORDS = 64  # handed out before the loop gets its turn

Damaged = Callable[[Row, DamagedBody], None]


class DamagedHistory(DamagedBody):
    """Something of the history cannot be read."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for. Empty collections mean all."""

    lane: Lane = Lane.ROUNDS
    since_ns: int | None = None  # stamps from here ...
    until_ns: int | None = None  # ... to before here; unsynced records stand where their stamp says
    first: int = 1  # seqs, inclusive
    last: int = OPEN_END
    epoch: int | None = None  # None = all, oldest first
    devices: Collection[str] = ()
    points: Collection[str] = ()  # "device.point"; rounds are cut down to these
    kinds: Collection[str] = ()  # of events
    limit: int = 0  # records; 0 = all
    newest_first: bool = False

    def takes(self, record: Record) -> bool:
        """Tell whether a record of the right lane and epoch matches, its points apart."""
        at_ns = record.body.at_ns
        if not self.first <= record.seq <= self.last:
            return False
        if (self.since_ns is not None and at_ns < self.since_ns) or (
            self.until_ns is not None and at_ns >= self.until_ns
        ):
            return False
        if isinstance(record.body, Round):
            return not self.devices or record.body.group.device in self.devices
        return (not self.kinds or record.body.kind in self.kinds) and (
            not self.devices or record.body.item.removeprefix("device:") in self.devices
        )

    def takes_row(self, first: int, count: int, from_ns: int, to_ns: int) -> bool:
        """Tell whether a row can hold a record that matches."""
        if first > self.last or first + count - 1 < self.first:
            return False
        return (self.since_ns is None or to_ns >= self.since_ns) and (self.until_ns is None or from_ns < self.until_ns)


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """What a lane of the log holds."""

    lane: Lane
    epochs: list[tuple[int, int, int]]  # (epoch, first seq, last seq), oldest first
    records: int  # in the log
    first_at_ns: int  # earliest and latest stamp in the log; 0 = nothing
    last_at_ns: int
    bytes: int  # compressed bodies
    segments: int
    filed_records: int  # in the history, those too that the log still has
    filed_bytes: int


@contextlib.asynccontextmanager
async def _open(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Open a log read-only.

    Raises:
        LinkProblem: there is none, or it cannot be read.
    """
    uri = _uri(path)
    try:
        async with aiosqlite.connect(uri, uri=True, isolation_level=None) as connection:
            await connection.execute_fetchall("PRAGMA query_only = 1")
            yield connection
    except (sqlite3.Error, OSError) as exc:
        refused = "unable to open" in str(exc) or isinstance(exc, PermissionError)
        hint = "Read it as the user that runs fluxedge, or as root." if refused else ""
        raise LinkProblem("log-damaged", f"{path}: {exc}", hint) from exc


def _uri(path: Path) -> str:
    """Return how to open a log read-only.

    SQLite reads beside a writer by the files -wal and -shm, and makes them when there are none; in a folder that we
    cannot write, a log without them is at rest and is read as it lies there.
    """
    if not path.exists():
        raise LinkProblem("log-damaged", f"there is no log at {path}", "Name the state folder with --state.")
    in_use = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm"))
    at_rest = "" if in_use or os.access(path.parent, os.W_OK) else "&immutable=1"
    return f"{path.absolute().as_uri()}?mode=ro{at_rest}"


async def query(path: Path, wanted: Query, damaged: Damaged | None = None) -> AsyncGenerator[Record, None]:
    """Yield the records that match, in the order of epoch and seq; rows that cannot be read go to `damaged`.

    Leave it early only through `contextlib.aclosing`, so that the log is closed at once.

    Raises:
        LinkProblem: there is no log, or it cannot be read.
    """
    async with contextlib.aclosing(pages(path, wanted, damaged)) as found:
        async for page in found:
            for i, record in enumerate(page, 1):
                yield record
                if not i % TURN_RECORDS:
                    await asyncio.sleep(0)


async def pages(path: Path, wanted: Query, damaged: Damaged | None = None) -> AsyncGenerator[list[Record], None]:
    """Yield the records of `query` in pages, each decoded on a thread."""
    left = wanted.limit or OPEN_END
    async with _open(path) as connection:
        reader = _Reader(connection, wanted, damaged)
        async with contextlib.aclosing(_pages(path, connection, reader, wanted)) as found:
            async for page in found:
                yield page[:left]
                left -= len(page)
                if left <= 0:
                    return


async def _pages(
    path: Path, connection: aiosqlite.Connection, reader: _Reader, wanted: Query
) -> AsyncGenerator[list[Record], None]:
    """Yield the pages of a query, epoch by epoch: what is only in the history, and what the log holds."""
    held, lowest = await _segments(connection, wanted)
    if wanted.lane is Lane.EVENTS:
        for segment in held:
            async with contextlib.aclosing(reader.pages(segment)) as found:
                async for page in found:
                    yield page
        return
    filed = Filed(path.parent, connection, wanted, reader)
    async for epoch in filed.in_order(lowest):
        parts: list[Segment | tuple[int, int]] = [(1, lowest.get(epoch, OPEN_END) - 1)]
        mine = [segment for segment in held if segment.epoch == epoch]
        parts = [*mine, *parts] if wanted.newest_first else [*parts, *mine]
        for part in parts:
            if isinstance(part, Segment):
                async with contextlib.aclosing(reader.pages(part)) as found:
                    async for page in found:
                        yield page
                part = await _left_of(connection, reader, part)
            async with contextlib.aclosing(filed.pages(epoch, *part)) as found:
                async for page in found:
                    yield page


async def _left_of(connection: aiosqlite.Connection, reader: _Reader, segment: Segment) -> tuple[int, int]:
    """Return the seqs of a segment that was dropped while it was read, as far as they were not read; else none."""
    number = (segment.lane, segment.number)
    if await connection.execute_fetchall("SELECT 1 FROM segments WHERE lane = ? AND number = ?", number):
        return 1, 0
    return (segment.first, reader.at - 1) if reader.back else (reader.at, segment.last)


async def summary(path: Path) -> list[LaneSummary]:
    """Return what each lane holds.

    Raises:
        LinkProblem: there is no log, or it cannot be read.
    """
    async with _open(path) as connection:
        found = []
        for lane in Lane:
            held, _ = await _segments(connection, Query(lane))
            filled = [segment for segment in held if segment.last >= segment.first]
            reader = _Reader(connection, Query(lane), None)
            filed = await Filed(path.parent, connection, Query(), reader).epochs() if lane is Lane.ROUNDS else {}
            epochs = {epoch: (epoch, past.first, past.last) for epoch, past in filed.items()}
            for segment in filled:
                first = epochs.get(segment.epoch, (0, segment.first))[1]
                epochs[segment.epoch] = (segment.epoch, first, segment.last)
            found.append(
                LaneSummary(
                    lane=lane,
                    epochs=sorted(epochs.values()),
                    records=sum(segment.last - segment.first + 1 for segment in filled),
                    first_at_ns=min((segment.from_ns for segment in filled), default=0),
                    last_at_ns=max((segment.to_ns for segment in filled), default=0),
                    bytes=sum(segment.body_bytes for segment in filled),
                    segments=len(held),
                    filed_records=sum(past.rounds for past in filed.values()),
                    filed_bytes=sum(past.bytes for past in filed.values()),
                )
            )
        return found


async def _segments(connection: aiosqlite.Connection, wanted: Query) -> tuple[list[Segment], dict[int, int]]:
    """Return the segments that can hold what is wanted, in the order of the query, and where the log's epochs begin."""
    rows = await connection.execute_fetchall(
        "SELECT lane, number, epoch, first, created_ms, last, bytes, from_ns, to_ns FROM segments"
        " WHERE lane = ? AND epoch = coalesce(?, epoch) ORDER BY number",
        (wanted.lane, wanted.epoch),
    )
    found = []
    lowest: dict[int, int] = {}
    for lane, number, epoch, first, created_ms, *held in rows:
        lowest[epoch] = min(first, lowest.get(epoch, first))
        segment = Segment(Lane(lane), number, epoch, first, created_ms, first - 1)
        if held[0] is None:
            sums = await _fetch(connection, segments.sums(segment), (first - 1,))
            held = list(sums[0]) if sums else [first - 1, 0, 0, 0]
        segment.last, segment.body_bytes, segment.from_ns, segment.to_ns = held
        if wanted.takes_row(first, segment.last - first + 1, segment.from_ns, segment.to_ns):
            found.append(segment)
    return (found[::-1] if wanted.newest_first else found), lowest


async def _fetch(
    connection: aiosqlite.Connection, sql: str, values: Iterable[typing.Any]
) -> list[tuple[typing.Any, ...]]:
    """Read all rows of a question about a segment; none when retention has dropped it in the meantime."""
    try:
        return [tuple(row) for row in await connection.execute_fetchall(sql, values)]
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return []
        raise


class _Reader:
    """Read one query's segments page by page."""

    def __init__(self, connection: aiosqlite.Connection, wanted: Query, damaged: Damaged | None) -> None:
        self._connection = connection
        self._wanted = wanted
        self._damaged = damaged
        self._groups: dict[int, Group] = {}
        self._last_group_id = 0
        self.back = wanted.newest_first
        self.at = 0  # seqs of the segment that were read: those before this one, or those from it on
        self._only: set[int] | None = set() if wanted.devices or wanted.points else None
        self._cuts: dict[bytes, tuple[Group, tuple[int, ...]]] = {}  # group key -> what `points` leaves of it

    async def pages(self, segment: Segment) -> AsyncGenerator[list[Record], None]:
        """Yield the matching records of a segment."""
        self.at = segment.last + 1 if self.back else segment.first
        async with contextlib.aclosing(self._rows(segment)) as found:
            async for rows in found:
                news = await self._connection.execute_fetchall(
                    "SELECT id, body FROM groups WHERE id > ? ORDER BY id", (self._last_group_id,)
                )
                page, bad = await asyncio.to_thread(self._decode, rows, news)
                for row, damage in bad:
                    if self._damaged is not None:
                        self._damaged(row, damage)
                if rows:
                    self.at = rows[0].seq if self.back else rows[-1].last + 1
                if page:
                    yield page

    async def _rows(self, segment: Segment) -> AsyncGenerator[list[Row], None]:
        """Yield rows that can match, about PAGE_BYTES at a time."""
        async with contextlib.aclosing(self._heads(segment)) as found:
            async for heads in found:
                while heads:
                    taken, size = 1, heads[0][1]
                    while taken < len(heads) and size + heads[taken][1] <= PAGE_BYTES:
                        size += heads[taken][1]
                        taken += 1
                    seqs, heads = [seq for seq, _ in heads[:taken]], heads[taken:]
                    rows = await _fetch(
                        self._connection,
                        f"SELECT seq, n, boot, codec, crc, body FROM {segment.table}"
                        f" WHERE seq IN ({','.join('?' * len(seqs))}) ORDER BY seq",
                        seqs,
                    )
                    yield [Row(segment.epoch, segment.lane, *row) for row in rows]

    async def _heads(self, segment: Segment) -> AsyncGenerator[list[tuple[int, int]], None]:
        """Yield (seq, body bytes) of rows that can match, in the order of the query."""
        wanted = self._wanted
        back = wanted.newest_first
        where, order = ("<", "DESC") if back else (">", "ASC")
        at = min(wanted.last, segment.last) + 1 if back else await self._before_first(segment)
        while True:
            heads = await _fetch(
                self._connection,
                f"SELECT seq, n, from_ns, to_ns, length(body) FROM {segment.table}"
                f" WHERE seq {where} ? ORDER BY seq {order} LIMIT {PAGE_HEADS}",
                (at,),
            )
            matching = [(head[0], head[4]) for head in heads if wanted.takes_row(*head[:4])]
            if matching:
                yield matching
            if len(heads) < PAGE_HEADS or (not back and heads[-1][0] > wanted.last):
                return
            at = heads[-1][0]
            if back and at <= wanted.first:
                return

    async def _before_first(self, segment: Segment) -> int:
        """Return a seq just before the row that holds the first seq wanted."""
        sql = f"SELECT max(seq) FROM {segment.table} WHERE seq <= ?"
        rows = await _fetch(self._connection, sql, (self._wanted.first,))
        return (rows[0][0] - 1) if rows and rows[0][0] else 0

    def _learn_groups(self, news: Iterable[typing.Any]) -> None:
        """Take in the groups that were written since the last page; on a thread, because a large one takes 0.4 ms."""
        for number, body in news:
            self._last_group_id = number
            group = groups.decode(body)
            if group is None:
                continue  # its rounds are found damaged
            self._groups[number] = group
            if self._only is not None and self.concerns(group):
                self._only.add(number)

    def concerns(self, group: Group) -> bool:
        """Tell whether a group has what is asked for."""
        wanted = self._wanted
        if wanted.devices and group.device not in wanted.devices:
            return False
        return not wanted.points or any(f"{group.device}.{name}" in wanted.points for name in group.names)

    def _decode(
        self, rows: list[Row], news: Iterable[typing.Any]
    ) -> tuple[list[Record], list[tuple[Row, DamagedBody]]]:
        """Return the matching records of rows, and the rows that are damaged; on a thread."""
        self._learn_groups(news)
        page: list[Record] = []
        bad: list[tuple[Row, DamagedBody]] = []
        for row in rows:
            try:
                for record in records(row, self._groups, self._wanted.first, self._only):
                    if self._wanted.takes(record):
                        page.append(self._cut(record))
            except DamagedBody as damage:
                bad.append((row, damage))
        if self._wanted.newest_first:
            page.reverse()
        return page, bad

    def shaped(self, page: list[Record]) -> list[Record]:
        """Return the records of a page that match, cut."""
        return [self._cut(record) for record in page if self._wanted.takes(record)]

    def tell_history(self, text: str) -> None:
        """Tell what of the history cannot be read."""
        if self._damaged is not None:
            self._damaged(Row(0, Lane.ROUNDS, 0, 0, 0, 0, 0, b""), DamagedHistory(text))

    def _cut(self, record: Record) -> Record:
        """Leave of a round the points that are asked for."""
        round_ = record.body
        if not self._wanted.points or isinstance(round_, Event):
            return record
        group, keep = self._cuts.get(round_.group.key) or self._make_cut(round_.group)
        cut = dataclasses.replace(
            round_,
            group=group,
            raws=tuple([round_.raws[i] for i in keep]),
            values=tuple([round_.values[i] for i in keep]),
            quality=bytes([round_.quality[i] for i in keep]) if round_.quality else b"",
        )
        return dataclasses.replace(record, body=cut)

    def _make_cut(self, group: Group) -> tuple[Group, tuple[int, ...]]:
        keep = tuple(i for i, name in enumerate(group.names) if f"{group.device}.{name}" in self._wanted.points)
        cut = Group(group.device, group.name, tuple(group.points[i] for i in keep), group.label)
        self._cuts[group.key] = cut, keep
        return cut, keep
