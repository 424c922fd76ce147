"""Copying a unit: rounds of the log become chunks and rollups of day files, in bounded memory.

    rows ──► per (hour, group): raw columns ──► chunk ──► day file: chunks, then the rollups of the hours they touch

When the raw columns of a unit are more than the budget, the rows are read again for each part of its groups. Taking a
row apart costs a fraction of what packing its columns costs, but not two hundred times over: the budget grows with the
unit, up to a bound. (200 devices of 500 points a second, an hour: 200 times took 1,400 s, 25 times take 170.)

A run that did not end leaves chunks that are committed in a day file, but not noted in the log. They are not part of
the history (a reader knows them by their seq), and the next run takes them away before it writes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from fluxedge.log.history import days, rollups
from fluxedge.log.history.chunks import Chunk, DamagedChunk, reader_of
from fluxedge.log.history.day_writer import DayWriter
from fluxedge.log.history.days import DAY_HOURS, HOUR_NS, ChunkHead
from fluxedge.log.history.gathering import Gathered, pack_gathered
from fluxedge.log.history.rollups import FEWEST_A_MINUTE, HOUR, MINUTE, Held, Rollup, Summary
from fluxedge.log.history.rows import LogRows
from fluxedge.log.history.units import Placer, RowHead, Unit, raw_of
from fluxedge.model import Group

BUDGET_BYTES = 8 << 20  # raw columns in memory ...
BUDGET_MOST_BYTES = 64 << 20  # ... and so many before the rows are read more than READINGS times
READINGS = 16
CHUNK_BYTES = 8 << 20  # raw columns of one chunk; an hour of more becomes several

Packed = tuple[Group, ChunkHead, bytes]
Has = Callable[[int, Group, int, int], bool]  # hour, group, epoch, seq: is this round in the day's file already?


class Copier:
    """Write units to the day files of a folder."""

    def __init__(self, rows: LogRows, placer: Placer, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._rows = rows
        self._placer = placer
        self._folder = folder
        self._budget_bytes = budget_bytes
        self.rounds = 0  # copied
        self.points = 0
        self.written_bytes = 0  # bodies of chunks and rollups

    def copy(self, unit: Unit, only_day: int | None = None, has: Has | None = None) -> None:
        """Copy a unit; of its rounds those of one day where that is said, without those that it `has`.

        Raises:
            DamagedDay: a day file is not what was written; it was not changed.
            sqlite3.Error, OSError: the disk takes nothing.
        """
        wanted_bytes = min(sum(unit.sizes.values()) // READINGS, BUDGET_MOST_BYTES)
        for groups in _parts(unit.sizes, max(self._budget_bytes, wanted_bytes)):
            for day, packed in sorted(self._gather(unit, groups, only_day, has).items()):
                self._write(day, packed)

    def copy_day(self, unit: Unit, day: int, has: Has) -> None:
        """Copy what is filed under one day of all that a unit covers and is not there; raises what `copy` raises."""
        for _, row in self._rows.read(unit.epoch, unit.after, unit.upto, _of_day(day, self._placer)):
            for _, raw in raw_of(row, unit, self._rows.groups):
                unit.sizes[raw.group_id] += raw.size_bytes
        self.copy(unit, day, has)

    def _gather(
        self, unit: Unit, groups: Collection[int], only_day: int | None, has: Has | None
    ) -> dict[int, list[Packed]]:
        """Return day -> chunks of these groups."""
        gathering: dict[tuple[int, int], Gathered] = {}
        packed: dict[int, list[Packed]] = {}

        def close(key: tuple[int, int]) -> None:
            gathered = gathering.pop(key)
            packed.setdefault(key[0] // DAY_HOURS, []).append(_packed(gathered, key[0], unit.epoch))
            self.rounds += len(gathered.seqs)
            self.points += len(gathered.seqs) * len(gathered.group.points)

        self._placer.begin_unit()
        wanted = None if only_day is None else _of_day(only_day, self._placer)
        for head, row in self._rows.read(unit.epoch, unit.after, unit.upto, wanted):
            arrived_ns = self._placer.arrived_ns(head)
            for seq, raw in raw_of(row, unit, self._rows.groups, groups):
                stamp_ns = self._placer.stamp_ns(row.boot, raw)
                hour = self._placer.hour(raw.group_id, stamp_ns, arrived_ns)
                if only_day is not None and hour // DAY_HOURS != only_day:
                    continue
                if has is not None and has(hour, self._rows.groups[raw.group_id], unit.epoch, seq):
                    continue
                key = hour, raw.group_id
                if key not in gathering:
                    gathering[key] = Gathered(self._rows.groups[raw.group_id])
                gathering[key].add(seq, row.boot, stamp_ns, raw.mono_ns, raw.flags, raw.quality, raw.columns)
                if gathering[key].size_bytes > CHUNK_BYTES:
                    close(key)
        for key in sorted(gathering):
            close(key)
        return packed

    def _write(self, day: int, packed: list[Packed]) -> None:
        """Write chunks and the rollups they change, in one transaction."""
        writer = DayWriter(days.path_of(self._folder, day))
        try:
            writer.begin()
            touched = set()
            for group, head, body in packed:
                writer.write_chunk(group, head, body)
                touched.add((head.hour, writer.number_of(group)))
                self.written_bytes += len(body)
            self.written_bytes += write_rollups(
                writer, touched, {writer.number_of(group): group for group, *_ in packed}
            )
            writer.commit()
        finally:
            writer.close()


def _parts(sizes: Mapping[int, int], budget_bytes: int) -> Iterator[set[int]]:
    """Yield sets of groups whose raw columns fit into the budget; a group that does not is one of its own."""
    part: set[int] = set()
    size = 0
    for group_id, size_bytes in sorted(sizes.items()):
        if part and size + size_bytes > budget_bytes:
            yield part
            part, size = set(), 0
        part.add(group_id)
        size += size_bytes
    if part:
        yield part


def _of_day(day: int, placer: Placer) -> Callable[[RowHead], bool]:
    """Return which rows can hold rounds that are filed under a day."""
    from_ns, to_ns = day * DAY_HOURS * HOUR_NS, (day + 1) * DAY_HOURS * HOUR_NS

    def wanted(head: RowHead) -> bool:
        return (head.from_ns < to_ns and head.to_ns >= from_ns) or from_ns <= placer.arrived_ns(head) < to_ns

    return wanted


def _packed(gathered: Gathered, hour: int, epoch: int) -> Packed:
    seqs, at_ns = gathered.seqs, gathered.at_ns
    head = ChunkHead(0, hour, 0, epoch, seqs[0], seqs[-1], len(seqs), min(at_ns), max(at_ns))
    return gathered.group, head, pack_gathered(gathered)


def write_rollups(writer: DayWriter, touched: Iterable[tuple[int, int]], groups: Mapping[int, Group]) -> int:
    """Bring the rollups of these (hour, group number) up to date; return their bytes."""
    size = 0
    for hour, number in sorted(touched):
        group = groups.get(number)
        if group is None:
            continue  # it cannot be read, and so its chunks cannot
        minutes, hours = _summarised(writer, hour, number, group)
        few = not minutes.rows or hours.rows[0].rounds < FEWEST_A_MINUTE * len(minutes.rows)
        body = None if few else rollups.pack(group, minutes)
        writer.write_rollup(MINUTE, hour, number, body)
        day = hour // DAY_HOURS
        merged = _with_hour(writer.rollup_body(HOUR, day, number), group, hour, hours)
        hourly = rollups.pack(group, merged) if merged.rows else None
        writer.write_rollup(HOUR, day, number, hourly)
        size += len(body or b"") + len(hourly or b"")
    return size


def _summarised(writer: DayWriter, hour: int, number: int, group: Group) -> tuple[Summary, Summary]:
    """Return minutes and hour of all chunks that can be read."""
    start_ns = hour * HOUR_NS
    bodies = writer.bodies(hour, number)
    try:
        return rollups.summarise(group, [Chunk(group, epoch, reader_of(body)) for epoch, body in bodies], start_ns)
    except DamagedChunk:  # queries find it, and say so
        whole = [Chunk(group, epoch, reader_of(body)) for epoch, body in bodies if _is_whole(group, epoch, body)]
        return rollups.summarise(group, whole, start_ns)


def _is_whole(group: Group, epoch: int, body: bytes) -> bool:
    try:
        Chunk(group, epoch, reader_of(body)).check()
    except DamagedChunk:
        return False
    return True


def _with_hour(stored: bytes | None, group: Group, hour: int, hours: Summary) -> Summary:
    """Return the hours of a day with one of them replaced."""
    if stored is None:
        return hours
    try:
        old = Rollup(group, reader_of(stored))
        before = [old.held(point) for point in range(len(group.points))]
    except DamagedChunk:
        return hours
    keep = [i for i, row in enumerate(old.rows) if row.start_ns != hour * HOUR_NS]
    rows = [old.rows[i] for i in keep] + hours.rows
    order = sorted(range(len(rows)), key=lambda i: rows[i].start_ns)
    points: list[list[Held] | None] = []
    for was, now in zip(before, hours.points, strict=True):
        if was is None or now is None:
            points.append(None)
            continue
        held = [was[i] for i in keep] + now
        points.append([held[i] for i in order])
    return Summary([rows[i] for i in order], points)
