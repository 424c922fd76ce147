"""The verifier's side of a power cut: what a process promised before it died, held against the log that it left.

One line a promise, written after the commit returned, to a place that the cut cannot take:

    O EPOCH                     the log was opened in this epoch
    P EPOCH LANE SEQ N CRC      a row of N records from SEQ on is durable; CRC-32 of its records as they were packed
    A EPOCH LANE LO HI          the peer acknowledges LO..HI (written before the cursor moves)
    I KEY                       the intent of a command is durable
    R KEY                       its result is durable

A row is one commit's batch of a lane.
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fluxedge.clock import SystemClock
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log import Log
from fluxedge.log.body import DamagedBody, Row, open_body, records
from fluxedge.log.ranges import RangeSet
from fluxedge.model import Group, Lane
from fluxedge.problems import LinkProblem

UPLINK = "cloud"
LIMITS = LogCfg(
    commit_s=Seconds(0.05),
    segment_bytes=Bytes(32 << 10),  # small: segments are made and dropped all the time
    backlog_bytes=Bytes(512 << 10),
    free_space_bytes=Bytes(0),
)

TORN = "the end of the log was lost"  # a commit that was cut short looks like one that was damaged: a new epoch begins

Stream = tuple[int, Lane]  # epoch, lane
Held = dict[Stream, dict[int, tuple[int, int]]]  # first seq of a row -> (records, CRC)


@dataclass
class Promises:
    """Everything that was promised so far, over all lives of the log."""

    rows: Held = field(default_factory=dict)
    acknowledged: dict[Stream, RangeSet] = field(default_factory=dict)
    intents: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    epochs: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def take(self, text: str) -> int:
        """Take what a process wrote before it died; return how many rows it promised."""
        count = 0
        for line in text.split("\n")[:-1]:  # a line that was cut short promises nothing
            what, *words = line.split(" ")
            if what == "P":
                epoch, lane, seq, n, crc = map(int, words)
                self._promise((epoch, Lane(lane)), seq, n, crc)
                count += 1
            elif what == "A":
                epoch, lane, lo, hi = map(int, words)
                self.acknowledged.setdefault((epoch, Lane(lane)), RangeSet()).add(lo, hi)
            elif what in ("I", "R"):
                (self.intents if what == "I" else self.results).add(words[0])
            elif what == "O":
                self.epochs.append(int(words[0]))
        return count

    def take_late(self, text: str) -> None:
        """Take what a process wrote after the fault: only the acknowledgements in it count."""
        self.take("".join(f"{line}\n" for line in text.split("\n")[:-1] if line.startswith("A ")))

    def _promise(self, stream: Stream, seq: int, n: int, crc: int) -> None:
        rows = self.rows.setdefault(stream, {})
        last = max((first + held[0] - 1 for first, held in rows.items()), default=0)
        if seq <= last:
            self.broken.append(f"{stream}: seq {seq} was given twice, {last} are held already")
        rows[seq] = (n, crc)

    @property
    def records(self) -> int:
        """Return how many records were promised."""
        return sum(n for rows in self.rows.values() for n, _ in rows.values())


@dataclass
class Found:
    """What a log holds that was opened again, and what of the promises it breaks."""

    held: int = 0  # records that were promised and can be read
    gone: int = 0  # that went after they were acknowledged
    gaps: int = 0  # that went as a gap
    lost: int = 0
    again: int = 0  # records that were acknowledged and will be sent once more
    epochs: int = 0  # 1: a new epoch had to begin behind a commit that was cut short
    broken: list[str] = field(default_factory=list)


def examine(state: Path, promises: Promises) -> Found:
    """Open the log of a state folder with the gateway's own code and hold it against the promises."""
    found = Found(broken=promises.broken)
    promises.broken = []
    try:
        log = Log(state, LIMITS, SystemClock())
    except LinkProblem as problem:
        found.broken.append(f"the log cannot be opened: {problem}")
        found.lost = promises.records
        return found
    asyncio.run(_examine(log, state, promises, found))
    return found


async def _examine(log: Log, state: Path, promises: Promises, found: Found) -> None:
    try:
        if log.damaged is not None:
            found.broken.append(f"the log was found damaged: {log.damaged}")
        if log.new_epoch_because.startswith(TORN):
            found.epochs += 1
        elif promises.epochs and log.epoch != promises.epochs[-1]:
            found.broken.append(f"a new epoch begins at {log.epoch}: {log.new_epoch_because}")
        tables = _Tables(state / "log.db")
        if tables.integrity != ["ok"]:
            found.broken.append(f"integrity_check: {tables.integrity[:3]}")
        held = {stream: await _rows(log, *stream, found) for stream in _streams(log)}
        for stream in set(held) | set(promises.rows):
            _judge_rows(stream, held.get(stream, {}), promises, tables, found)
        _judge_commands(promises, tables, found)
    finally:
        await log.close()


