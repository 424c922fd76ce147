"""The past side of a query: samples of points out of the day files, up to the seam.

    STATE/history/2027-01-31.db --> heads of the chunks that can match --> columns of one point, hour by hour

Stamps are those that the compactor has filed rounds under: placed by the clock table of then.
A file or chunk that is damaged is noted by name, and what is in the others is answered.
"""

from __future__ import annotations

import sqlite3
import typing
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fluxedge.log.history import days, seam
from fluxedge.log.history.buckets import DAY_NS
from fluxedge.log.history.chunks import Chunk, DamagedChunk
from fluxedge.log.history.days import ChunkHead, DamagedDay, DayReader
from fluxedge.log.history.hot import Vanished
from fluxedge.log.history.samples import Samples, ordered
from fluxedge.model import Flag, Group

T = typing.TypeVar("T")
OPEN_FILES = 4  # a query goes through the days in their order
KEPT_CHUNKS = 64  # whose shared columns stay unpacked: for the next point of the same group
_UNSYNCED = int(Flag.CLOCK_UNSYNCED)


class Past:
    """Read the history of a gateway for a few points; one query at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[tuple[int, Path]] = []
        self._readers: OrderedDict[int, tuple[int, DayReader]] = OrderedDict()  # day -> (inode, reader)
        self._chunks: OrderedDict[tuple[int, ChunkHead], Chunk] = OrderedDict()
        self.upto: Mapping[int, int] = {}  # the seam: epoch -> the last seq that is taken from here
        self.damaged: set[str] = set()
        self._anew: list[str] = []  # days that the compactor is making anew

    def refresh(self, upto: Mapping[int, int]) -> None:
        """Look which files there are; called before each query."""
        self.upto = upto
        self._files = days.files(self._folder)
        self._anew = seam.load(self._folder).rebuild
        there = dict(self._files)
        for day in list(self._readers):
            if day not in there or _inode(there[day]) != self._readers[day][0]:
                self._close(day)

    def close(self) -> None:
        """Close all files."""
        for day in list(self._readers):
            self._close(day)

    def _close(self, day: int) -> None:
        self._readers.pop(day)[1].close()
        for key in [key for key in self._chunks if key[0] == day]:
            del self._chunks[key]

    def days(self, from_ns: int, to_ns: int) -> list[int]:
        """Return the days that have a file and lie in [from, to), oldest first."""
        return [day for day, _ in self._files if day * DAY_NS < to_ns and (day + 1) * DAY_NS > from_ns]

    def note_unfinished(self, from_ns: int, to_ns: int) -> None:
        """Note the days in [from, to) that are being made anew after damage: some of them is missing as yet."""
        for name in self._anew:
            day = days.day_of(self._folder / f"{name}.db")
            if day is not None and day * DAY_NS < to_ns and (day + 1) * DAY_NS > from_ns:
                self.damaged.add(f"{name}.db: it is being made anew after damage")

    def reader(self, day: int) -> DayReader | None:
        """Return the open file of a day; None where it cannot be read."""
        kept = self._readers.get(day)
        if kept is not None:
            self._readers.move_to_end(day)
            return kept[1]
        path = dict(self._files)[day]
        try:
            inode = _inode(path)
            reader = DayReader(path)
        except (DamagedDay, sqlite3.Error) as damage:
            if path.exists():  # else retention has removed it in the meantime
                self.note(day, damage)
            return None
        while len(self._readers) >= OPEN_FILES:
            self._close(next(iter(self._readers)))
        self._readers[day] = inode, reader
        return reader

    def groups(self, day: int, devices: Collection[str]) -> dict[int, Group]:
        """Return the groups of these devices in a day's file."""
        reader = self.reader(day)
        try:
            return {} if reader is None else reader.groups(devices)
        except (DamagedDay, sqlite3.Error) as damage:
            self.note(day, damage)
            return {}

    def heads(self, day: int, numbers: Collection[int], from_ns: int, to_ns: int) -> list[ChunkHead]:
        """Return what a day's file has of these groups in [from, to), up to the seam."""
        reader = self.reader(day)
        if reader is None or not numbers:
            return []
        try:
            return reader.heads(numbers, from_ns, to_ns, self.upto)
        except (DamagedDay, sqlite3.Error) as damage:
            self.note(day, damage)
            return []

    def note(self, day: int, damage: Exception) -> None:
        """Note that something of a day's file could not be read."""
        name = days.path_of(self._folder, day).name
        text = str(damage)
        self.damaged.add(text if name in text else f"{name}: {text}")

    def point(self, day: int, name: str) -> dict[int, tuple[Group, int]]:
        """Return the groups of a day's file that have a point: number -> (group, number of the point in it)."""
        device, _, point = name.partition(".")
        found = self.groups(day, (device,))
        return {number: (group, group.names.index(point)) for number, group in found.items() if point in group.names}

    def samples(self, day: int, head: ChunkHead, point: int) -> Samples | None:
        """Return a point's samples of one chunk, up to the seam; None where it is damaged.

        Raises:
            Vanished: the compactor has written the chunk anew.
        """
        try:
            chunk = self.chunk(day, head)
            if chunk is None:
                return None
            made = self._samples(chunk, point)
        except (DamagedChunk, DamagedDay, sqlite3.Error) as damage:
            self.note(day, damage)
            return None
        limit = self.upto.get(head.epoch)
        if limit is not None and head.last > limit:
            made = made.picked([i for i, seq in enumerate(made.seqs) if seq <= limit])
        return ordered(made)

    def chunk(self, day: int, head: ChunkHead) -> Chunk | None:
        """Return a chunk, from the last query where that had it.

        Raises:
            DamagedChunk, DamagedDay: it is not what was written.
            Vanished: the compactor has written it anew.
        """
        kept = self._chunks.get((day, head))
        if kept is not None:
            self._chunks.move_to_end((day, head))
            return kept
        reader = self.reader(day)
        if reader is None:
            return None
        chunk = _vanishing(lambda: reader.chunk(head))
        self._chunks[day, head] = chunk
        if len(self._chunks) > KEPT_CHUNKS:
            self._chunks.popitem(last=False)
        return chunk

    def _samples(self, chunk: Chunk, point: int) -> Samples:
        def read() -> Samples:
            flags, at_ns = chunk.flags, chunk.at_ns.tolist()
            same = flags.count(flags[:1]) == len(flags) and not flags[0] & _UNSYNCED
            unsynced = b"" if same else bytes([bool(mark & _UNSYNCED) for mark in flags])
            values, marks = chunk.values(point), chunk.quality(point)
            epochs = [chunk.epoch] * chunk.count
            return Samples(chunk.group.points[point], at_ns, values, marks, epochs, _Seqs(chunk), unsynced)

        return _vanishing(read)


class _Seqs(Sequence[int]):
    """The seqs of a chunk, unpacked when somebody looks: most queries need no seq."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk

    def __len__(self) -> int:
        return int(self._chunk.count)

    @typing.overload
    def __getitem__(self, i: int) -> int: ...
    @typing.overload
    def __getitem__(self, i: slice) -> Sequence[int]: ...
    def __getitem__(self, i: typing.Any) -> typing.Any:
        return self._chunk.seqs[i]


def _vanishing(read: Callable[[], T]) -> T:
    """Read a body; say it where its row has been replaced since its head was read."""
    try:
        return read()
    except sqlite3.OperationalError as exc:
        if "no such rowid" in str(exc):
            raise Vanished(str(exc)) from exc
        raise


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
