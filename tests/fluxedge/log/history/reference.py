"""What a query must answer, made the slow and obvious way; and a log whose rounds go to the history up to any seq."""

from __future__ import annotations

import json
import random
import sqlite3
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fluxedge.columns import Value
from fluxedge.log import Batch, Log, placing
from fluxedge.log.history import days
from fluxedge.log.history.copying import Copier
from fluxedge.log.history.query import AGGREGATES, Question, Reading
from fluxedge.log.history.rows import LogRows
from fluxedge.log.history.units import Now, Placer, Unit, raw_of
from fluxedge.model import OPEN_END, Flag, Group, Point, Quality, Round
from tests.fluxedge.log.fake_clock import START_NS

S = 10**9
HOUR = 3600 * S
BASE_NS = START_NS // (24 * HOUR) * 24 * HOUR + 22 * HOUR  # two hours before midnight: two day files
MONO_NS = 500 * S  # of BASE_NS
SYNCED_MS = 800_000  # when the clock was set in the boot of the test


class Sample(typing.NamedTuple):
    """One sample of a point, as the definitions see it."""

    at_ns: int
    epoch: int
    seq: int
    value: Value | None
    quality: int


def groups() -> list[Group]:
    """Return two devices; the first has a second version of its group, with another scaling of the same points."""
    first = (
        Point("temp", "h", scale=0.1),
        Point("count", "Q"),
        Point("flow", "f"),
        Point("on", "?"),
        Point("mode", "B", enum={0: "off", 1: "auto"}),
        Point("name", "s"),
    )
    second = (Point("name", "s"), Point("temp", "i", scale=0.01), Point("count", "Q"), Point("on", "?"))
    return [Group("a", "main", first), Group("a", "main", second), Group("b", "main", first[:3])]


POINTS = ("a.temp", "a.count", "a.flow", "a.on", "a.mode", "a.name", "b.temp")


