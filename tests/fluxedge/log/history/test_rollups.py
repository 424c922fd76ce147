"""Rollups: minutes and hours are what the samples say, compose without a seam, and survive late data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.log.history import rollups
from fluxedge.log.history.buckets import Piece
from fluxedge.log.history.chunks import Chunk, DamagedChunk, reader_of
from fluxedge.log.history.gathering import pack as pack_chunk
from fluxedge.log.history.rollups import Held, Rollup, Row, compose, summarise
from fluxedge.model import Group, Lane, Point, Quality, Record, Round
from tests.fluxedge.log.history.rounds import groups, recorded

START_NS = 500_000 * 3600 * 10**9
HOUR_NS = 3600 * 10**9
IN_HOUR = st.integers(START_NS, START_NS + HOUR_NS - 1)


def chunk_of(records: list[Record], epoch: int = 7) -> Chunk:
    body = records[0].body
    assert isinstance(body, Round)
    return Chunk(body.group, epoch, reader_of(pack_chunk(records)))


def rolled(group: Group, chunks: Sequence[Chunk]) -> tuple[Rollup, Rollup]:
    minutes, hours = summarise(group, chunks, START_NS)
    return Rollup(group, reader_of(rollups.pack(group, minutes))), Rollup(group, reader_of(rollups.pack(group, hours)))


def by_hand(records: list[Record], point: int, from_ns: int, to_ns: int) -> Piece | None:
    """What a piece must be, sample by sample."""
    found = sorted((r for r in records), key=lambda r: (r.body.at_ns, r.epoch, r.seq))
    some = [r.body for r in found if from_ns <= r.body.at_ns < to_ns and isinstance(r.body, Round)]
    if not some:
        return None
    values = [r.values[point] for r in some]
    numbers = [v for v in values if isinstance(v, int | float)]
    held = [
        (v, b.at_ns - a.at_ns) for v, a, b in zip(values, some, some[1:], strict=False) if isinstance(v, int | float)
    ]
    last = values[-1]
    assert last is None or isinstance(last, int | float)
    return Piece(
        some[0].at_ns,
        some[-1].at_ns,
        len(some),
        last,
        min(numbers, default=None),
        max(numbers, default=None),
        math.fsum(v * ns for v, ns in held),
        sum(ns for _, ns in held),
    )


def same(found: Piece, wanted: Piece) -> bool:
    exact = (found.first_ns, found.last_ns, found.count, found.last, found.min, found.max, found.valid_ns) == (
        wanted.first_ns, wanted.last_ns, wanted.count, wanted.last, wanted.min, wanted.max, wanted.valid_ns,
    )  # fmt: skip
    if not exact or not wanted.valid_ns or wanted.min is None or wanted.max is None:
        return exact
    means = found.weighed / found.valid_ns, wanted.weighed / wanted.valid_ns
    slack = (wanted.max - wanted.min) / 131_000 + 1e-9 * max(abs(wanted.min), abs(wanted.max), 1e-30)
    return abs(means[0] - means[1]) <= slack


NUMBERS = groups("bBhHiI").flatmap(lambda group: st.tuples(st.just(group), recorded(group, IN_HOUR)))


@settings(deadline=None)
@given(NUMBERS)
def test_minutes_and_hour_are_what_the_samples_say(case: tuple[Group, list[Record]]) -> None:
    group, records = case
    minutes, hour = rolled(group, [chunk_of(records)])
    for point in range(len(group.points)):
        pieces = minutes.pieces(point)
        assert pieces is not None
        for start_ns, piece in pieces:
            wanted = by_hand(records, point, start_ns, start_ns + 60 * 10**9)
            assert wanted is not None
            assert same(piece, wanted)
        assert sum(piece.count for _, piece in pieces) == len(records)
        whole = by_hand(records, point, START_NS, START_NS + HOUR_NS)
        assert whole is not None
        [(start_ns, piece)] = hour.pieces(point) or []
        assert start_ns == START_NS
        assert same(piece, whole)


@settings(deadline=None)
@given(NUMBERS, st.data())
def test_late_chunks_change_nothing_but_where_rounds_lie(case: tuple[Group, list[Record]], data: st.DataObject) -> None:
    group, records = case
    late = data.draw(st.sets(st.sampled_from(range(len(records)))))
    parts = [[r for i, r in enumerate(records) if (i in late) is which] for which in (True, False)]
    split = rolled(group, [chunk_of(part) for part in parts if part])
    for one, other in zip(rolled(group, [chunk_of(records)]), split, strict=True):
        assert one.rows == other.rows
        assert [one.held(i) for i in range(len(group.points))] == [other.held(i) for i in range(len(group.points))]


HELD = st.builds(
    lambda values, span: Held(
        values[-1],
        min((v for v in values if v is not None), default=None),
        max((v for v in values if v is not None), default=None),
        sum(v * span for v in values[:-1] if v is not None),
        span * sum(v is not None for v in values[:-1]),
    ),
    st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1, max_size=4),
    st.integers(1, 5),
)


@settings(deadline=None)
@given(st.lists(HELD, min_size=2, max_size=6), st.data())
def test_composing_in_two_steps_is_composing_in_one(pieces: list[Held], data: st.DataObject) -> None:
    rows = [Row(100 * i, 100 * i + 3, 100 * i + 40, 2) for i in range(len(pieces))]
    cut = data.draw(st.integers(1, len(pieces) - 1))
    first, second = compose(rows[:cut], pieces[:cut]), compose(rows[cut:], pieces[cut:])
    halves = [Row(0, rows[0].first_ns, rows[cut - 1].last_ns, 1), Row(1, rows[cut].first_ns, rows[-1].last_ns, 1)]
    assert compose(halves, [first, second]) == compose(rows, pieces)


def one_minute(group: Group, *rows: tuple[object, ...], quality: dict[int, bytes] | None = None) -> list[Record]:
    marks = quality or {}
    return [
        Record(7, Lane.ROUNDS, i + 1, 1, group.round(row, START_NS + 10 * i * 10**9, 0, quality=marks.get(i, b"")))  # type: ignore[arg-type]
        for i, row in enumerate(rows)
    ]


def test_the_mean_is_weighted_by_time_and_a_silent_device_counts_for_nothing() -> None:
    group = Group("m1", "main", (Point("t", "h", scale=0.1),))
    records = one_minute(group, (100,), (200,), (None,), (300,), quality={2: bytes([Quality.OFFLINE])})
    minutes, _ = rolled(group, [chunk_of(records)])
    [(_, piece)] = minutes.pieces(0) or []
    assert (piece.count, piece.last, piece.min, piece.max) == (4, 30.0, 10.0, 30.0)
    assert piece.valid_ns == 20 * 10**9
    assert piece.weighed / piece.valid_ns == pytest.approx(15.0, abs=0.001)


def test_a_negative_scale_swaps_minimum_and_maximum() -> None:
    group = Group("m1", "main", (Point("t", "h", scale=-1.0, offset=5.0),))
    minutes, _ = rolled(group, [chunk_of(one_minute(group, (1,), (4,), (2,)))])
    [(_, piece)] = minutes.pieces(0) or []
    assert (piece.min, piece.max, piece.last) == (1.0, 4.0, 3.0)
    assert piece.weighed / piece.valid_ns == pytest.approx(2.5, abs=0.001)


def test_switches_enums_and_bits_have_last_and_count_only_and_texts_have_no_rollup() -> None:
    group = Group(
        "m1",
        "main",
        (Point("on", "?"), Point("mode", "B", enum={1: "a"}), Point("b", "H", bits={0: "x"}), Point("s", "s")),
    )
    minutes, hours = rolled(
        group, [chunk_of(one_minute(group, (True, 1, 3, "x"), (False, 2, 5, "y"), (True, 1, 4, "")))]
    )
    for rollup in (minutes, hours):
        lasts = [(rollup.pieces(i) or [])[0][1] for i in range(3)]
        assert [(p.count, p.last, p.min, p.max, p.valid_ns) for p in lasts] == [
            (3, last, None, None, 0) for last in (True, 1, 4)
        ]
        assert rollup.pieces(3) is None


def test_rounds_outside_the_hour_are_no_part_of_it() -> None:
    group = Group("m1", "main", (Point("t", "h"),))
    stamps = (START_NS - 1, START_NS, START_NS + HOUR_NS - 1, START_NS + HOUR_NS)
    records = [Record(7, Lane.ROUNDS, i + 1, 1, group.round((i,), at_ns, 0)) for i, at_ns in enumerate(stamps)]
    minutes, _ = summarise(group, [chunk_of(records)], START_NS)
    assert [row.rounds for row in minutes.rows] == [1, 1]
    nothing, none = summarise(group, [], START_NS)
    assert (nothing.rows, none.rows, nothing.points) == ([], [], [[]])


@settings(deadline=None)
@given(st.data())
def test_damage_anywhere_is_found(data: st.DataObject) -> None:
    group = Group("m1", "main", (Point("t", "h"), Point("on", "?")))
    minutes, _ = summarise(group, [chunk_of(one_minute(group, (1, True), (4, False), (2, True)))], START_NS)
    body = bytearray(rollups.pack(group, minutes))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))

    def read() -> None:
        rollup = Rollup(group, reader_of(bytes(body)))
        rollup.pieces(0)
        rollup.pieces(1)

    with pytest.raises(DamagedChunk):
        read()
