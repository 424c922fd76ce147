"""The upkeep of a log on the disk: space is measured, segments go, the ballast is kept or given up, sums are completed.

Runs in steps, called by the one task that keeps house. A step drops one segment at most: between two of them commits
have their turn at the writer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import typing
from functools import partial

from fluxedge.log import damage, database, intents, placing, retention
from fluxedge.log.cursors import Changes
from fluxedge.log.damage import fault_of
from fluxedge.log.media import NO_ROOM_BYTES
from fluxedge.log.retention import Gap, Loss, Usage
from fluxedge.log.segments import Segment
from fluxedge.log.sums import sum_up
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

if typing.TYPE_CHECKING:
    from fluxedge.log.store import Log

PATIENCE_NS = 10 * 10**9  # commits fail this long before the log goes on in memory
# What waiting does not cure. IOERR of a full or read-only file system is among them.
_AT_ONCE = ("SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN")


class Upkeep:
    """What is done to a log beside commits."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.witnessed: dict[Lane, int] = {}

    async def rescue(self) -> bool:
        """Help a log whose commits fail; tell whether it must go on in memory."""
        log = self._log
        await log.disk.look_beside(log.disk.look_for_file)
        if log.disk.broken is not None:
            log.volatile_because = log.disk.broken
            return True
        if log.failing is None:
            log.volatile_because = None  # of a failure that has passed: housekeeping hurries while it stands
            return False
        since_ns, error = log.failing
        log.volatile_because = fault_of(error)
        if damage.is_damage(error):
            log.disk.broken = LinkProblem("log-damaged", f"{log.path}: {error}")
            return True
        if await log.disk.look_beside(partial(self._make_room, error)):
            return False
        return _name(error).startswith(_AT_ONCE) or log.clock.mono_ns() - since_ns >= PATIENCE_NS

    def _make_room(self, error: sqlite3.Error) -> bool:
        """Give up the ballast on a full disk; tell whether that freed anything."""
        full = _name(error) == "SQLITE_FULL" or retention.free_bytes(self._log.path.parent) < NO_ROOM_BYTES
        return full and self._log.ballast.give_up()

    async def step(self, uplinks: list[str]) -> bool:
        """Drop one segment that may or must go, or tidy up; tell whether there is more to do.

        Raises:
            LogFault: the database cannot be written.
        """
        log = self._log
        log.rotated = False
        error = log.failing.error if log.failing is not None else None
        log.usage = await log.write(partial(self._measure, keep_ballast=error is None))
        if error is not None and _name(error) == "SQLITE_FULL":  # a quota: the file system has room, but not for us
            log.usage = dataclasses.replace(log.usage, free_bytes=0)
        log.damaged = await sum_up(log.held, log.look) or log.damaged
        fate = partial(log.fate, uplinks=uplinks)
        found = retention.next_out(log.held, log.limits, log.usage, log.trusted_ms(), fate)
        if found is not None:
            await self.evict(*found, uplinks)
            return True
        heads, groups, now_ms = dict(log.heads), log.groups.witnessed(), log.trusted_ms()
        return await log.write(partial(self._tidy, heads=heads, groups=groups, now_ms=now_ms))

    def _measure(self, connection: sqlite3.Connection, keep_ballast: bool) -> Usage:
        log = self._log
        usage = retention.measure(connection, log.path)
        if keep_ballast:
            log.ballast.keep(usage.free_bytes, log.limits.free_space_bytes)
        return usage

    def _tidy(
        self, connection: sqlite3.Connection, heads: dict[Lane, int], groups: dict[int, bytes], now_ms: int | None
    ) -> bool:
        log = self._log
        more = intents.forget(connection, now_ms)
        if now_ms is not None:
            old_ms = now_ms - log.limits.keep_ms[Lane.EVENTS]
            connection.execute("DELETE FROM gap WHERE said_seq > 0 AND at_ms < ?", (old_ms,))
            placing.forget(connection, now_ms - max(log.limits.keep_ms.values()))
        if heads != self.witnessed:
            database.write_witness(log.disk.witness_path, log.path, log.epoch, heads, groups=groups)
            self.witnessed = heads
        return more

    async def evict(self, segment: Segment, why: str, uplinks: list[str]) -> None:
        """Drop a segment; what configured uplinks have not had of it becomes a gap.

        Raises:
            LogFault: the database cannot be written.
        """
        log = self._log
        losses = [
            (uplink, segment.epoch, segment.lane, lo, hi, why)
            for uplink, ranges in log.cursors.holders(segment.epoch, segment.lane)
            if uplink in uplinks
            for lo, hi in ranges.intersect(segment.first, segment.last)
        ]
        for uplink, epoch, lane, lo, hi, _ in losses:
            log.cursors.settle(uplink, epoch, lane, lo, hi)
        changes, now_ms = log.cursors.take_changes() if log.memory is None else [], log.now_ms()
        kept = log.fate(segment, uplinks).copied or why == "age"
        job = log.start(lambda c: retention.evict(c, segment, losses, changes, now_ms))
        job.add_done_callback(partial(self._evicted, segment, losses, changes, kept))
        try:
            await asyncio.shield(job)
        except sqlite3.Error as exc:
            log.note_fault(exc)
            raise fault_of(exc) from exc

    def _evicted(
        self, segment: Segment, losses: list[Loss], changes: Changes, kept: bool, job: asyncio.Future[list[Gap]]
    ) -> None:
        """Take the outcome of an eviction, also when its caller was cancelled."""
        log = self._log
        if job.exception() is None:
            log.held.remove(segment)
            log.unannounced += job.result()
            log.unkept_rounds += 0 if kept else segment.last - segment.first + 1
            return
        for uplink, epoch, lane, lo, hi, _ in losses:
            log.cursors.begin(uplink, lane, epoch, lo, hi)
        log.cursors.put_back(changes)


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")
