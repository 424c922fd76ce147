"""Salvage: what can be read of a log that was set aside is taken into the new one, beside the work that goes on.

    STATE/log.damaged-*/log.db ... no salvaged.json in its folder: it is to be salvaged
    begin       commands and their results, state, clock, what is compacted     before the first command is taken
    copy        whole rows into tables rounds_1000000001 ... that no table `segments` names yet: nobody sees them
    take in     one transaction: the segments are named, cursors have what is owed and there, gaps what is owed and not
    STATE/log.damaged-*/salvaged.json           what was saved and lost: done

Records keep their epoch and seq. kill -9 at any moment: the next start goes on where the copy was, and takes in once.
The damaged file is read in small steps on a thread, written by the log's writer in small transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec

from fluxedge.log.damage import LogFault
from fluxedge.log.salvage import takeover
from fluxedge.log.salvage.copying import Job, Report
from fluxedge.log.salvage.wreck import Wreck
from fluxedge.log.store import Log
from fluxedge.model import Group, Lane
from fluxedge.problems import LinkProblem

LOOK_S = 30.0  # how often folders are looked for; the disk may have failed while the gateway ran
AGAIN_S = 5.0  # after a transaction that failed
BEGIN_S = 5.0  # a disk that hangs must not keep the gateway from starting
_FILES = ("log.db", "log.db-wal")
TRIES = 3  # starts that died while SQLite read a folder: then it is taken apart by hand; after as many more, not at all

_PASSING = (LinkProblem, sqlite3.Error, OSError)  # no file can be opened, our own log cannot be read just now

T = typing.TypeVar("T")


def pending(state_dir: Path) -> list[Path]:
    """Return the folders that are not salvaged yet, oldest first; none while the disk does not tell."""
    try:
        folders = [folder for folder in state_dir.glob("log.damaged-*") if not (folder / "salvaged.json").exists()]
        return sorted(folder for folder in folders if any((folder / name).exists() for name in _FILES))
    except OSError:
        return []


class Salvage:
    """The one that salvages, folder after folder."""

    def __init__(
        self,
        log: Log,
        uplinks: Callable[[], dict[str, list[Lane]]],
        groups: Callable[[], Iterable[Group]],
        report: Callable[[LinkProblem], None],
        recover: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`uplinks` and `groups` are those of the configuration; `recover` is called when commands came in."""
        self._log, self._uplinks, self._groups = log, uplinks, groups
        self._report, self._recover, self._sleep = report, recover, sleep
        self._done: set[Path] = set()  # a disk that takes no salvaged.json must not have a folder salvaged twice

    async def begin(self) -> None:
        """Take over commands, state and clock; before a command is taken. What cannot be had in time comes later."""
        for folder in await asyncio.to_thread(pending, self._log.path.parent):
            async with _tried(folder) as tries:
                if tries < TRIES:
                    with contextlib.suppress(*_PASSING):
                        await asyncio.wait_for(self._begin(folder), BEGIN_S)

    async def run(self) -> None:
        """Salvage what there is, and what comes, until cancelled."""
        while True:
            for folder in await asyncio.to_thread(pending, self._log.path.parent):
                if folder not in self._done:
                    await self._try(folder)
            await self._sleep(LOOK_S)

    async def _try(self, folder: Path) -> None:
        """Salvage one folder, or say what keeps it from that for now."""
        try:
            await self._salvage(folder)
        except _PASSING as exc:
            text = f"{folder} cannot be salvaged now: {exc}"
            self._report(LinkProblem("log-damaged", text, "It is tried again. Look after the disk's health."))

    async def _begin(self, folder: Path) -> None:
        small = await asyncio.to_thread(_small, folder)
        boot = self._log.boot
        job = takeover.on_disk(lambda c: takeover.write_small(c, folder.name, small, boot))
        await self._log.write(job)
        # Also what was written before: whoever waited for that may have been killed, or have waited for too long.
        compacted = self._log.compacted
        for epoch, upto in small.compacted:
            compacted[epoch] = max(upto, compacted.get(epoch, 0))
        for uplink, lane in small.uplinks:  # it is no new one: it has everything from the first record on
            if not self._log.cursors.known(uplink, Lane(lane)):
                self._log.cursors.begin(uplink, Lane(lane), self._log.epoch, 1)
        await self._recover()

    async def _salvage(self, folder: Path) -> None:
        """Salvage one folder."""
        async with _tried(folder) as tries:
            how = {"by_hand": tries >= TRIES, "blind": tries >= 2 * TRIES}
            wreck = await asyncio.to_thread(partial(Wreck, folder, **how))
            try:
                if tries < TRIES:
                    await self._until_written(lambda: self._begin(folder))
                known = {group.key: group for group in self._groups()}
                job = Job(self._log, wreck, self._uplinks(), known, self._until_written, self._sleep)
                others = await asyncio.to_thread(pending, self._log.path.parent)
                report = await job.run(newest=folder >= max(others, default=folder))
                report.gave_up = tries >= 2 * TRIES
                if wreck.intents:
                    await self._recover()
            finally:
                await asyncio.to_thread(wreck.close)
        text = report.said(folder)
        self._log.damaged = LinkProblem("log-damaged", text, "Look after the disk's health.")
        self._done.add(folder)
        await asyncio.to_thread(_finish, folder, report)
        self._report(self._log.damaged)

    async def _until_written(self, job: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the log does not take now."""
        while True:
            try:
                return await job()
            except LogFault:
                await self._sleep(AGAIN_S)


def _small(folder: Path) -> takeover.Small:
    with contextlib.closing(Wreck(folder)) as wreck:
        return takeover.read_small(wreck)


@contextlib.asynccontextmanager
async def _tried(folder: Path) -> AsyncIterator[int]:
    """Count a try as failed until it ended well, was cancelled or met what passes; yield how many failed before."""
    tries = await asyncio.to_thread(_tries, folder)
    try:
        await asyncio.to_thread(_note_tries, folder, tries + 1)
        yield tries
    except (asyncio.CancelledError, *_PASSING):
        await asyncio.to_thread(_note_tries, folder, tries)
        raise
    await asyncio.to_thread(_note_tries, folder, tries)


def _tries(folder: Path) -> int:
    """Return how many starts did not live to the end of a folder's salvage."""
    try:
        return int((folder / "salvage.tries").read_text())
    except (OSError, ValueError):
        return 0


def _note_tries(folder: Path, count: int) -> None:
    with contextlib.suppress(OSError):
        if count:
            (folder / "salvage.tries").write_text(str(count))
        else:
            (folder / "salvage.tries").unlink(missing_ok=True)


def _finish(folder: Path, report: Report) -> None:
    """Note that a folder is done; where that cannot be written, the next start salvages it again."""
    with contextlib.suppress(OSError):
        (folder / "salvaged.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        (folder / "salvage.tries").unlink(missing_ok=True)
