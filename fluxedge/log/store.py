"""The log as the rest of fluxedge sees it: commit batches, read by seq, move cursors.

pipeline --Batch--> commit --> writer thread: one transaction, FULL --> seqs are durable --> listeners
forward loop --read--> reader thread: rows by seq --> transform --> messages --> acknowledged --> cursors.settle
"""

from __future__ import annotations

import asyncio
import sqlite3
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fluxedge.clock import Clock
from fluxedge.config.structs import LogCfg
from fluxedge.log import cursors, database, retention, segments
from fluxedge.log.body import Row, close_body, pack_event, pack_round
from fluxedge.log.cursors import Cursors
from fluxedge.log.retention import Gap, Limits
from fluxedge.log.segments import Segment
from fluxedge.log.writer import Writer
from fluxedge.model import OPEN_END, Event, Group, Lane, Round
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message

T = typing.TypeVar("T")


class LogFault(LinkProblem):
    """A commit failed; the same batch may be committed again."""


@dataclass(slots=True)
class Batch:
    """What commits together. Rounds and events are packed when they are added."""

    parts: dict[Lane, list[bytes]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    intents: list[tuple[str, int, bytes]] = field(default_factory=list)  # key, at_ms, request
    results: list[tuple[str, bytes]] = field(default_factory=list)  # key, result
    state: dict[str, bytes | None] = field(default_factory=dict)  # None deletes
    announced: list[int] = field(default_factory=list)  # gaps whose events are in this batch
    packed_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(any(self.parts.values()) or self.intents or self.results or self.state)


class Log:
    """The one append-only store of a gateway."""

    def __init__(self, state_dir: Path, cfg: LogCfg, clock: Clock) -> None:
        """Open the log below `state_dir` (blocking: called before the loop's work begins).

        Raises:
            LinkProblem: it cannot be opened.
        """
        self.path = state_dir / "log.db"
        self._witness_path = state_dir / "log.witness"
        self._clock = clock
        self._limits = Limits(
            backlog_bytes=cfg.backlog_bytes,
            free_space_bytes=cfg.free_space_bytes,
            keep_ms={Lane.ROUNDS: int(cfg.keep_s * 1000), Lane.EVENTS: int(cfg.keep_events_s * 1000)},
            rotate_bytes=cfg.segment_bytes,
            rotate_ms=max(60_000, min(86_400_000, int(cfg.keep_s * 1000 / 10))),
        )
        opened = database.open_log(self.path, self._witness_path, clock)
        self.epoch, self.boot, self.heads = opened.epoch, opened.boot, opened.heads
        self.new_epoch_because = opened.new_epoch_because
        self._segments = opened.segments
        self._groups: dict[int, Group] = {}
        self._group_ids: dict[bytes, int] = {}
        self._fresh_groups: list[int] = []  # ids that are not in the database yet
        self.cursors = Cursors(self.epoch)
        self.unannounced: list[Gap] = []
        self._aside: list[tuple[typing.Any, ...]] = []  # quarantine rows that are not written yet
        self._lost: list[tuple[str, int, Lane, int, int, str]] = []  # gaps that are not written yet
        self._load(opened.connection)
        self._writer = Writer(opened.connection)
        self._reading = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, check_same_thread=False)
        self._reading.execute("PRAGMA query_only = 1")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="log-reader")
        self.listeners: list[Callable[[], None]] = []  # called on the loop after each commit with records
        self.commits = 0
        self.committed_records = 0
        self.used_bytes = retention.used_bytes(self._reading, self.path)
        self.stored_bytes = 0  # bodies written since the start
        self._housekept_ms = 0

    def _load(self, connection: sqlite3.Connection) -> None:
        for group_id, body in connection.execute("SELECT id, body FROM groups"):
            group = Group.from_bytes(body)
            self._groups[group_id] = group
            self._group_ids[group.key] = group_id
        self.cursors.load(connection)
        for epoch, lane in self.cursors.epochs():
            if epoch != self.epoch:
                self.cursors.close_epoch(epoch, lane, self._last_of(epoch, lane))
        rows = connection.execute("SELECT id, uplink, epoch, lane, lo, hi, why FROM gap WHERE announced = 0")
        self.unannounced = [
            Gap(i, uplink, epoch, Lane(lane), lo, hi, why) for i, uplink, epoch, lane, lo, hi, why in rows
        ]

    def _last_of(self, epoch: int, lane: Lane) -> int:
        return max((s.last for s in self._segments if s.epoch == epoch and s.lane is lane), default=0)

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_round(self, batch: Batch, round_: Round) -> None:
        """Pack a round into a batch; its group is written before its first use."""
        group_id = self._group_ids.get(round_.group.key)
        if group_id is None:
            group_id = max(self._groups, default=0) + 1
            self._groups[group_id] = round_.group
            self._group_ids[round_.group.key] = group_id
            self._fresh_groups.append(group_id)
        part = pack_round(group_id, round_)
        batch.parts[Lane.ROUNDS].append(part)
        batch.packed_bytes += len(part)

    def add_event(self, batch: Batch, event: Event) -> None:
        """Pack an event into a batch."""
        part = pack_event(event)
        batch.parts[Lane.EVENTS].append(part)
        batch.packed_bytes += len(part)

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable, with the cursors' changes; one commit at a time.

        Raises:
            LogFault: it failed; the batch may be committed again, its seqs stay the same.
        """
        changes = self.cursors.take_changes()
        fresh, aside, lost = list(self._fresh_groups), list(self._aside), list(self._lost)
        now_ms, mono_ms = self._clock.wall_ns() // 10**6, self._clock.mono_ns() // 10**6

        def job(connection: sqlite3.Connection) -> tuple[list[tuple[Row, Segment, bool]], list[Gap]]:
            rows = self._write(connection, batch, fresh, now_ms, mono_ms)
            cursors.save(connection, changes)
            connection.executemany("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?)", aside)
            return rows, [_add_gap(connection, loss, now_ms) for loss in lost]

        try:
            rows, gaps = await self._writer.run(job)
        except sqlite3.Error as exc:
            self.cursors.put_back(changes)
            raise LogFault(
                "log-write-failed", f"{exc.sqlite_errorname}: {exc}", "Is the disk full, read-only or failing?"
            ) from exc
        del self._fresh_groups[: len(fresh)], self._aside[: len(aside)], self._lost[: len(lost)]
        self.unannounced += gaps
        for row, segment, is_new in rows:
            if is_new:
                self._segments.append(segment)
            segment.last = row.last
            segment.body_bytes += len(row.body)
            self.heads[row.lane] = row.last
            self.committed_records += row.count
            self.stored_bytes += len(row.body)
        self.unannounced = [gap for gap in self.unannounced if gap.id not in batch.announced]
        self.commits += 1
        if rows:
            for listener in self.listeners:
                listener()

    def _write(
        self,
        connection: sqlite3.Connection,
        batch: Batch,
        fresh: list[int],
        now_ms: int,
        mono_ms: int,
    ) -> list[tuple[Row, Segment, bool]]:
        written = []
        for group_id in fresh:
            group = self._groups[group_id]
            connection.execute(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?)", (group_id, group.key, group.to_bytes())
            )
        for lane in Lane:
            parts = batch.parts[lane]
            if not parts:
                continue
            codec, crc, body = close_body(parts)
            row = Row(self.epoch, lane, self.heads[lane] + 1, len(parts), self.boot, codec, crc, body)
            segment, is_new = self._segment_for(connection, row, now_ms)
            segments.append(connection, segment, row, mono_ms)
            written.append((row, segment, is_new))
        connection.executemany("INSERT OR IGNORE INTO intents (key, at_ms, request) VALUES (?, ?, ?)", batch.intents)
        connection.executemany("UPDATE intents SET result = ?2 WHERE key = ?1", batch.results)
        connection.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?)", [(k, v) for k, v in batch.state.items() if v is not None]
        )
        connection.executemany("DELETE FROM state WHERE k = ?", [(k,) for k, v in batch.state.items() if v is None])
        connection.executemany("UPDATE gap SET announced = 1 WHERE id = ?", [(i,) for i in batch.announced])
        return written

    def _segment_for(self, connection: sqlite3.Connection, row: Row, now_ms: int) -> tuple[Segment, bool]:
        mine = [s for s in self._segments if s.lane is row.lane]
        if mine and mine[-1].epoch == self.epoch and not retention.must_rotate(mine[-1], self._limits, now_ms):
            return mine[-1], False
        number = mine[-1].number + 1 if mine else 1
        segment = Segment(row.lane, number, self.epoch, row.seq, now_ms, row.seq - 1, 0)
        segments.create(connection, segment)
        return segment, True

    def quarantine(self, uplink: str, message: Message, reason: str) -> None:
        """Keep refused records aside, as they were sent; written with the next commit."""
        row = (uplink, message.epoch, message.lane, message.lo, message.hi, reason)
        self._aside.append((*row, self._clock.wall_ns() // 10**6, message.payload))

    def lose(self, uplink: str, epoch: int, lane: Lane, lo: int, hi: int) -> None:
        """Give up records that cannot be read; the next commit makes a gap of them, which is then announced."""
        self._lost.append((uplink, epoch, lane, lo, hi, "damaged"))
        self.cursors.settle(uplink, epoch, lane, lo, hi)

    async def save_cursors(self) -> None:
        """Save what was acknowledged, without waiting for records to commit."""
        if self.cursors.dirty or self._aside or self._lost:
            await self.commit(Batch())

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(
        self,
        epoch: int,
        lane: Lane,
        seq: int,
        limit_bytes: int,
        then: Callable[[list[Row], typing.Mapping[int, Group]], T],
    ) -> T:
        """Read rows from `seq` on and run `then` on them, both on the reader's thread.

        Rows come until `limit_bytes` of stored bodies are full, at least one if there is any; none when `seq` is
        beyond the head or was dropped.
        """
        holding = [s for s in self._segments if s.lane is lane and s.epoch == epoch and s.last >= seq]

        def work() -> T:
            rows: list[Row] = []
            for segment in holding[:1]:
                try:
                    rows = segments.read(self._reading, segment, seq, limit_bytes)
                except sqlite3.OperationalError:  # dropped by retention in the meantime
                    rows = []
            return then(rows, self._groups)

        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def segments(self) -> list[Segment]:
        """Return the segments, oldest first in each lane."""
        return list(self._segments)

    def first_seq(self, epoch: int, lane: Lane) -> int:
        """Return the oldest seq that is still held; head + 1 when none is."""
        mine = [s.first for s in self._segments if s.epoch == epoch and s.lane is lane]
        return min(mine, default=self.heads[lane] + 1 if epoch == self.epoch else 1)

    def begin_uplink(self, uplink: str, lanes: list[Lane], start: str) -> None:
        """Give a new uplink its cursors; give a known one what the epoch of today adds."""
        known = self.cursors.known(uplink)
        for lane in lanes:
            if any(epoch == self.epoch for epoch, _ in self.cursors.of(uplink, lane)):
                continue
            if known or start == "newest":
                self.cursors.begin(uplink, lane, self.epoch, 1 if known else self.heads[lane] + 1)
                continue
            for epoch in sorted({s.epoch for s in self._segments if s.lane is lane} - {self.epoch}):
                self.cursors.begin(uplink, lane, epoch, self.first_seq(epoch, lane), self._last_of(epoch, lane))
            self.cursors.begin(uplink, lane, self.epoch, self.first_seq(self.epoch, lane), OPEN_END)

    async def command_results(self) -> dict[str, tuple[bytes, bytes | None]]:
        """Return remembered commands: key -> (request, result or None when it was interrupted)."""

        def job(connection: sqlite3.Connection) -> dict[str, tuple[bytes, bytes | None]]:
            return {
                k: (request, result)
                for k, request, result in connection.execute("SELECT key, request, result FROM intents")
            }

        return await self._writer.run(job)

    async def load_state(self) -> dict[str, bytes]:
        """Return every state row."""
        return await self._writer.run(lambda c: dict(c.execute("SELECT k, v FROM state")))

    # --- housekeeping -------------------------------------------------------------------------------------------------

    async def housekeep(self, uplinks: list[str]) -> None:
        """Drop what is too old or too much, forget commands of yesterday; gaps for `uplinks` go to `unannounced`.

        Raises:
            LogFault: the database cannot be written.
        """
        now_ms = self._clock.wall_ns() // 10**6
        try:
            self.used_bytes = await self._writer.run(lambda c: retention.used_bytes(c, self.path))
            while (found := self._next_out(now_ms)) is not None:
                segment, why = found
                lost = self._undelivered(segment, uplinks)
                made = await self._writer.run(lambda c, s=segment, w=why, u=lost: _evict(c, s, w, u, now_ms))  # type: ignore[misc]
                self._segments.remove(segment)
                for gap in made:
                    self.cursors.settle(gap.uplink, gap.epoch, gap.lane, gap.lo, gap.hi)
                self.unannounced.extend(made)
                self.used_bytes = await self._writer.run(lambda c: retention.used_bytes(c, self.path))
            await self._writer.run(
                lambda c: c.execute("DELETE FROM intents WHERE at_ms < ?", (now_ms - 86_400_000,)) and None
            )
        except sqlite3.Error as exc:
            raise LogFault("log-write-failed", str(exc)) from exc
        database.write_witness(self._witness_path, self.epoch, self.heads)

    def _next_out(self, now_ms: int) -> tuple[Segment, str] | None:
        free = retention.free_bytes(self.path)
        return retention.oldest_out(self._segments, self._limits, self.used_bytes, free, now_ms)

    def _undelivered(self, segment: Segment, uplinks: list[str]) -> list[tuple[str, int, int]]:
        found = []
        for uplink, ranges in self.cursors.holders(segment.epoch, segment.lane):
            if uplink in uplinks:
                found += [(uplink, lo, hi) for lo, hi in ranges.intersect(segment.first, segment.last)]
        return found

    async def close(self) -> None:
        """Save the cursors, close the threads, write the witness."""
        try:
            await self.save_cursors()
        finally:
            self._reader.shutdown()
            self._reading.close()
            self._writer.close()
            database.write_witness(self._witness_path, self.epoch, self.heads)


def _evict(
    connection: sqlite3.Connection, segment: Segment, why: str, lost: list[tuple[str, int, int]], now_ms: int
) -> list[Gap]:
    segments.drop(connection, segment)
    return [_add_gap(connection, (uplink, segment.epoch, segment.lane, lo, hi, why), now_ms) for uplink, lo, hi in lost]


def _add_gap(connection: sqlite3.Connection, loss: tuple[str, int, Lane, int, int, str], now_ms: int) -> Gap:
    row = connection.execute(
        "INSERT INTO gap (uplink, epoch, lane, lo, hi, why, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)", (*loss, now_ms)
    )
    return Gap(row.lastrowid or 0, *loss)
