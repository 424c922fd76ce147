"""The log as the rest of fluxedge sees it: commit batches, read by seq, move cursors.

pipeline --Batch--> commit --> writer thread: one transaction, FULL --> seqs are durable --> listeners
forward loop --read--> reader thread: rows by seq --> transform --> messages --> acknowledged --> cursors.settle

Everything but `read`'s transform and the writer's jobs runs on the loop: segments, heads and cursors have one owner.
While the disk takes nothing, the same commits go to memory (volatile.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fluxedge.clock import Clock
from fluxedge.config.structs import LogCfg
from fluxedge.log import damage, database, intents, retention, segments
from fluxedge.log.ballast import Ballast
from fluxedge.log.batch import Batch, Commit, Written
from fluxedge.log.body import Row, pack_event, pack_round
from fluxedge.log.books import Books
from fluxedge.log.damage import LogFault, fault_of
from fluxedge.log.media import Disk, Memory, fails
from fluxedge.log.retention import Usage
from fluxedge.log.segments import Segment
from fluxedge.log.upkeep import Upkeep
from fluxedge.log.volatile import Volatile
from fluxedge.log.writer import Writer
from fluxedge.model import Event, Group, Lane, Round
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message

T = typing.TypeVar("T")


class Failing(typing.NamedTuple):
    """Commits fail, since when and why."""

    since_ns: int  # CLOCK_BOOTTIME
    error: sqlite3.Error


class Log(Books):
    """The one append-only store of a gateway."""

    def __init__(self, state_dir: Path, cfg: LogCfg, clock: Clock) -> None:
        """Open the log below `state_dir` (blocking: called before the loop's work begins).

        On a disk that fails it begins in memory.

        Raises:
            LinkProblem: it cannot be opened, or another process has it open.
        """
        super().__init__(cfg, clock)
        self.path = state_dir / "log.db"
        self.ballast = Ballast(state_dir / "log.ballast")
        self.disk = Disk(self.path, clock, self.ballast)
        self.memory: Memory | None = None  # what takes the commits while the disk does not
        self.volatile_because: LinkProblem | None = None  # why it does not
        self.failing: Failing | None = None
        self.gate: asyncio.Future[None] | None = None  # until it is done, nothing is written
        self._committing: asyncio.Future[typing.Any] | None = None  # the writer's job
        self.listeners: list[Callable[[], None]] = []  # called on the loop after each commit with records
        self.commits = 0
        self.committed_records = 0
        self.stored_bytes = 0  # bodies written to the disk since the start
        self.unkept_rounds = 0  # dropped before they were in the history files
        self.rotated = True  # a segment was made since the last housekeeping, or the log was just opened
        self.damaged: LinkProblem | None = None  # what was found damaged; stands
        self.new_epoch_because = ""
        self.migrated = ""  # from which schema it was brought up at this start
        self.usage = Usage(0, 0, 0)
        self._upkeep = Upkeep(self)
        self._volatile = Volatile(self, self._upkeep)
        self._open()

    def _open(self) -> None:
        try:
            opened = self.disk.open(self._load)
        except LinkProblem as problem:
            if not fails(self.path, problem):
                raise
            self._volatile.begin_without(problem)
            return
        self.damaged = self.disk.take_set_aside()
        self.new_epoch_because, self.migrated = opened.new_epoch_because, opened.migrated

    def _load(self, opened: database.Opened) -> None:
        self.load(opened)
        self._upkeep.witnessed = dict(opened.heads)
        self.usage = retention.measure(opened.connection, self.path)

    @property
    def _writer(self) -> Writer:
        """Return who carries out the log's jobs now."""
        writer = self.memory.writer if self.memory is not None else self.disk.writer
        assert writer is not None
        return writer

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_round(self, batch: Batch, round_: Round) -> None:
        """Pack a round into a batch; its group is written before its first use.

        Raises:
            ValueError: the round cannot be stored as it is; the batch is untouched.
        """
        number = self.groups.number_of(round_.group)
        part = pack_round(number, round_)
        self.groups.use(number, round_.group)
        batch.add(Lane.ROUNDS, part, round_.at_ns)

    def add_event(self, batch: Batch, event: Event) -> None:
        """Pack an event into a batch."""
        batch.add(Lane.EVENTS, pack_event(event), event.at_ns)

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable, with the cursors' changes.

        Raises:
            LogFault: it failed; the batch may be committed again, its seqs stay the same.
        """
        await self.begin_commit(batch)

    def begin_commit(self, batch: Batch, *, cursors: bool = True) -> asyncio.Future[None]:
        """Hand a batch to the writer; the future is done when it is durable, or fails with LogFault.

        One at a time, others wait: the seqs of a batch are those behind the last durable one. The batch must not change
        any more. Cancelling the future does not take the commit back. Without `cursors` their changes wait for a later
        commit; an empty batch then writes nothing, but proves that the writer lives.
        """
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start_commit(batch, cursors, outcome)
        return outcome

    def _start_commit(self, batch: Batch, cursors: bool, outcome: asyncio.Future[None]) -> None:
        ahead = self._committing or self.gate
        if ahead is not None:
            ahead.add_done_callback(lambda _: self._start_commit(batch, cursors, outcome))
            return
        on_disk = self.memory is None  # what is in memory needs no cursors and groups: those here are as good
        limits = self.limits if self.memory is None else self.memory.limits
        work = Commit(
            epoch=self.epoch,
            boot=self.boot,
            now_ms=self.now_ms(),
            mono_ms=self.clock.mono_ns() // 10**6,
            batch=batch,
            places={lane: self.place(lane, limits, closing=on_disk) for lane in Lane if batch.parts[lane]},
            groups=self.groups.fresh() if on_disk else [],
            changes=self.cursors.take_changes() if cursors and on_disk else [],
            aside=list(self.aside) if cursors else [],
            lost=list(self.lost) if cursors else [],
        )
        self._committing = self._writer.start(work.write)
        self._committing.add_done_callback(partial(self._commit_ended, work, outcome))

    def _commit_ended(self, work: Commit, outcome: asyncio.Future[None], job: asyncio.Future[Written]) -> None:
        self._committing = None
        error = job.exception()
        if error is None:
            self.failing = None
            self._committed(work, job.result())
            if not outcome.done():
                outcome.set_result(None)
            return
        self.cursors.put_back(work.changes)
        if isinstance(error, sqlite3.Error):
            self.failing = Failing(self.failing.since_ns if self.failing else self.clock.mono_ns(), error)
            if self.memory is None and damage.is_damage(error):
                damage.mark(self.path)
        if not outcome.done():
            outcome.set_exception(fault_of(error) if isinstance(error, sqlite3.Error) else error)

    def _committed(self, work: Commit, written: Written) -> None:
        self.groups.written(len(work.groups))
        del self.aside[: len(work.aside)], self.lost[: len(work.lost)]
        for row, place in written.rows:
            if place.new:
                self.held.append(place.segment)
                self.rotated = True
            place.segment.grow(row)
            self.heads[row.lane] = row.last
            self.committed_records += row.count
            self.stored_bytes += len(row.body) if self.memory is None else 0
        if self.memory is not None:
            self._volatile.note(work.batch)
        said = {gap_id for gap_id, _ in work.batch.announced}
        self.unannounced = [gap for gap in self.unannounced + written.gaps if gap.id not in said]
        self.commits += bool(written.rows or work.changes or work.lost)
        if written.rows:
            for listener in self.listeners:
                listener()

    async def commits_ended(self) -> None:
        """Wait until no commit is on its way."""
        while self._committing is not None:
            await asyncio.wait([self._committing])

    def start(self, job: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Hand a job to the writer as a transaction of its own; fails with sqlite3.Error."""
        return self._writer.start(job)

    def quarantine(self, uplink: str, message: Message, reason: str) -> None:
        """Keep refused records aside, as they were sent; written with the next commit."""
        at = (uplink, message.epoch, message.lane, message.lo, message.hi)
        self.aside.append((*at, reason, self.now_ms(), message.content_type, message.payload))

    async def save_cursors(self) -> None:
        """Save what was acknowledged, without waiting for records.

        Raises:
            LogFault: it failed; nothing but time is lost.
        """
        if self.cursors.dirty or self.aside or self.lost:
            await self.commit(Batch())

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a repeatable job as a transaction of its own, on the writer's thread.

        Raises:
            LogFault: it failed.
        """
        while self.gate is not None:
            await asyncio.wait([self.gate])
        try:
            return await self._writer.run(job)
        except sqlite3.Error as exc:
            self.note_fault(exc)
            raise fault_of(exc) from exc

    def note_fault(self, error: sqlite3.Error) -> None:
        """Take note of damage that a job beside commits met; housekeeping sets the log aside."""
        if self.memory is None and self.disk.broken is None and damage.is_corruption(error):
            # not `failing`: the next commit that succeeds ends that, and the damage stays
            self.disk.broken = LinkProblem("log-damaged", f"{self.path}: {error}")

    def is_durable(self, epoch: int) -> bool:
        """Tell whether what is committed in this epoch survives a power cut."""
        return self.memory is None or epoch != self.epoch

    async def note_compacted(self, epoch: int, upto: int) -> None:
        """Remember that rounds of an epoch are in the history files up to this seq.

        Raises:
            LogFault: it could not be written; the rounds are only copied once more.
        """
        await self.write(lambda c: c.execute("INSERT OR REPLACE INTO compacted VALUES (?, ?)", (epoch, upto)))
        self.compacted[epoch] = upto

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(
        self,
        epoch: int,
        lane: Lane,
        seq: int,
        limit_bytes: int,
        then: Callable[[list[Row], Mapping[int, Group]], T],
    ) -> T:
        """Read rows from `seq` on and run `then` on them, both on the reader's thread.

        Rows come until `limit_bytes` of stored bodies are full, at least one if there is any; none when `seq` is
        beyond the head or was dropped. Rows that cannot be read for good are left out, and are lost to every uplink.

        Raises:
            LinkProblem: "log-damaged": the database cannot be read there.
        """
        while True:
            segment = self.holding(epoch, lane, seq)
            in_memory = self.memory is not None and epoch == self.epoch
            medium = self.memory if in_memory and self.memory is not None else self.disk
            job = partial(_read, segment=segment, seq=seq, limit_bytes=limit_bytes, then=then, groups=self.groups.by_id)
            outcome = await medium.look(job)
            if not isinstance(outcome, _Unreadable):
                return outcome
            self.lose_for_all(epoch, lane, seq, outcome.hi)
            seq = outcome.hi + 1

    async def unanswered_commands(self, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Return a page of interrupted commands, those behind the key `after`: (key, request).

        Raises:
            LinkProblem: "log-damaged": they cannot be read; where that is damage, housekeeping sets the log aside.
        """
        try:
            return await self.look(lambda c: intents.unanswered(c, after, limit))
        except LinkProblem as problem:
            if isinstance(problem.__cause__, sqlite3.Error):
                self.note_fault(problem.__cause__)
            raise

    async def command_result(self, key: str) -> tuple[bytes, bytes | None] | None:
        """Return the remembered command with this key: (request, result or None when it was interrupted)."""
        found = await self.look(lambda c: intents.find(c, key))
        if found is None and self.memory is not None:  # not all of them were taken along
            with contextlib.suppress(LinkProblem, sqlite3.Error):
                found = await self.disk.look(lambda c: intents.find(c, key))
        return found

    async def look(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Read beside commits, on the reader's thread; LinkProblem "log-damaged" when the database cannot be read."""
        try:
            return await (self.memory or self.disk).look(job)
        except sqlite3.Error as exc:
            raise LinkProblem("log-damaged", str(exc), "Look after the disk's health.") from exc

    async def load_state(self) -> dict[str, bytes]:
        """Return every state row."""
        return await self.write(lambda c: dict(c.execute("SELECT k, v FROM state")))

    # --- housekeeping -------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Return what the log takes of its cap, as of the last housekeeping."""
        return self.usage.used_bytes

    @property
    def memory_bytes(self) -> int:
        """Return what is in memory only, as of the last housekeeping."""
        return self.memory.used_bytes if self.memory is not None else 0

    @property
    def disk_low(self) -> bool:
        """Tell whether the file system had less than the floor, as of the last housekeeping."""
        return self.usage.free_bytes < self.limits.free_space_bytes

    async def housekeep(self, uplinks: list[str]) -> bool:
        """Drop one segment that may or must go, tidy up, or help a log that cannot be written; is there more to do?

        What configured `uplinks` have not had of it becomes a gap in `unannounced`.

        Raises:
            LogFault: the database cannot be written, or what is needed for it cannot be had (files, threads).
        """
        try:
            if self.memory is None and await self._upkeep.rescue():
                await self._volatile.begin()
            if self.memory is not None:
                return await self._volatile.step(uplinks)
            return await self._upkeep.step(uplinks)
        except (OSError, RuntimeError) as exc:
            raise LogFault("log-write-failed", f"{self.path}: {exc}") from exc

    async def close(self) -> None:
        """Save the cursors and what is in memory, write the witness, close threads and files."""
        try:
            await self._volatile.end()
            with contextlib.suppress(LogFault):  # costs duplicates; the problem stands already
                await self.save_cursors()
        finally:
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.disk.close()
        if self.memory is not None:
            self.memory.close()
        else:
            groups = self.groups.witnessed()
            database.write_witness(self.disk.witness_path, self.path, self.epoch, self.heads, groups=groups)
        self.disk.release()


class _Unreadable(typing.NamedTuple):
    """A stretch of rows cannot be read; it ends here."""

    hi: int


def _read(
    connection: sqlite3.Connection,
    segment: Segment | None,
    seq: int,
    limit_bytes: int,
    then: Callable[[list[Row], Mapping[int, Group]], T],
    groups: Mapping[int, Group],
) -> T | _Unreadable:
    """Read and transform; on the reader's thread."""
    rows: list[Row] = []
    try:
        rows = segments.read(connection, segment, seq, limit_bytes) if segment is not None else []
    except sqlite3.Error as exc:
        assert segment is not None
        if "no such table" in str(exc):  # that one was dropped by retention in the meantime
            return then([], groups)
        name = getattr(exc, "sqlite_errorname", "")
        begin = max(seq, segment.first)
        behind = segments.readable_from(connection, segment, begin) if name.startswith(damage.UNREADABLE) else begin
        if behind == begin or (behind > segment.last and name.startswith("SQLITE_IOERR")):
            # a disk that is gone for a while reads nothing at all: that is no loss yet
            raise LinkProblem("log-damaged", f"{segment.lane.label} {seq} of epoch {segment.epoch}: {exc}") from exc
        return _Unreadable(behind - 1)
    return then(rows, groups)
