"""Moving what was committed in memory to log.db: segments row by row, the other tables with the last step.

    memory  rounds_007 (epoch V)  --page-->  log.db  rounds_009 (epoch V)     behind the last segment there

Every step is one transaction and repeatable. What an attempt that was broken off has left on the disk is dropped by the
next one.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import typing

from fluxedge.log import cursors, segments
from fluxedge.log.cursors import Changes
from fluxedge.log.database import Missing, Opened
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import Group, Lane

PAGE_BYTES = 1 << 20  # bodies copied in one transaction
_ROW = "seq, n, boot, mono_ms, from_ns, to_ns, codec, crc, body"

Row = tuple[int, int, int, int, int, int, int, int, bytes]
Page = list[tuple[Segment, list[Row]]]  # segments of the memory


class Tables(typing.NamedTuple):
    """What is in memory beside the segments, as the tables' columns."""

    gaps: list[tuple[typing.Any, ...]]
    quarantine: list[tuple[typing.Any, ...]]
    intents: list[tuple[typing.Any, ...]]
    state: list[tuple[typing.Any, ...]]
    clock: list[tuple[typing.Any, ...]]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Tables:
        """Read them; on the memory's thread."""
        asked = (
            "SELECT id, uplink, epoch, lane, lo, hi, why, at_ms, said_epoch, said_seq FROM gap WHERE uplink <> ''",
            "SELECT uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload, tries, again FROM quarantine",
            "SELECT key, at_ms, request, result FROM intents",
            "SELECT k, v FROM state",
            "SELECT boot, mono_ms, utc_ms, source FROM clock",
        )
        return cls(*(connection.execute(sql).fetchall() for sql in asked))

    def write(self, connection: sqlite3.Connection) -> None:
        """Write them beside what is there; inside the caller's transaction."""
        connection.executemany(
            "INSERT INTO gap (id, uplink, epoch, lane, lo, hi, why, at_ms, said_epoch, said_seq)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uplink, epoch, lane, lo, hi) DO UPDATE SET"
            " said_epoch = excluded.said_epoch, said_seq = excluded.said_seq",
            self.gaps,
        )
        connection.executemany(
            "INSERT INTO quarantine (uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload, tries, again)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uplink, epoch, lane, lo, hi) DO UPDATE SET"
            " reason = excluded.reason, at_ms = excluded.at_ms, content_type = excluded.content_type,"
            " payload = excluded.payload, tries = max(tries, excluded.tries), again = excluded.again",
            self.quarantine,
        )
        connection.executemany(
            "INSERT INTO intents (key, at_ms, request, result) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET result = coalesce(excluded.result, result)",
            self.intents,
        )
        connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", self.state)
        connection.executemany("DELETE FROM clock WHERE boot = ? AND mono_ms = ?", [row[:2] for row in self.clock])
        connection.executemany("INSERT INTO clock (boot, mono_ms, utc_ms, source) VALUES (?, ?, ?, ?)", self.clock)


