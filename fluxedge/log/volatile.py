"""The time in which the disk takes nothing: the log goes on in memory, and comes home by itself.

    disk, epoch E  --commits fail-->  memory, epoch V  --the disk takes a transaction-->  disk, epoch N;  E < V < N

In memory are the same tables, and what was committed since; cursors are with the loop, as always. What the disk holds
of E stays readable as long as the disk can be read. Coming home, rows keep V. They are copied in pages while commits go
on; then commits wait for one moment, in which the rest is copied and the disk's epoch becomes N. Whoever is killed in
between starts with E, or with N: V is never written in again, so none of its seqs is used twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import sqlite3
import typing
from functools import partial

from fluxedge.log import damage, database, retention
from fluxedge.log.batch import Batch
from fluxedge.log.damage import fault_of
from fluxedge.log.database import Opened
from fluxedge.log.media import NO_ROOM_BYTES, Memory
from fluxedge.log.move import PAGE_BYTES, Move, Tables
from fluxedge.log.retention import Usage
from fluxedge.log.upkeep import Upkeep
from fluxedge.log.writer import Writer
from fluxedge.problems import LinkProblem

if typing.TYPE_CHECKING:
    from fluxedge.log.store import Log

PROBE_FIRST_NS, PROBE_MOST_NS = 10**9, 10 * 10**9  # pauses between attempts to come home
CARRY_S = 2.0  # the disk has this long to tell what must go along
CLOSE_S = 5.0  # ... and this long to take what is in memory when the gateway stops
CARRIED_BYTES = 4 << 20  # of answered commands; those without an answer all go along
# No disk remembers a volatile epoch. Chance keeps those apart that begin at the same time of a clock that was lost.
_CHANCE = 1 << 20
_FREE = 1 << 60  # memory's file system

Intent = tuple[str, int, bytes, bytes | None]  # key, at_ms, request, result


class Carried(typing.NamedTuple):
    """What the disk still told when the log left it."""

    state: list[tuple[str, bytes]]
    intents: list[Intent]

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it into the memory."""
        connection.executemany("INSERT INTO state VALUES (?, ?)", self.state)
        connection.executemany("INSERT INTO intents VALUES (?, ?, ?, ?)", self.intents)


