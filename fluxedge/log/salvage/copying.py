"""The copy of one damaged log: which segments, their rows into hidden tables, and the transaction that takes them in.

Rows that are wanted most go first, because there may be no room for all: events, then the newest rounds. They are taken
in together, so that an uplink has them in the order of their seqs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import typing
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from fluxedge.log import retention
from fluxedge.log.body import checked
from fluxedge.log.damage import LogFault
from fluxedge.log.ranges import RangeSet
from fluxedge.log.salvage import takeover
from fluxedge.log.salvage.takeover import Account, Plan
from fluxedge.log.salvage.wreck import Found, Owed, Wreck
from fluxedge.log.segments import Segment
from fluxedge.log.store import Log
from fluxedge.model import OPEN_END, Group, Lane
from fluxedge.problems import LinkProblem

STEP_BYTES = 256 * 1024  # bodies read and written at once: about 20 ms of the writer's time
PAUSE_S = 0.02  # between two steps: what is read now goes first
_QUARANTINE = "uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload"
_QUARANTINE_1 = "uplink, epoch, lane, lo, hi, reason, at_ms, 'application/json', payload"  # of schema 1

T = typing.TypeVar("T")


class Report(msgspec.Struct):
    """What became of a damaged log; salvaged.json."""

    rounds: int = 0
    events: int = 0
    lost: int = 0  # records that some uplink had not had, and that nobody can read
    left_out: int = 0  # the same, because there was no room for them
    cursors: bool = True  # False: they could not be read; uplinks may get records again
    gave_up: bool = False
    older: bool = False  # there are rows whose epoch nobody knows; they stay in the folder

    def said(self, folder: Path) -> str:
        """Say it in a sentence."""
        saved = f"{self.rounds} rounds and {self.events} events of it were saved"
        lost = "nothing that was still to be sent is lost"
        if self.lost or self.left_out:
            lost = f"{self.lost + self.left_out} records that were still to be sent are lost and announced as gaps"
        if self.left_out:
            lost += f", {self.left_out} of them because there was no room"
        again = "" if self.cursors else "; what was delivered is not known, records may be sent again"
        again += "; records of older epochs were found, of which ones is not known: they are left" if self.older else ""
        if self.gave_up:
            saved = "reading it ended the gateway again and again, it is left alone"
        return f"the log was damaged and is set aside in {folder}: {saved}; {lost}{again}"


class Job:
    """The salvage of one folder."""

    def __init__(
        self,
        log: Log,
        wreck: Wreck,
        uplinks: dict[str, list[Lane]],
        groups: dict[bytes, Group],
        until_written: Callable[[Callable[[], Awaitable[typing.Any]]], Awaitable[typing.Any]],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._log, self._wreck, self._uplinks, self._groups, self._sleep = log, wreck, uplinks, groups, sleep
        self._until_written = until_written
        self._numbers: dict[int, int] = {}  # groups: number there -> number here
        self._have: dict[int, RangeSet] = {}  # by number of the target
        self._ended: set[int] = set()  # targets whose source could be read to its end
        self._full = False
        self._waited = False  # the disk took nothing for a while; it may have given nothing either

    async def run(self, *, newest: bool = True) -> Report:
        """Copy, take in; return what became of it. The newest folder answers for what was owed at last."""
        steps = self._wreck.look_around(self._groups)
        while await asyncio.to_thread(next, steps, None) is not None:
            await self._sleep(0)
        owed, readable = await asyncio.to_thread(self._wreck.owed, self._uplinks)
        known = self._log.laid_aside  # the log was damaged while it ran: nobody knows better
        owed = self._log.still_owed(owed) | {key: list(known[key]) for key in known if newest and key not in owed}
        owed = self._log.still_owed(owed)
        chosen = [segment for segment in self._newest_first() if self._wanted(segment, owed)]
        plan: Plan = await self._write(lambda c: takeover.make_plan(c, self._wreck.folder.name, chosen))
        await self._write(lambda c: takeover.write_intents(c, self._wreck.intents))
        self._use_groups()
        targets = self._targets(plan)
        for source, target in targets:
            await self._copy(source, target)
        await self._search([pair for pair in targets if self._holes(*pair)])
        await self._copy_quarantine()
        self._believe(targets)
        report = await self._take_in(owed, targets)
        report.older = self._wreck.left
        report.cursors = readable or owed.keys() <= known.keys()
        for key in owed:
            known.pop(key, None)
        return report

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _newest_first(self) -> list[Segment]:
        """Return the segments in the order in which they are worth most; events outlive rounds."""
        return sorted(self._wreck.segments, key=lambda s: (s.lane, s.epoch, s.first), reverse=True)

    def _wanted(self, segment: Segment, owed: Owed) -> bool:
        """Tell whether anybody needs a segment: rounds that are in the history files and delivered are of no use."""
        end = self._wreck.end_of(segment)
        if segment.lane is Lane.EVENTS or end > self._log.compacted.get(segment.epoch, 0):
            return True
        mine = [ranges for (_, *key), ranges in owed.items() if key == [segment.epoch, segment.lane]]
        return any(lo <= end and segment.first <= hi for ranges in mine for lo, hi in ranges)

    def _use_groups(self) -> None:
        groups = self._log.groups
        for number, group in sorted(self._wreck.groups.items()):
            self._numbers[number] = groups.number_of(group)
            groups.use(self._numbers[number], group)

    def _targets(self, plan: Plan) -> list[tuple[Segment, Segment]]:
        """Return (segment of the wreck, the one it goes to), in the order of the plan."""
        sources = {(s.lane, s.epoch, s.first): s for s in self._wreck.segments}
        pairs = []
        for lane, epoch, first, number in [(Lane(t.lane), t.epoch, t.first, t.number) for t in plan.targets]:
            source = sources.get((lane, epoch, first))
            if source is not None:  # the disk gave it at the last start, and may not give it now
                pairs.append((source, Segment(lane, number, epoch, first, source.created_ms, first - 1)))
        return pairs

    # --- copying ------------------------------------------------------------------------------------------------------

    async def _copy(self, source: Segment, target: Segment) -> None:
        """Copy rows from the beginning until an error, then from the end until what is there already."""
        held = await self._count(target)
        begun = next(iter(held), (0, 0))
        after = begun[1] if begun[0] == source.first else source.first - 1
        more = True
        while more and after != OPEN_END and not self._full:
            found, after, more = await asyncio.to_thread(self._wreck.rows, source, after, STEP_BYTES)
            await self._put(target, found, held)
        if more:
            self._ended.add(target.number)
        reached, before = after, OPEN_END
        while not more and not self._full:
            found, before, going = await asyncio.to_thread(
                partial(self._wreck.rows, source, before, STEP_BYTES, backward=True)
            )
            await self._put(target, found, held)
            if not going or before <= reached or before == OPEN_END:
                return

    async def _search(self, broken: list[tuple[Segment, Segment]]) -> None:
        """Look for the rows of segments with holes in every page of the file."""
        if not broken:
            return
        places = {(s.lane, s.epoch, s.first): target for s, target in broken}
        steps: Iterator[list[Found]] = self._wreck.scan([source for source, _ in broken])
        while not self._full and (found := await asyncio.to_thread(next, steps, None)) is not None:
            for key, target in places.items():
                held = self._have[target.number]
                mine = [f for f in found if (f.row.lane, f.row.epoch) == key[:2] and f.of == key[2]]
                await self._put(target, [f for f in mine if not held.intersect(f.row.seq, f.row.last)], held)
            await self._sleep(0)

    async def _put(self, target: Segment, found: list[Found], held: RangeSet) -> None:
        """Write rows to their target."""
        if not found:
            return
        groups, numbers = dict(self._wreck.groups), dict(self._numbers)
        rows = await asyncio.to_thread(
            lambda: [f._replace(row=checked(f.row, groups, numbers)) for f in found],
        )
        used = [(numbers[number], group) for number, group in groups.items()]
        size = sum(len(f.row.body) for f in rows)
        self._full = not await self._write(lambda c: self._write_rows(c, target, rows, used, size))
        if not self._full:
            for f in rows:
                held.add(f.row.seq, f.row.last)
        await self._sleep(PAUSE_S)

    def _write_rows(
        self, connection: sqlite3.Connection, target: Segment, rows: list[Found], used: list[typing.Any], size: int
    ) -> bool:
        """Write rows where there is room for them, on the writer's thread; tell whether there was."""
        limits = self._log.limits
        usage = retention.measure(connection, self._log.path)
        spare = usage.spare_bytes + max(0, usage.free_bytes - limits.free_space_bytes)
        if usage.used_bytes + 2 * limits.rotate_bytes + size > limits.backlog_bytes or spare < 2 * size:
            return False
        takeover.write_rows(connection, target, rows, used)
        return True

    async def _copy_quarantine(self) -> None:
        rows = await asyncio.to_thread(self._quarantine)
        while rows and not self._full:
            some = [rows.pop()]
            while rows and sum(len(row[8]) for row in some) < STEP_BYTES:
                some.append(rows.pop())
            await self._write(lambda c: takeover.write_quarantine(c, some))  # noqa: B023

    def _quarantine(self) -> takeover.Rows:
        if not self._wreck.has("quarantine"):
            return []
        found: takeover.Rows = []
        for columns in (_QUARANTINE, _QUARANTINE_1):
            found = found or self._wreck.table("quarantine", columns, "uplink, epoch, lane, lo")
        kinds = (str, int, int, int, int, str, int, str, bytes)
        return [row for row in found if all(isinstance(v, kind) for v, kind in zip(row, kinds, strict=True))]

    def _believe(self, targets: list[tuple[Segment, Segment]]) -> None:
        """Refuse to call lost what was not found while the disk of both logs failed: that may pass.

        Raises:
            LinkProblem: "log-damaged": so it is; what was copied stays, for the next time.
        """
        failed = self._waited or self._log.memory is not None or self._log.failing is not None
        if failed and (self._wreck.broken or any(self._holes(*pair) for pair in targets)):
            raise LinkProblem("log-damaged", "the disk failed while it was read")

    # --- taking in ----------------------------------------------------------------------------------------------------

    async def _take_in(self, owed: Owed, targets: list[tuple[Segment, Segment]]) -> Report:
        """Make what was copied a part of the log, in one transaction."""
        held: list[Segment] = []
        have: dict[tuple[int, Lane], RangeSet] = {}
        for _, target in targets:
            ranges = await self._count(target)
            if ranges:
                held.append(target)
                for lo, hi in ranges:
                    have.setdefault((target.epoch, target.lane), RangeSet()).add(lo, hi)
        books = self._log
        account, added, report = self._settle(owed, held, have)
        account.gaps.extend(await asyncio.to_thread(takeover.read_gaps, self._wreck))
        now_ms = books.now_ms()
        gaps = await self._write(lambda c: takeover.take_in(c, account, now_ms))
        known = {gap.id for gap in books.unannounced}
        books.unannounced += [gap for gap in gaps if gap.id not in known]
        books.adopt(held)
        for (uplink, epoch, lane), ranges in added.items():
            for lo, hi in ranges:
                books.cursors.begin(uplink, lane, epoch, lo, hi)
        books.cursors.go_on()
        for listener in self._log.listeners:
            listener()
        return report

    def _settle(
        self, owed: Owed, held: list[Segment], have: dict[tuple[int, Lane], RangeSet]
    ) -> tuple[Account, dict[tuple[str, int, Lane], RangeSet], Report]:
        """Divide what is owed into what is there and what is lost."""
        account, added = Account(held, [], [], []), dict[tuple[str, int, Lane], RangeSet]()
        lost: dict[tuple[int, Lane], RangeSet] = {}
        for (uplink, epoch, lane), ranges in owed.items():
            there = have.get((epoch, lane), RangeSet())
            ends = [hi for _, hi in [*there, *self._log.laid_aside.get((uplink, epoch, lane), ())] if hi < OPEN_END]
            head = max([self._wreck.last_of(epoch, lane), *ends])
            least = min((s.first for s in self._wreck.segments if (s.epoch, s.lane) == (epoch, lane)), default=1)
            wanted = [part for lo, hi in ranges for part in [(max(lo, least), min(hi, head))] if part[0] <= part[1]]
            missing = RangeSet(wanted)
            found = RangeSet([part for lo, hi in wanted for part in there.intersect(lo, hi)])
            for lo, hi in list(found):
                missing.remove(lo, hi)
            for lo, hi in missing:
                account.losses.append((uplink, epoch, lane, lo, hi, "backlog" if self._full else "damaged"))
                lost.setdefault((epoch, lane), RangeSet()).add(lo, hi)
            if found:
                added[(uplink, epoch, lane)] = found
                mine = dict(self._log.cursors.of(uplink, lane)).get(epoch, RangeSet())
                account.changes.append(((uplink, epoch, lane), list(RangeSet([*mine, *found]))))
        count = sum(ranges.count_upto(OPEN_END) for ranges in lost.values())
        saved = {lane: sum(r.count_upto(OPEN_END) for (_, mine), r in have.items() if mine is lane) for lane in Lane}
        lost_count, left_out = (0, count) if self._full else (count, 0)
        return account, added, Report(saved[Lane.ROUNDS], saved[Lane.EVENTS], lost_count, left_out)

    # --- small things -------------------------------------------------------------------------------------------------

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Write to the disk, as soon as the log is there."""

        async def once() -> T:
            try:
                return await self._log.write(takeover.on_disk(job))
            except LogFault:
                self._waited = True
                raise

        found: T = await self._until_written(once)
        return found

    async def _count(self, target: Segment) -> RangeSet:
        """Return what a target holds, and note it there."""
        held = self._have[target.number] = RangeSet()
        target.last, target.body_bytes, after = target.first - 1, 0, 0
        while rows := await self._log.disk.look(lambda c: takeover.count_rows(c, target, after)):  # noqa: B023
            after = takeover.grow(target, rows, held)
        return held

    def _holes(self, source: Segment, target: Segment) -> bool:
        """Tell whether rows of a segment are missing, or may be: where it ends is not known."""
        if target.number not in self._ended:
            return True
        ends = self._wreck.end_of(source)
        head = max(self._wreck.last_of(source.epoch, source.lane), source.last)
        ranges = RangeSet([(source.first, min(ends, head))])
        for lo, hi in self._have[target.number]:
            ranges.remove(lo, hi)
        return bool(ranges)