class Move:
    """One attempt to move a volatile epoch to the disk. Its methods are jobs; between them the loop owns it."""

    def __init__(self, held: list[Segment], opened: Opened, epoch: int) -> None:
        self.held = held  # as the loop knows them; those of `epoch` are in memory
        self._epoch = epoch
        self._stale = [s for s in opened.segments if s.epoch == epoch]
        known = {(s.lane, s.number, s.epoch): s for s in held}
        self._there = [(known.get((s.lane, s.number, s.epoch), s), s.last) for s in opened.segments if s.epoch != epoch]
        self.missing = [Missing(s.epoch, s.lane, last + 1, s.last) for s, last in self._there if last < s.last]
        for segment, last in self._there:
            segment.last = min(segment.last, last)
        numbers = {lane: [s.number for s, _ in self._there if s.lane is lane and s.number < SALVAGED] for lane in Lane}
        self._behind = {lane: max(mine, default=0) for lane, mine in numbers.items()}
        self._copies: dict[tuple[Lane, int], Segment] = {}  # lane and number in memory -> the segment on the disk
        self._upto = dict.fromkeys(Lane, 0)  # seqs copied

    def prepare(self, connection: sqlite3.Connection, groups: list[tuple[int, Group]], changes: Changes) -> None:
        """Make the disk ready: what it has too much of goes, groups and cursors are as the loop knows them."""
        for segment in self._stale:
            segments.drop(connection, segment)
        for segment, last in self._there:
            if last > segment.last:  # rows of a commit that was reported as failed
                segments.close(connection, segment)
        _write_groups(connection, groups)
        cursors.save(connection, changes)

    def page(self, connection: sqlite3.Connection) -> Page:
        """Read the next rows; on the memory's thread."""
        found: Page = []
        size = 0
        for segment in [s for s in self.held if s.epoch == self._epoch and s.last > self._upto[s.lane]]:
            rows: list[Row] = []
            sql = f"SELECT {_ROW} FROM {segment.table} WHERE seq > ? ORDER BY seq"
            for row in connection.execute(sql, (self._upto[segment.lane],)):
                rows.append(row)
                size += len(row[-1])
                if size >= PAGE_BYTES:
                    break
            found.append((segment, rows))
            if size >= PAGE_BYTES:
                break
        return found

    def put(self, connection: sqlite3.Connection, page: Page) -> None:
        """Write rows; on the disk's thread."""
        for segment, rows in page:
            copy = self._copy_of(segment)
            segments.create(connection, copy)
            connection.executemany(f"INSERT OR REPLACE INTO {copy.table} ({_ROW}) VALUES (?,?,?,?,?,?,?,?,?)", rows)

    def noted(self, page: Page) -> int:
        """Note that rows are on the disk; return the bytes of their bodies."""
        for segment, rows in page:
            if rows:
                self._upto[segment.lane] = rows[-1][0] + rows[-1][1] - 1
        return sum(len(row[-1]) for _, rows in page for row in rows)

    def finish(
        self,
        connection: sqlite3.Connection,
        *,
        tables: Tables,
        gone: set[str],
        compacted: dict[int, int],
        epoch: int,
        groups: list[tuple[int, Group]],
        changes: Changes,
    ) -> None:
        """Write all the rest, and the epoch in which the disk goes on."""
        _write_groups(connection, groups)
        connection.executemany("DELETE FROM state WHERE k = ?", [(key,) for key in gone])
        tables.write(connection)
        connection.executemany("INSERT OR REPLACE INTO compacted VALUES (?, ?)", compacted.items())
        for segment in self.moved():
            if segment.epoch == self._epoch:
                segments.close(connection, segment)
        cursors.save(connection, changes)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))

    def moved(self) -> list[Segment]:
        """Return the segments as they are on the disk after the move, oldest first in each lane."""
        found = [segment for segment, _ in self._there]
        for segment in self.held:
            if segment.epoch == self._epoch and segment.last >= segment.first:
                copy = self._copy_of(segment)
                held = (segment.last, segment.body_bytes, segment.from_ns, segment.to_ns)
                copy.last, copy.body_bytes, copy.from_ns, copy.to_ns = held
                found.append(copy)
        return sorted(found, key=lambda segment: (segment.lane, segment.epoch, segment.first))

    def _copy_of(self, segment: Segment) -> Segment:
        key = segment.lane, segment.number
        if key not in self._copies:
            self._behind[segment.lane] += 1
            self._copies[key] = dataclasses.replace(segment, number=self._behind[segment.lane])
        return self._copies[key]


def _write_groups(connection: sqlite3.Connection, groups: list[tuple[int, Group]]) -> None:
    """Write the groups that are not there yet; one that is there under another number gets this one besides."""
    there = {number for (number,) in connection.execute("SELECT id FROM groups")}
    for number, group in groups:
        if number not in there:
            row = (number, group.key, group.to_bytes())
            if not connection.execute("INSERT OR IGNORE INTO groups VALUES (?, ?, ?)", row).rowcount:
                other = group.key + number.to_bytes(4, "little")
                connection.execute("INSERT INTO groups VALUES (?, ?, ?)", (number, other, row[2]))
