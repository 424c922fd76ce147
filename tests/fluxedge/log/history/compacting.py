"""A log with rounds of several hours, and what the history holds of it."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fluxedge.log import Log
from fluxedge.log.batch import Batch
from fluxedge.log.body import records
from fluxedge.log.history import days
from fluxedge.log.history.compactor import Compactor, Tell
from fluxedge.log.history.days import DayReader
from fluxedge.log.history.units import Now
from fluxedge.model import Group, Lane, Record, Round
from tests.fluxedge.log.fake_clock import START_NS, FakeClock

HOUR_NS = 3600 * 10**9
FIRST_HOUR_NS = START_NS // HOUR_NS * HOUR_NS + HOUR_NS
EVERYTHING = (-(2**63), 2**63 - 1)

Lines = list[dict[str, typing.Any]]


def at_hour(clock: FakeClock, hours: float) -> None:
    """Move the clock to so many hours behind the first full one."""
    clock.advance((FIRST_HOUR_NS + int(hours * HOUR_NS) - clock.now_ns) / 10**9)


def now_of(log: Log, clock: FakeClock, keep_s: float = 400 * 86_400.0) -> Now:
    return Now(clock.wall_ns(), clock.mono_ns(), log.boot, clock.wall_ns() - int(keep_s * 10**9))


async def fill(log: Log, clock: FakeClock, groups: Sequence[Group], rounds: int, every_s: float = 60.0) -> None:
    """Read every group so many times, a commit each time."""
    for i in range(rounds):
        batch = Batch()
        for k, group in enumerate(groups):
            raws = tuple((log.heads[0] + i + k) % 100 for _ in group.points)
            log.add_round(batch, group.round(raws, clock.wall_ns(), clock.mono_ns()))
        await log.commit(batch)
        clock.advance(every_s)


async def compact(
    log: Log, clock: FakeClock, *, note: bool = True, tell: Tell | None = None, suspects: Sequence[str] = ()
) -> Lines:
    """Run the compactor here, and note in the log what the daemon would note."""
    lines: Lines = []

    def keep(line: dict[str, typing.Any]) -> None:
        lines.append(line)
        if tell is not None:
            tell(line)

    compactor = Compactor(log.path.parent, now_of(log, clock), keep)
    try:
        compactor.run(suspects)
    finally:
        compactor.close()
    if note:
        for line in lines:
            if "epoch" in line:
                await log.note_compacted(line["epoch"], line["upto"])
    return lines


def history(state: Path, upto: dict[int, int] | None = None) -> list[Record]:
    """Return everything that the day files hold, by epoch and seq."""
    found: list[Record] = []
    for day, path in days.files(days.folder_of(state)):
        with DayReader(path) as reader:
            for head in reader.heads(reader.groups(), *EVERYTHING, upto):
                records = list(reader.chunk(head).records())
                assert head.hour // 24 == day
                assert (head.first, head.last, head.n) == (records[0].seq, records[-1].seq, len(records))
                stamps = [record.body.at_ns for record in records]
                assert (head.from_ns, head.to_ns) == (min(stamps), max(stamps))
                found += records
    return sorted(found, key=lambda record: (record.epoch, record.seq))


def doubles(records: Sequence[Record]) -> list[tuple[int, int]]:
    counted = Counter((record.epoch, record.seq) for record in records)
    return [key for key, count in counted.items() if count > 1]


async def logged(log: Log, epoch: int | None = None) -> list[Record]:
    """Return the rounds that the log holds."""
    found: list[Record] = []
    seq = 1
    while True:
        rows, groups = await log.read(
            epoch or log.epoch, Lane.ROUNDS, seq, 1 << 20, lambda rows, groups: (rows, groups)
        )
        if not rows:
            return found
        for row in rows:
            found += records(row, groups)
        seq = rows[-1].last + 1


def rounds_in(state: Path) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (level, start) -> (rounds of all groups, rows) of the rollups."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for day, path in days.files(days.folder_of(state)):
        with DayReader(path) as reader:
            for number in reader.groups():
                starts = [(60, day * 24 + hour) for hour in range(24)] + [(3600, day)]
                for level, start in starts:
                    rollup = reader.rollup(level, start, number)
                    if rollup is not None:
                        rounds, rows = found.get((level, start), (0, 0))
                        count = sum(row.rounds for row in rollup.rows)
                        found[level, start] = rounds + count, rows + len(rollup.rows)
    return found


def upto_of(log: Log) -> dict[int, int]:
    """Return what a reader must know of the seam."""
    epochs = {segment.epoch for segment in log.segments()}
    return {epoch: log.compacted.get(epoch, 0) for epoch in epochs}


def body_of(record: Record) -> Round:
    assert isinstance(record.body, Round)
    return record.body