def rounds(rng: random.Random, count: int) -> list[Round]:
    """Return rounds over some four hours: late ones, equal stamps, silent and bad points, a clock that was not set."""
    kinds = groups()
    made = []
    for i in range(count):
        group = kinds[2] if rng.random() < 0.4 else kinds[i > count // 2]
        at_ns = BASE_NS + i * 4 * HOUR // count + rng.randrange(S)
        flags = 0
        if rng.random() < 0.05:
            at_ns -= rng.randrange(3 * HOUR)  # late
            flags = Flag.SOURCE_TIME
        elif rng.random() < 0.1 and made:
            at_ns = made[-1].at_ns
        mono_ns = MONO_NS + i * 4 * HOUR // count
        if mono_ns < SYNCED_MS * 10**6 and not flags:
            at_ns, flags = 1000 * S + i, Flag.CLOCK_UNSYNCED  # 1970
        quality = b""
        if rng.random() < 0.2:
            quality = bytes(rng.choice((0, 0, 1, 2, 3)) for _ in group.points)
        elif rng.random() < 0.05:
            quality = bytes([Quality.OFFLINE]) * len(group.points)
        raws = tuple(
            None if quality and quality[j] >= Quality.BAD else _raw(rng, point.wire)
            for j, point in enumerate(group.points)
        )
        made.append(group.round(raws, at_ns, mono_ns, quality=quality, flags=flags))
    return made


def _raw(rng: random.Random, wire: str) -> Value:
    if wire == "s":
        return rng.choice(("", "一号", "two"))
    if wire == "?":
        return rng.random() < 0.5
    if wire == "f":
        return float(rng.randrange(-1000, 1000)) / 8
    return rng.randrange({"Q": 2**60, "B": 2}.get(wire, 1000))


async def fill(log: Log, made: Iterable[Round], rng: random.Random) -> None:
    """Commit rounds, some at a time, and when the clock was set."""
    batch = Batch(clock=[(log.boot, SYNCED_MS, (BASE_NS - MONO_NS) // 10**6 + SYNCED_MS, "test")])
    size = 0
    for round_ in made:
        log.add_round(batch, round_)
        size += 1
        if rng.random() < 0.4:
            await log.commit(batch)
            batch, size = Batch(), 0
    if size:
        await log.commit(batch)


def compact(state: Path, epoch: int, upto: int, *, noted: bool = True) -> None:
    """Copy rounds to the history as the compactor does, but up to any seq; the log need not know it yet."""
    connection = sqlite3.connect(state / "log.db", isolation_level=None)
    try:
        rows = LogRows(connection)
        after = rows.compacted.get(epoch, 0)
        if upto <= after:
            return
        now = Now(BASE_NS + 30 * HOUR, MONO_NS + 30 * HOUR, 1, 0)
        unit = Unit(epoch, after, upto)
        for _, row in rows.read(epoch, after, upto):
            for _, raw in raw_of(row, unit, rows.groups):
                unit.sizes[raw.group_id] += raw.size_bytes
        days.folder_of(state).mkdir(exist_ok=True)
        Copier(rows, Placer(now, placing.load(connection)), days.folder_of(state)).copy(unit)
        if noted:
            connection.execute("INSERT OR REPLACE INTO compacted VALUES (?, ?)", (epoch, upto))
    finally:
        connection.close()


def drop_compacted(state: Path) -> int:
    """Drop the segments of the log that are compacted, as retention does; return how many."""
    connection = sqlite3.connect(state / "log.db", isolation_level=None)
    try:
        compacted = dict(connection.execute("SELECT epoch, upto FROM compacted").fetchall())
        sql = "SELECT number, epoch, last FROM segments WHERE lane = 0 AND last IS NOT NULL"
        gone = [n for n, epoch, last in connection.execute(sql).fetchall() if last <= compacted.get(epoch, 0)]
        for number in gone:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"DROP TABLE rounds_{number:03d}")
            connection.execute("DELETE FROM segments WHERE lane = 0 AND number = ?", (number,))
            connection.execute("COMMIT")
        return len(gone)
    finally:
        connection.close()


def samples(made: Sequence[Round], epoch: int, name: str) -> list[Sample]:
    """Return a point's samples in their order, unsynced ones where the clock table puts them."""
    device, _, point = name.partition(".")
    found = []
    for seq, round_ in enumerate(made, 1):
        if round_.group.device == device and point in round_.group.names:
            i = round_.group.names.index(point)
            at_ns = round_.at_ns
            if round_.flags == Flag.CLOCK_UNSYNCED:
                at_ns = round_.arrived_mono_ns + BASE_NS - MONO_NS
            quality = round_.quality[i] if round_.quality else 0
            found.append(Sample(at_ns, epoch, seq, round_.values[i], quality))
    return sorted(found, key=lambda sample: sample[:3])


@dataclass
class Stretch:
    """A bucket of the reference."""

    count: int
    last: Value | None
    min: float | None
    max: float | None
    mean: float | None


def bucket(all_: Sequence[Sample], from_ns: int, to_ns: int, now_ns: int, *, number: bool) -> Stretch:
    """Return what a bucket is by the definitions, word by word."""
    inside = [sample for sample in all_ if from_ns <= sample.at_ns < to_ns]
    earlier = [sample for sample in all_ if sample.at_ns < from_ns]
    until = [sample for sample in all_ if sample.at_ns < to_ns]
    last = until[-1].value if until and (inside or from_ns < now_ns) else None
    if not number:
        return Stretch(len(inside), last, None, None, None)
    weighed, held_ns, seen = Fraction(0), 0, [s.value for s in inside if s.value is not None]
    chain = [*earlier[-1:], *inside]
    for i, sample in enumerate(chain):
        begin = max(from_ns, sample.at_ns)
        end = min(to_ns, now_ns, chain[i + 1].at_ns if i + 1 < len(chain) else to_ns)
        if sample.value is not None and end > begin:
            weighed += Fraction(typing.cast(float, sample.value)) * (end - begin)
            held_ns += end - begin
            seen.append(sample.value)
    numbers = typing.cast("list[float]", seen)
    mean = float(weighed / held_ns) if held_ns else None
    return Stretch(len(inside), last, min(numbers, default=None), max(numbers, default=None), mean)


def asked(reading: Reading, kind: typing.Any, names: Sequence[str], from_ns: int, to_ns: int, **more: typing.Any):
    """Return the rows of an answer, whole and undamaged."""
    now_ns = more.pop("now_ns", OPEN_END)
    question = Question(kind, tuple(names), from_ns, to_ns, now_ns, aggregates=AGGREGATES, **more)
    head, *rows, end = [json.loads(line) for piece in reading.answer(question) for line in piece.splitlines()]
    assert head["head"]["kind"] == kind
    assert end["end"] == {"rows": len(rows), "damaged": []}
    return rows