def _streams(log: Log) -> list[Stream]:
    return sorted({(segment.epoch, segment.lane) for segment in log.segments()})


async def _rows(log: Log, epoch: int, lane: Lane, found: Found) -> dict[int, tuple[int, int]]:
    """Read every row of a stream as a forward loop does."""
    rows: dict[int, tuple[int, int]] = {}
    seq = log.first_seq(epoch, lane)
    while True:
        page = await log.read(epoch, lane, seq, 256 << 10, _digest)
        for first, n, crc, fault in page:
            if fault:
                found.broken.append(f"epoch {epoch}, {lane.label} {first}: {fault}")
            if rows and first != seq:
                found.broken.append(f"epoch {epoch}, {lane.label}: {seq} should follow, {first} does")
            rows[first], seq = (n, crc), first + n
        if not page:
            return rows


def _digest(rows: list[Row], groups: Mapping[int, Group]) -> list[tuple[int, int, int, str]]:
    """Return (seq, records, CRC of the records, what is wrong) of each row."""
    page = []
    for row in rows:
        try:
            plain, decoded = open_body(row), len(list(records(row, groups)))
        except DamagedBody as damage:
            page.append((row.seq, row.count, 0, str(damage)))
            continue
        wrong = "" if decoded == row.count else f"{decoded} records where {row.count} should be"
        page.append((row.seq, row.count, zlib.crc32(plain), wrong))
    return page


class _Tables:
    """The tables of log.db, read without any code of the gateway."""

    def __init__(self, path: Path) -> None:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            self.integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            self.todo = self._ranges(connection, "todo")
            self.gap = self._ranges(connection, "gap")
            self.quarantine = self._ranges(connection, "quarantine")
            self.commands = dict(connection.execute("SELECT key, result IS NOT NULL FROM intents").fetchall())
        finally:
            connection.close()

    @staticmethod
    def _ranges(connection: sqlite3.Connection, table: str) -> dict[Stream, RangeSet]:
        found: dict[Stream, RangeSet] = {}
        rows = connection.execute(f"SELECT epoch, lane, lo, hi FROM {table} WHERE uplink = ?", (UPLINK,))
        for epoch, lane, lo, hi in rows.fetchall():
            found.setdefault((epoch, Lane(lane)), RangeSet()).add(lo, hi)
        return found


def _judge_rows(
    stream: Stream, held: dict[int, tuple[int, int]], promises: Promises, tables: _Tables, found: Found
) -> None:
    name = f"epoch {stream[0]}, {stream[1].label}"
    promised = promises.rows.setdefault(stream, {})
    for seq, row in held.items():  # a commit whose promise was cut off counts from now on
        promised.setdefault(seq, row)
    acknowledged = promises.acknowledged.get(stream, RangeSet())
    settled = RangeSet(list(acknowledged))
    for ranges in (tables.gap, tables.quarantine):
        for lo, hi in ranges.get(stream, RangeSet()):
            settled.add(lo, hi)
    for seq, (n, crc) in promised.items():
        if seq in held:
            found.held += n
            if held[seq] != (n, crc):
                found.broken.append(f"{name} {seq}: {held[seq]} is there, {n, crc} was promised")
        elif covers(settled, seq, seq + n - 1):
            delivered = covers(acknowledged, seq, seq + n - 1)
            found.gone, found.gaps = found.gone + n * delivered, found.gaps + n * (not delivered)
        else:
            found.lost += n
            found.broken.append(f"{name} {seq}..{seq + n - 1} was promised and is gone")
    _judge_cursor(name, stream, promised, settled, tables, found)
    todo = tables.todo.get(stream, RangeSet())
    found.again += sum(b - a + 1 for lo, hi in acknowledged for a, b in todo.intersect(lo, hi))


def _judge_cursor(
    name: str, stream: Stream, promised: dict[int, tuple[int, int]], settled: RangeSet, tables: _Tables, found: Found
) -> None:
    head = max((seq + n - 1 for seq, (n, _) in promised.items()), default=0)
    passed = RangeSet([(1, head)]) if head else RangeSet()
    for ranges in (tables.todo.get(stream, RangeSet()), settled):
        for lo, hi in list(ranges):
            passed.remove(lo, hi)
    if passed:
        found.broken.append(f"{name}: the cursor is beyond {list(passed)[:3]}, which nobody acknowledged")


def covers(ranges: RangeSet, lo: int, hi: int) -> bool:
    """Tell whether lo..hi lie in the ranges whole."""
    return ranges.intersect(lo, hi) == [(lo, hi)]


def _judge_commands(promises: Promises, tables: _Tables, found: Found) -> None:
    for key in promises.intents - set(tables.commands):
        found.lost += 1
        found.broken.append(f"the intent {key} was promised and is gone")
    for key in promises.results & set(tables.commands):
        if not tables.commands[key]:
            found.lost += 1
            found.broken.append(f"the result of {key} was promised and is gone")
