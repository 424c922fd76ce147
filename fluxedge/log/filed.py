"""Rounds that have left the log, as a query of records sees them: read from the day files on a thread of its own."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiosqlite

from fluxedge.log.history import days
from fluxedge.log.history.buckets import DAY_NS
from fluxedge.log.history.records import FiledRounds, sums_of
from fluxedge.model import Group, Record

_EVER_NS = 2**63 - 1


class Held(typing.NamedTuple):
    """What the history has of an epoch."""

    first: int  # lowest and highest seq
    last: int
    rounds: int
    from_ns: int  # earliest and latest stamp
    to_ns: int
    bytes: int


class Wanted(typing.Protocol):
    """What is asked for (query.Query)."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def since_ns(self) -> int | None: ...
    @property
    def until_ns(self) -> int | None: ...
    @property
    def epoch(self) -> int | None: ...
    @property
    def newest_first(self) -> bool: ...


class Reader(typing.Protocol):
    """Who asks; called on the thread."""

    def concerns(self, group: Group) -> bool:
        """Tell whether a group has what is asked for."""
        ...

    def shaped(self, page: list[Record]) -> list[Record]:
        """Return the records of a page that match, cut to their points."""
        ...

    def tell_history(self, text: str) -> None:
        """Take in what cannot be read."""
        ...


class Filed:
    """The history of one gateway for one query."""

    def __init__(self, state_dir: Path, connection: aiosqlite.Connection, wanted: Wanted, reader: Reader) -> None:
        """`connection` reads the log."""
        self._folder = days.folder_of(state_dir)
        self._connection = connection
        self._wanted = wanted
        self._reader = reader

    async def seam(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return what is compacted, for every epoch of the log, and where its rounds begin."""
        fetch = self._connection.execute_fetchall
        sql = "SELECT epoch, min(first) FROM segments WHERE lane = 0 GROUP BY epoch"
        begins = {row[0]: row[1] for row in await fetch(sql)}
        if not await fetch("SELECT 1 FROM sqlite_master WHERE name = 'compacted'"):
            return dict.fromkeys(begins, 0), begins  # a log that an earlier version left
        compacted = {row[0]: row[1] for row in await fetch("SELECT epoch, upto FROM compacted")}
        return dict.fromkeys(begins, 0) | compacted, begins

    async def in_order(self, logged: Collection[int]) -> AsyncIterator[int]:
        """Yield the epochs in the order of the query; `logged` are those that the log has.

        The newest one comes before the day files are looked at: mostly nobody asks for more.
        """
        wanted = self._wanted
        first = max(logged) if logged and wanted.newest_first else None
        if first is not None and wanted.epoch in (None, first):
            yield first
        upto, _ = await self.seam()
        found = {*logged, *await asyncio.to_thread(self._epochs, upto)} - {first}
        for epoch in sorted(found, reverse=wanted.newest_first):
            if wanted.epoch in (None, epoch):
                yield epoch

    async def epochs(self) -> dict[int, Held]:
        """Return what the history has of each epoch, oldest first."""
        upto, _ = await self.seam()
        return await asyncio.to_thread(self._epochs, upto)

    def _epochs(self, upto: Mapping[int, int]) -> dict[int, Held]:
        found: dict[int, Held] = {}
        since_ns, until_ns = self._span_ns()
        for day, path in days.files(self._folder):
            if day * DAY_NS >= until_ns or (day + 1) * DAY_NS <= since_ns:
                continue
            for sums in sums_of(path, self._reader.tell_history):
                limit = upto.get(sums.epoch, sums.last)
                if sums.first > limit:
                    continue  # of a run of the compactor that has not ended
                held = Held(sums.first, min(sums.last, limit), sums.rounds, sums.from_ns, sums.to_ns, sums.bytes)
                found[sums.epoch] = _joined(found[sums.epoch], held) if sums.epoch in found else held
        return dict(sorted(found.items()))

    async def pages(self, epoch: int, first: int, last: int) -> AsyncGenerator[list[Record], None]:
        """Yield the records of an epoch with these seqs that are asked for, in pages, in the order of their seqs."""
        wanted, reader = self._wanted, self._reader
        first, last = max(first, wanted.first), min(last, wanted.last)
        if first > last:
            return
        upto, _ = await self.seam()
        rounds = FiledRounds(self._folder, epoch, upto, reader.concerns, reader.tell_history)
        found = rounds.pages(first, last, self._span_ns(), newest_first=wanted.newest_first)
        pool = ThreadPoolExecutor(1, thread_name_prefix="log-history")
        loop = asyncio.get_running_loop()
        try:
            while (page := await loop.run_in_executor(pool, self._next, found)) is not None:
                if page:
                    yield page
        finally:
            pool.submit(_close, found, rounds)  # behind a page that nobody waits for any more
            pool.shutdown(wait=False)

    def _span_ns(self) -> tuple[int, int]:
        since_ns, until_ns = self._wanted.since_ns, self._wanted.until_ns
        return -_EVER_NS if since_ns is None else since_ns, _EVER_NS if until_ns is None else until_ns

    def _next(self, found: Iterator[list[Record]]) -> list[Record] | None:
        page = next(found, None)
        return None if page is None else self._reader.shaped(page)


def _joined(a: Held, b: Held) -> Held:
    return Held(
        min(a.first, b.first), max(a.last, b.last), a.rounds + b.rounds, min(a.from_ns, b.from_ns),
        max(a.to_ns, b.to_ns), a.bytes + b.bytes,
    )  # fmt: skip


def _close(found: typing.Generator[list[Record], None, None], rounds: FiledRounds) -> None:
    found.close()
    rounds.close()