class Volatile:
    """Go to memory, keep it within its bounds, and come home."""

    def __init__(self, log: Log, upkeep: Upkeep) -> None:
        self._log = log
        self._upkeep = upkeep
        self._probe_at_ns = 0  # CLOCK_BOOTTIME
        self._pause_ns = PROBE_FIRST_NS
        self._gone: set[str] = set()  # state rows that were deleted
        self._unread = False  # the disk could not be read when the log began

    # --- going -------------------------------------------------------------------------------------------------------

    def begin_without(self, because: LinkProblem) -> None:
        """Begin a log whose disk cannot be written; what it holds is read where that goes (blocking)."""
        log = self._log
        self._unread = True
        log.disk.open_reading(self._load)
        if self._unread:
            witness = database.read_witness(log.disk.witness_path)
            log.epoch = witness.epoch if witness is not None else 0
            log.boot = witness.boot if witness is not None else 0
            log.groups.number_from(secrets.randbelow(1 << 30) + (1 << 24))  # those of the disk are not known
        log.volatile_because = because
        log.usage = Usage(0, 0, retention.free_bytes(log.path.parent))
        self._switch(Memory(log.limits))

    def _load(self, opened: Opened) -> None:
        self._log.load(opened)
        self._unread = False

    async def begin(self) -> None:
        """Go on in memory; a commit that is on its way ends first, and may prove that there is no need."""
        log = self._log
        memory = await asyncio.to_thread(Memory, log.limits)
        log.gate = asyncio.get_running_loop().create_future()  # a file that was removed still takes commits
        try:
            await log.commits_ended()
            if log.failing is not None or log.disk.broken is not None:
                await self._carry(memory)
                self._switch(memory)
        finally:
            self._open_gate()
            if log.memory is not memory:
                memory.close()

    async def _carry(self, memory: Memory) -> None:
        """Take along what the disk tells in time."""
        with contextlib.suppress(TimeoutError, LinkProblem, sqlite3.Error):
            async with asyncio.timeout(CARRY_S):
                carried = await self._log.disk.look(_to_carry)
            await memory.look(carried.write)

    def _switch(self, memory: Memory) -> None:
        log = self._log
        log.turn_to(max(log.epoch + 1, log.now_ms()) + secrets.randbelow(_CHANCE))
        last_gap = log.epoch << 10  # above every id on the disk
        gaps = [(gap.id, gap.uplink, gap.epoch, gap.lane, gap.lo, gap.hi, gap.why) for gap in log.unannounced]

        def fill(connection: sqlite3.Connection) -> None:
            sql = "INSERT INTO gap (id, uplink, epoch, lane, lo, hi, why, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
            connection.executemany(sql, gaps)
            # about nothing, and said: the next gap gets the id behind it
            sql = "INSERT INTO gap VALUES (?, '', 0, 0, 0, 0, '', 0, 0, 1)"
            connection.execute(sql, (last_gap,))

        memory.fill(fill)
        log.memory, log.failing = memory, None
        self._gone.clear()
        self._pause_ns = PROBE_FIRST_NS
        self._probe_at_ns = log.clock.mono_ns() + (0 if log.disk.broken is not None else self._pause_ns)

    def note(self, batch: Batch) -> None:
        """Remember what a batch that was committed has deleted."""
        for key, value in batch.state.items():
            (self._gone.discard if value is not None else self._gone.add)(key)

    # --- being there -------------------------------------------------------------------------------------------------

    async def step(self, uplinks: list[str]) -> bool:
        """Drop one segment if memory is full, or try to come home; tell whether there is more to do."""
        log, memory = self._log, self._log.memory
        assert memory is not None
        log.rotated = False
        usage = await memory.look(_measure)
        memory.used_bytes = usage.used_bytes
        mine = [segment for segment in log.held if segment.epoch == log.epoch]
        fate = partial(log.fate, uplinks=uplinks)
        found = retention.next_out(mine, memory.limits, usage, log.trusted_ms(), fate)
        if found is not None:
            segment, why = found
            await self._upkeep.evict(segment, "memory" if why == "backlog" else why, uplinks)
            return True
        if log.clock.mono_ns() >= self._probe_at_ns:
            return await self._come_home()
        return False

    async def end(self) -> None:
        """Write what is in memory to the disk, if that takes it now: the gateway stops."""
        if self._log.memory is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._come_home()

    # --- coming home -------------------------------------------------------------------------------------------------

    async def _come_home(self) -> bool:
        """Try to go on on the disk; tell whether that succeeded."""
        log = self._log
        try:
            await self._look_for_room()
            opened = await log.disk.reopen(lambda _: None)
            log.usage = await log.disk.look(lambda c: retention.measure(c, log.path))
            await self._look_for_room()
            await self._copy(opened)
        except (LinkProblem, sqlite3.Error, OSError, RuntimeError) as exc:  # the last: no thread can be had
            because = fault_of(exc) if isinstance(exc, sqlite3.Error) else database.problem_of(log.path, exc)
            log.volatile_because = because
            if damage.is_damage(exc):
                log.disk.broken = LinkProblem("log-damaged", f"{log.path}: {exc}")
            self._probe_at_ns = log.clock.mono_ns() + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, PROBE_MOST_NS)
            return False
        return True

    async def _look_for_room(self) -> None:
        """Spare a disk that is still full the attempt: each one would write until it fails."""
        log = self._log
        free = await log.disk.look_beside(lambda: retention.free_bytes(log.path.parent))
        log.usage = dataclasses.replace(log.usage, free_bytes=free)
        need = log.memory_bytes + NO_ROOM_BYTES
        if log.disk.broken is None and log.usage.spare_bytes + free < need:
            text = f"{free >> 10} KiB are free, {need >> 10} KiB are needed"
            raise LinkProblem("log-write-failed", f"{log.path.parent} is full: {text}")

    async def _copy(self, opened: Opened) -> None:
        log, memory, writer = self._log, self._log.memory, self._log.disk.writer
        assert memory is not None
        assert writer is not None
        if self._unread:  # blocks the loop for a moment, once in the life of a disk that could not be read
            with contextlib.closing(database.connect_reading(log.path)) as connection:
                self._merge(dataclasses.replace(opened, connection=connection))
            self._unread = False
        if log.disk.set_aside is not None and log.disk.set_aside.code == "log-damaged":
            log.lay_aside()
        move = Move(log.held, opened, log.epoch)
        for lost in [*opened.missing, *move.missing]:
            log.lose_for_all(*lost)
        changes = log.cursors.take_changes()
        try:
            await writer.run(partial(move.prepare, groups=log.groups.all(), changes=log.cursors.all()))
            while await self._copy_page(move, memory, writer) >= PAGE_BYTES // 2:
                pass
            log.gate = asyncio.get_running_loop().create_future()
            await log.commits_ended()
            move.held = log.held
            while await self._copy_page(move, memory, writer):
                pass
            tables = await memory.look(Tables.read)
            epoch = max(opened.epoch + 1, log.epoch + 1, log.now_ms())
            changes += log.cursors.take_changes()
            finish = partial(
                move.finish, tables=tables, gone=set(self._gone), compacted=dict(log.compacted), epoch=epoch,
                groups=log.groups.all(), changes=log.cursors.all(),
            )  # fmt: skip
            await writer.run(finish)
        except BaseException:
            log.cursors.put_back(changes)
            self._open_gate()
            raise
        log.held = move.moved()
        log.boot = opened.boot
        log.turn_to(epoch)
        log.groups.written(len(log.groups.fresh()))
        log.memory = log.volatile_because = None
        log.damaged = log.disk.take_set_aside() or log.damaged
        log.rotated = True
        self._upkeep.witnessed = {}
        self._open_gate()
        await log.disk.look_beside(memory.close)

    def _merge(self, opened: Opened) -> None:
        log = self._log
        try:
            log.merge(opened)
        except (ValueError, TypeError, OverflowError) as exc:  # what it holds was not looked at before
            log.disk.broken = database.problem_of(log.path, exc)
            raise log.disk.broken from exc

    async def _copy_page(self, move: Move, memory: Memory, writer: Writer) -> int:
        page = await memory.look(move.page)
        await writer.run(partial(move.put, page=page))
        return move.noted(page)

    def _open_gate(self) -> None:
        gate, self._log.gate = self._log.gate, None
        if gate is not None:
            gate.set_result(None)


def _measure(connection: sqlite3.Connection) -> Usage:
    pages, spare, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return Usage((pages - spare) * size, spare * size, _FREE)


def _to_carry(connection: sqlite3.Connection) -> Carried:
    state = connection.execute("SELECT k, v FROM state").fetchall()
    unanswered = connection.execute("SELECT key, at_ms, request, result FROM intents WHERE result IS NULL").fetchall()
    answered: list[Intent] = []
    size = 0
    asked = connection.execute(
        "SELECT key, at_ms, request, result FROM intents WHERE result IS NOT NULL ORDER BY at_ms DESC"
    )
    with contextlib.closing(asked):  # an open statement would pin the WAL
        for row in asked:
            size += len(row[2]) + len(row[3]) + 100
            if size > CARRIED_BYTES:
                break
            answered.append(row)
    return Carried(state, unanswered + answered)
