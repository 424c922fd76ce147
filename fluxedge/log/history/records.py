"""Records that have left the log: rounds out of the day files, in the order of their seqs, page by page. Blocking.

    one heap, by seq:   a day  -- when its first seq is reached -->  its chunks
                        a chunk  -- likewise -->  its rounds, some at a time
                        a round  -->  out, and the next one of its chunk goes in

So late rounds, which lie in other days, come in their turn, and what is in memory is bounded: the chunks that overlap
in their seqs (one of each group, as a rule), and of each only some rounds.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
import typing
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from fluxedge.log.history import days
from fluxedge.log.history.buckets import DAY_NS
from fluxedge.log.history.chunks import DamagedChunk
from fluxedge.log.history.days import ChunkHead, DamagedDay, DayReader, Sums
from fluxedge.model import OPEN_END, Group, Record

PAGE_RECORDS = 200
UNPACKED_VALUES = 2_000_000  # of all open chunks, about 8 bytes each
FEWEST_ROUNDS = 20  # a chunk gives at least so many at a time: each time all its columns are unpacked
_DAY, _CHUNK, _ROUND = range(3)  # at the same seq what can hold rounds is looked into first

Told = Callable[[str], object]  # what could not be read
Wanted = Callable[[Group], bool]
Thing = tuple[int, int, int, typing.Any]  # seq (negative when going down), what it is, number, itself


class FiledRounds:
    """Rounds of one epoch in the history."""

    def __init__(self, folder: Path, epoch: int, upto: Mapping[int, int], wanted: Wanted, told: Told) -> None:
        """`upto` is the seam: for every epoch of the log what is compacted."""
        self._folder = folder
        self._epoch = epoch
        self._upto = upto
        self._wanted = wanted
        self._told = told
        self._open: dict[Path, tuple[DayReader, int]] = {}  # and how many chunks are being read
        self._numbers = itertools.count()
        self._values = 0  # of a round of each group of the day with most points

    def close(self) -> None:
        """Close all files."""
        for reader, _ in self._open.values():
            reader.close()
        self._open.clear()

    def pages(
        self, first: int, last: int, span_ns: tuple[int, int], *, newest_first: bool = False
    ) -> Generator[list[Record], None, None]:
        """Yield the rounds with these seqs whose chunks can hold a stamp in [from, to)."""
        page: list[Record] = []
        for record in self._merged(first, last, span_ns, -1 if newest_first else 1):
            page.append(record)
            if len(page) >= PAGE_RECORDS:
                yield page
                page = []
        if page:
            yield page

    def _merged(self, first: int, last: int, span_ns: tuple[int, int], step: int) -> Iterator[Record]:
        heap: list[Thing] = []
        for path, sums in self._spans(span_ns):
            if sums.first <= last and sums.last >= first:
                heap.append(self._thing(_DAY, sums.first, sums.last, step, path))
        heapq.heapify(heap)
        while heap:
            _, kind, _, thing = heapq.heappop(heap)
            if kind == _DAY:
                for head in self._heads(thing, span_ns):
                    if head.first <= last and head.last >= first:
                        heapq.heappush(heap, self._thing(_CHUNK, head.first, head.last, step, (thing, head)))
                continue
            if kind == _CHUNK:
                path, head = thing
                records = self._records(path, head, step)
            else:
                record, records = thing
                if first <= record.seq <= last:
                    yield record
            following = next(records, None)
            if following is not None:
                heapq.heappush(heap, self._thing(_ROUND, following.seq, following.seq, step, (following, records)))

    def _thing(self, kind: int, first: int, last: int, step: int, thing: typing.Any) -> Thing:
        return (first if step > 0 else -last, kind, next(self._numbers), thing)

    def _spans(self, span_ns: tuple[int, int]) -> Iterator[tuple[Path, Sums]]:
        """Yield what each day's file has of the epoch."""
        for day, path in days.files(self._folder):
            if day * DAY_NS < span_ns[1] and (day + 1) * DAY_NS > span_ns[0]:
                for sums in sums_of(path, self._told):
                    if sums.epoch == self._epoch:
                        yield path, sums

    def _heads(self, path: Path, span_ns: tuple[int, int]) -> list[ChunkHead]:
        try:
            with DayReader(path) as reader:
                wanted = {number: group for number, group in reader.groups().items() if self._wanted(group)}
                heads = reader.heads(wanted, *span_ns, self._upto)
        except (DamagedDay, sqlite3.Error) as damage:
            tell(self._told, path, damage)
            return []
        mine = [head for head in heads if head.epoch == self._epoch]
        self._values = max(self._values, sum(len(wanted[number].points) for number in {head.grp for head in mine}))
        return mine

    def _records(self, path: Path, head: ChunkHead, step: int) -> Iterator[Record]:
        """Yield the rounds of a chunk up to the seam; its file stays open as long."""
        limit = self._upto.get(head.epoch, OPEN_END)
        room = max(FEWEST_ROUNDS, UNPACKED_VALUES // max(1, self._values))
        try:
            reader, users = self._open.get(path) or (DayReader(path), 0)
            self._open[path] = reader, users + 1
            try:
                chunk = reader.chunk(head)
                starts = range(0, chunk.count, room)
                for start in starts if step > 0 else reversed(starts):
                    page = [record for record in chunk.records(start, start + room) if record.seq <= limit]
                    yield from page if step > 0 else reversed(page)
            finally:
                self._leave(path)
        except (DamagedChunk, DamagedDay, sqlite3.Error) as damage:
            tell(self._told, path, f"{head.n} rounds from seq {head.first} on: {damage}")

    def _leave(self, path: Path) -> None:
        if path in self._open:
            reader, users = self._open.pop(path)
            if users > 1:
                self._open[path] = reader, users - 1
            else:
                reader.close()


def sums_of(path: Path, told: Told) -> list[Sums]:
    """Return what a day's file has of each epoch; nothing where it cannot be read."""
    try:
        with DayReader(path) as reader:
            return reader.sums()
    except (DamagedDay, sqlite3.Error) as damage:
        tell(told, path, damage)
        return []


def tell(told: Told, path: Path, damage: object) -> None:
    """Tell what could not be read; not when retention has removed the file in the meantime."""
    if path.exists():
        text = str(damage)
        told(text if path.name in text else f"{path.name}: {text}")
