"""The log as the rest of fluxedge sees it: commit batches, read by seq, move cursors.

pipeline --Batch--> commit --> writer thread: one transaction, FULL --> seqs are durable --> listeners
forward loop --read--> reader thread: rows by seq --> transform --> messages --> acknowledged --> cursors.settle

Everything but `read`'s transform and the writer's jobs runs on the loop: segments, heads and cursors have one owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fluxedge.clock import Clock
from fluxedge.config.structs import LogCfg
from fluxedge.log import damage, database, intents, retention, segments
from fluxedge.log.batch import Batch, Commit, Place, QuarantineRow, Written
from fluxedge.log.body import Row, pack_event, pack_round
from fluxedge.log.cursors import Changes, Cursors
from fluxedge.log.damage import LogFault, fault_of
from fluxedge.log.groups import Groups
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import Gap, Loss
from fluxedge.log.segments import Segment
from fluxedge.log.sums import sum_up
from fluxedge.log.writer import Writer
from fluxedge.model import OPEN_END, Event, Group, Lane, Round
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message

T = typing.TypeVar("T")


class Log:
    """The one append-only store of a gateway."""

    def __init__(self, state_dir: Path, cfg: LogCfg, clock: Clock) -> None:
        """Open the log below `state_dir` (blocking: called before the loop's work begins).

        Raises:
            LinkProblem: it cannot be opened, or another process has it open.
        """
        self.path = state_dir / "log.db"
        self._witness_path = state_dir / "log.witness"
        self._clock = clock
        self._limits = retention.limits_of(cfg)
        self.unannounced: list[Gap] = []
        self._aside: list[QuarantineRow] = []  # quarantine rows that are not written yet
        self._lost: list[Loss] = []  # gaps that are not written yet
        self._committing: asyncio.Future[typing.Any] | None = None  # the writer's job
        self.listeners: list[Callable[[], None]] = []  # called on the loop after each commit with records
        self.commits = 0
        self.committed_records = 0
        self.stored_bytes = 0  # bodies written since the start
        self.rotated = True  # a segment was made since the last housekeeping, or the log was just opened
        self.damaged: LinkProblem | None = None  # what was found damaged; stands
        self.removed = False  # log.db is not the file that is written, as of the last housekeeping
        self._open()

    def _open(self) -> None:
        with contextlib.ExitStack() as undo:
            self._lock = undo.enter_context(database.lock(self.path.with_suffix(".lock")))
            try:
                connection = self._begin()
            except LinkProblem as problem:
                if problem.code != "log-damaged":
                    raise
                self.damaged = damage.set_aside(self.path, self._clock.wall_ns() / 10**9, problem)
                connection = self._begin()
                self.new_epoch_because = ""  # the damage says it
            undo.pop_all()
        self._writer = Writer(connection)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="log-reader")

    def _begin(self) -> sqlite3.Connection:
        """Open the log; "log-damaged" where its content is not what was written."""
        if damage.marked(self.path):
            raise LinkProblem("log-damaged", f"{self.path}: a commit found it damaged")
        opened = database.open_log(self.path, self._witness_path, self._clock)
        self.epoch, self.boot, self.heads = opened.epoch, opened.boot, opened.heads
        self._witnessed = dict(opened.heads)
        self.new_epoch_because = opened.new_epoch_because
        self._segments = opened.segments
        self._groups = Groups()
        self.cursors = Cursors(self.epoch)
        try:
            self._load(opened.connection)
            self.usage = retention.measure(opened.connection, self.path)
            self._reading = database.connect_reading(self.path)
            self._inode = database.inode(self.path)
        except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as exc:
            opened.connection.close()
            raise database.problem_of(self.path, exc) from exc
        return opened.connection

    def _load(self, connection: sqlite3.Connection) -> None:
        self._groups.load(connection)
        self.cursors.load(connection)
        for epoch, lane in self.cursors.epochs():
            if epoch != self.epoch:
                self.cursors.close_epoch(epoch, lane, self._last_of(epoch, lane))
        self.cursors.go_on()
        self.unannounced = retention.unannounced(connection)

    def _last_of(self, epoch: int, lane: Lane) -> int:
        return max((s.last for s in self._segments if s.epoch == epoch and s.lane is lane), default=0)

    def _now_ms(self) -> int:
        return self._clock.wall_ns() // 10**6

    def _trusted_ms(self) -> int | None:
        return self._now_ms() if self._clock.trusted() else None

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_round(self, batch: Batch, round_: Round) -> None:
        """Pack a round into a batch; its group is written before its first use.

        Raises:
            ValueError: the round cannot be stored as it is; the batch is untouched.
        """
        number = self._groups.number_of(round_.group)
        part = pack_round(number, round_)
        self._groups.use(number, round_.group)
        batch.add(Lane.ROUNDS, part, round_.at_ns)

    def add_event(self, batch: Batch, event: Event) -> None:
        """Pack an event into a batch."""
        batch.add(Lane.EVENTS, pack_event(event), event.at_ns)

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable, with the cursors' changes; waits for its turn.

        Raises:
            LogFault: it failed; the batch may be committed again, its seqs stay the same.
        """
        while self._committing is not None:
            await asyncio.wait([self._committing])
        await self.begin_commit(batch)

    def begin_commit(self, batch: Batch, *, cursors: bool = True) -> asyncio.Future[None]:
        """Hand a batch to the writer; the future is done when it is durable, or fails with LogFault.

        One at a time: the seqs of a batch are those behind the last durable one. The batch must not change any more.
        Cancelling the future does not take the commit back. Without `cursors` their changes wait for a later commit;
        an empty batch then writes nothing, but proves that the writer lives.
        """
        if self._committing is not None:
            raise RuntimeError("a commit is on its way")
        work = Commit(
            epoch=self.epoch,
            boot=self.boot,
            now_ms=self._now_ms(),
            mono_ms=self._clock.mono_ns() // 10**6,
            batch=batch,
            places={lane: self._place(lane) for lane in Lane if batch.parts[lane]},
            groups=self._groups.fresh(),
            changes=self.cursors.take_changes() if cursors else [],
            aside=list(self._aside) if cursors else [],
            lost=list(self._lost) if cursors else [],
        )
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._committing = self._writer.start(work.write)
        self._committing.add_done_callback(partial(self._commit_ended, work, outcome))
        return outcome

    def _commit_ended(self, work: Commit, outcome: asyncio.Future[None], job: asyncio.Future[Written]) -> None:
        self._committing = None
        error = job.exception()
        if error is None:
            self._committed(work, job.result())
            if not outcome.done():
                outcome.set_result(None)
            return
        self.cursors.put_back(work.changes)
        if isinstance(error, sqlite3.Error) and damage.is_damage(error):
            damage.mark(self.path)
        if not outcome.done():
            outcome.set_exception(fault_of(error) if isinstance(error, sqlite3.Error) else error)

    def _place(self, lane: Lane) -> Place:
        mine = [s for s in self._segments if s.lane is lane]
        current = mine[-1] if mine else None
        now_ms = self._trusted_ms()
        seq = self.heads[lane] + 1
        if current and current.epoch == self.epoch and not retention.must_rotate(current, self._limits, now_ms):
            return Place(current, seq, new=False)
        number = current.number + 1 if current else 1
        return Place(Segment(lane, number, self.epoch, seq, now_ms or 0, seq - 1), seq, new=True, closing=current)

    def _committed(self, work: Commit, written: Written) -> None:
        self._groups.written(len(work.groups))
        del self._aside[: len(work.aside)], self._lost[: len(work.lost)]
        for row, place in written.rows:
            if place.new:
                self._segments.append(place.segment)
                self.rotated = True
            place.segment.grow(row)
            self.heads[row.lane] = row.last
            self.committed_records += row.count
            self.stored_bytes += len(row.body)
        said = {gap_id for gap_id, _ in work.batch.announced}
        self.unannounced = [gap for gap in self.unannounced + written.gaps if gap.id not in said]
        self.commits += bool(written.rows or work.changes or work.lost)
        if written.rows:
            for listener in self.listeners:
                listener()

    def quarantine(self, uplink: str, message: Message, reason: str) -> None:
        """Keep refused records aside, as they were sent; written with the next commit."""
        at = (uplink, message.epoch, message.lane, message.lo, message.hi)
        self._aside.append((*at, reason, self._now_ms(), message.payload))

    def lose(self, uplink: str, epoch: int, lane: Lane, lo: int, hi: int, why: str = "damaged") -> None:
        """Give up records that cannot be read; the next commit makes a gap of them, which is then announced."""
        if lo <= hi:
            self._lost.append((uplink, epoch, lane, lo, hi, why))
            self.cursors.settle(uplink, epoch, lane, lo, hi)

    async def save_cursors(self) -> None:
        """Save what was acknowledged, without waiting for records.

        Raises:
            LogFault: it failed; nothing but time is lost.
        """
        if self.cursors.dirty or self._aside or self._lost:
            await self.commit(Batch())

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._writer.run(job)
        except sqlite3.Error as exc:
            raise fault_of(exc) from exc

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

        Raises:
            LinkProblem: "log-damaged": the database cannot be read there.
        """
        holding = [s for s in self._segments if s.lane is lane and s.epoch == epoch and s.last >= seq]

        def work() -> T:
            rows: list[Row] = []
            try:
                rows = segments.read(self._reading, holding[0], seq, limit_bytes) if holding else []
            except sqlite3.Error as exc:
                if "no such table" not in str(exc):  # that one was dropped by retention in the meantime
                    raise LinkProblem("log-damaged", f"{lane.label} {seq} of epoch {epoch}: {exc}") from exc
            return then(rows, self._groups.by_id)

        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def segments(self) -> list[Segment]:
        """Return the segments, oldest first in each lane."""
        return list(self._segments)

    @property
    def used_bytes(self) -> int:
        """Return what the log takes of its cap, as of the last housekeeping."""
        return self.usage.used_bytes

    @property
    def disk_low(self) -> bool:
        """Tell whether the file system had less than the floor, as of the last housekeeping."""
        return self.usage.free_bytes < self._limits.free_space_bytes

    def first_seq(self, epoch: int, lane: Lane) -> int:
        """Return the oldest seq that is still held; head + 1 when none is."""
        mine = [s.first for s in self._segments if s.epoch == epoch and s.lane is lane]
        return min(mine, default=self.heads[lane] + 1 if epoch == self.epoch else 1)

    def begin_uplink(self, uplink: str, lanes: list[Lane], start: str) -> None:
        """Give a new uplink its cursors; a known one goes on, and what was dropped while it was away becomes a gap."""
        for lane in lanes:
            if self.cursors.known(uplink, lane):
                self._find_dropped(uplink, lane)
                continue
            if start == "oldest":
                for epoch in sorted({s.epoch for s in self._segments if s.lane is lane} - {self.epoch}):
                    self.cursors.begin(uplink, lane, epoch, self.first_seq(epoch, lane), self._last_of(epoch, lane))
            first = self.first_seq(self.epoch, lane) if start == "oldest" else self.heads[lane] + 1
            self.cursors.begin(uplink, lane, self.epoch, first, OPEN_END)

    def _find_dropped(self, uplink: str, lane: Lane) -> None:
        for epoch, ranges in list(self.cursors.of(uplink, lane)):
            head = self.heads[lane] if epoch == self.epoch else self._last_of(epoch, lane)
            dropped = retention.dropped(self._segments, epoch, lane, RangeSet(ranges.intersect(1, head)))
            for lo, hi in list(dropped):
                self.lose(uplink, epoch, lane, lo, hi, "away")

    async def unanswered_commands(self, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Return a page of interrupted commands, those behind the key `after`: (key, request)."""
        return await self._look(lambda c: intents.unanswered(c, after, limit))

    async def command_result(self, key: str) -> tuple[bytes, bytes | None] | None:
        """Return the remembered command with this key: (request, result or None when it was interrupted)."""
        return await self._look(lambda c: intents.find(c, key))

    async def _look(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Read beside commits, on the reader's thread; LinkProblem "log-damaged" when the database cannot be read."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, job, self._reading)
        except sqlite3.Error as exc:
            raise LinkProblem("log-damaged", str(exc), "Look after the disk's health.") from exc

    async def load_state(self) -> dict[str, bytes]:
        """Return every state row."""
        return await self._run(lambda c: dict(c.execute("SELECT k, v FROM state")))

    # --- housekeeping -------------------------------------------------------------------------------------------------

    async def housekeep(self, uplinks: list[str]) -> bool:
        """Drop one segment that is too old or too much, or tidy up; tell whether there is more to do.

        What configured `uplinks` have not had of it becomes a gap in `unannounced`.

        Raises:
            LogFault: the database cannot be written.
        """
        self.rotated = False
        self.usage = await self._run(lambda c: retention.measure(c, self.path))
        self.removed = self.removed or database.inode(self.path) != self._inode
        self.damaged = await sum_up(self._segments, self._look) or self.damaged
        found = retention.oldest_out(self._segments, self._limits, self.usage, self._trusted_ms())
        if found is not None:
            await self._evict(*found, uplinks)
            return True
        heads, now_ms = dict(self.heads), self._trusted_ms()
        return await self._run(partial(self._tidy, heads=heads, now_ms=now_ms))

    def _tidy(self, connection: sqlite3.Connection, heads: dict[Lane, int], now_ms: int | None) -> bool:
        more = intents.forget(connection, now_ms)
        if now_ms is not None:
            old_ms = now_ms - self._limits.keep_ms[Lane.EVENTS]
            connection.execute("DELETE FROM gap WHERE said_seq > 0 AND at_ms < ?", (old_ms,))
        if heads != self._witnessed:
            database.write_witness(self._witness_path, self.path, self.epoch, heads)
            self._witnessed = heads
        return more

    async def _evict(self, segment: Segment, why: str, uplinks: list[str]) -> None:
        losses = [
            (uplink, segment.epoch, segment.lane, lo, hi, why)
            for uplink, ranges in self.cursors.holders(segment.epoch, segment.lane)
            if uplink in uplinks
            for lo, hi in ranges.intersect(segment.first, segment.last)
        ]
        for uplink, epoch, lane, lo, hi, _ in losses:
            self.cursors.settle(uplink, epoch, lane, lo, hi)
        changes, now_ms = self.cursors.take_changes(), self._now_ms()
        job = self._writer.start(lambda c: retention.evict(c, segment, losses, changes, now_ms))
        job.add_done_callback(partial(self._evicted, segment, losses, changes))
        try:
            await asyncio.shield(job)
        except sqlite3.Error as exc:
            raise fault_of(exc) from exc

    def _evicted(self, segment: Segment, losses: list[Loss], changes: Changes, job: asyncio.Future[list[Gap]]) -> None:
        """Take the outcome of an eviction, also when its caller was cancelled."""
        if job.exception() is None:
            self._segments.remove(segment)
            self.unannounced += job.result()
            return
        for uplink, epoch, lane, lo, hi, _ in losses:
            self.cursors.begin(uplink, lane, epoch, lo, hi)
        self.cursors.put_back(changes)

    async def close(self) -> None:
        """Save the cursors, write the witness, close threads and files."""
        try:
            with contextlib.suppress(LogFault):  # costs duplicates; the problem stands already
                await self.save_cursors()
        finally:
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._reader.shutdown()
        self._reading.close()
        self._writer.close()
        database.write_witness(self._witness_path, self.path, self.epoch, self.heads)
        self._lock.close()
