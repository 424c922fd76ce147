"""Batches: what commits together, and the transaction that writes it."""

from __future__ import annotations

import sqlite3
import typing
from dataclasses import dataclass, field

from fluxedge.log import cursors, quarantine, retention, segments
from fluxedge.log.body import Row, close_body
from fluxedge.log.cursors import Changes
from fluxedge.log.retention import Gap, Loss
from fluxedge.log.segments import Segment
from fluxedge.model import Group, Lane

QuarantineRow = tuple[str, int, Lane, int, int, str, int, str, bytes]  # uplink to payload, as the table's columns
ClockRow = tuple[int, int, int, str]  # boot, mono_ms, utc_ms, source


@dataclass(slots=True)
class Batch:
    """What commits together. Rounds and events are packed when they are added."""

    parts: dict[Lane, list[bytes]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    stamps: dict[Lane, tuple[int, int]] = field(default_factory=dict)  # earliest and latest at_ns
    intents: list[tuple[str, int, bytes]] = field(default_factory=list)  # key, at_ms, request
    results: list[tuple[str, bytes]] = field(default_factory=list)  # key, result
    state: dict[str, bytes | None] = field(default_factory=dict)  # None deletes
    clock: list[ClockRow] = field(default_factory=list)
    announced: list[tuple[int, int]] = field(default_factory=list)  # gap, index of its event among parts[EVENTS]
    packed_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(any(self.parts.values()) or self.intents or self.results or self.state or self.clock)

    def add(self, lane: Lane, part: bytes, at_ns: int) -> None:
        """Append a packed record."""
        self.parts[lane].append(part)
        self.packed_bytes += len(part)
        low, high = self.stamps.get(lane, (at_ns, at_ns))
        self.stamps[lane] = (min(low, at_ns), max(high, at_ns))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch goes in one lane."""

    segment: Segment
    seq: int  # of its first record
    new: bool
    closing: Segment | None = None  # the lane's current segment, which the new one follows


class Written(typing.NamedTuple):
    """What a commit made."""

    rows: list[tuple[Row, Place]]
    gaps: list[Gap]


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction: a batch with everything that rides along. Repeatable: the same seqs, the same rows."""

    epoch: int
    boot: int
    now_ms: int
    mono_ms: int
    batch: Batch
    places: dict[Lane, Place]
    groups: list[tuple[int, Group]]  # used for the first time
    changes: Changes
    aside: list[QuarantineRow]
    lost: list[Loss]

    def write(self, connection: sqlite3.Connection) -> Written:
        """Write everything; the writer's job."""
        connection.executemany(
            "INSERT OR REPLACE INTO groups VALUES (?, ?, ?)",
            [(number, group.key, group.to_bytes()) for number, group in self.groups],
        )
        rows = [(self._write_row(connection, lane, place), place) for lane, place in self.places.items()]
        self._write_tables(connection)
        cursors.save(connection, self.changes)
        gaps = [gap for loss in self.lost for gap in retention.tear(connection, loss, self.now_ms)]
        return Written(rows, gaps + quarantine.add(connection, self.aside, self.now_ms))

    def _write_row(self, connection: sqlite3.Connection, lane: Lane, place: Place) -> Row:
        parts = self.batch.parts[lane]
        codec, crc, body = close_body(parts)
        row = Row(self.epoch, lane, place.seq, len(parts), self.boot, codec, crc, body, *self.batch.stamps[lane])
        if place.closing:
            segments.close(connection, place.closing)
        if place.new:
            segments.create(connection, place.segment)
        segments.append(connection, place.segment, row, self.mono_ms)
        return row

    def _write_tables(self, connection: sqlite3.Connection) -> None:
        batch = self.batch
        connection.executemany("INSERT OR IGNORE INTO intents (key, at_ms, request) VALUES (?, ?, ?)", batch.intents)
        connection.executemany("UPDATE intents SET result = ?2 WHERE key = ?1", batch.results)
        kept = [(key, value) for key, value in batch.state.items() if value is not None]
        connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", kept)
        gone = [(key,) for key, value in batch.state.items() if value is None]
        connection.executemany("DELETE FROM state WHERE k = ?", gone)
        connection.executemany("DELETE FROM clock WHERE boot = ? AND mono_ms = ?", [row[:2] for row in batch.clock])
        connection.executemany("INSERT INTO clock (boot, mono_ms, utc_ms, source) VALUES (?, ?, ?, ?)", batch.clock)
        if batch.announced:
            first = self.places[Lane.EVENTS].seq
            said = [(self.epoch, first + index, gap_id) for gap_id, index in batch.announced]
            connection.executemany("UPDATE gap SET said_epoch = ?, said_seq = ? WHERE id = ?", said)
