"""Chunks: nothing is lost, one column is read without the others, damage raises DamagedChunk."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.columns import Value
from fluxedge.log.history.chunks import Chunk, DamagedChunk, reader_of, unpack
from fluxedge.log.history.gathering import pack
from fluxedge.model import Group, Lane, Point, Quality, Record, Round
from tests.fluxedge.log.history.rounds import RAWS, as_logged, bits, groups, recorded

RECORDED = groups().flatmap(lambda group: st.tuples(st.just(group), recorded(group)))


@settings(deadline=None)
@given(RECORDED)
def test_every_round_comes_back_bit_by_bit(case: tuple[Group, list[Record]]) -> None:
    group, records = case
    assert [bits(r) for r in unpack(group, 7, pack(records))] == [bits(r) for r in records]


@settings(deadline=None)
@given(RECORDED)
def test_columns_are_what_the_records_hold(case: tuple[Group, list[Record]]) -> None:
    group, records = case
    chunk = Chunk(group, 7, reader_of(pack(records)))
    rounds = [r.body for r in records if isinstance(r.body, Round)]
    assert chunk.count == len(records)
    assert list(chunk.seqs) == [r.seq for r in records]
    assert list(chunk.boots) == [r.boot for r in records]
    assert list(chunk.at_ns) == [r.at_ns for r in rounds]
    assert list(chunk.monos_ns) == [r.arrived_mono_ns for r in rounds]
    assert list(chunk.flags) == [r.flags for r in rounds]
    for i in range(len(group.points)):
        marks = [r.quality[i] if r.quality else 0 for r in rounds]
        assert list(chunk.quality(i) or bytes(len(rounds))) == marks
        assert repr(list(chunk.raws(i))) == repr([r.raws[i] for r in rounds])
        assert repr(chunk.values(i)) == repr([r.values[i] for r in rounds])


@settings(deadline=None)
@given(RECORDED, st.data())
def test_a_stretch_of_records_is_cut_out(case: tuple[Group, list[Record]], data: st.DataObject) -> None:
    group, records = case
    start = data.draw(st.integers(0, len(records)))
    stop = data.draw(st.integers(start, len(records)))
    found = Chunk(group, 7, reader_of(pack(records))).records(start, stop)
    assert [bits(r) for r in found] == [bits(r) for r in records[start:stop]]


def hour_of(group: Group, *columns: list[Value], quality: dict[int, bytes] | None = None) -> list[Record]:
    marks = quality or {}
    return [
        Record(7, Lane.ROUNDS, 20 * i + 1, 1, group.round(row, i * 10**9, i * 10**9, quality=marks.get(i, b"")))
        for i, row in enumerate(zip(*columns, strict=True))
    ]


def test_one_point_is_read_without_the_others() -> None:
    group = Group("m1", "main", tuple(Point(f"p{i}", "H") for i in range(100)))
    rng = random.Random(3)
    noise: list[list[Value]] = [[rng.randrange(60_000) for _ in range(600)] for _ in range(100)]
    body = pack(hour_of(group, *noise))
    seen = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal seen
        seen += size
        return body[offset : offset + size]

    chunk = Chunk(group, 7, read)
    assert chunk.values(60) == noise[60]
    assert len(chunk.at_ns) == 600
    assert seen < len(body) / 20


def test_a_device_that_is_silent_costs_one_quality_column() -> None:
    group = Group("m1", "main", tuple(Point(f"p{i}", "H") for i in range(200)))
    spoken = [group.round((1,) * 200, i, i) for i in range(300)]
    silent = [group.silent_round(Quality.OFFLINE, i, i) for i in range(300)]
    records = [Record(7, Lane.ROUNDS, i + 1, 1, silent[i] if i % 3 else spoken[i]) for i in range(300)]
    assert len(pack(records)) < 200 * 30
    assert unpack(group, 7, pack(records)) == [as_logged(r) for r in records]


def test_an_hour_without_points_keeps_its_stamps() -> None:
    group = Group("m1", "main", ())
    records = [Record(7, Lane.ROUNDS, i, 1, group.round((), i, i)) for i in (1, 2, 5)]
    assert unpack(group, 7, pack(records)) == records


def read_all(group: Group, body: bytes) -> None:
    chunk = Chunk(group, 7, reader_of(body))
    list(chunk.records())
    for point in range(len(group.points)):
        chunk.quality(point)


@settings(deadline=None)
@given(RECORDED, st.data())
def test_damage_anywhere_is_found(case: tuple[Group, list[Record]], data: st.DataObject) -> None:
    group, records = case
    body = bytearray(pack(records))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedChunk):
        read_all(group, bytes(body))


@settings(deadline=None)
@given(RECORDED, st.data())
def test_a_cut_off_chunk_is_found(case: tuple[Group, list[Record]], data: st.DataObject) -> None:
    group, records = case
    body = pack(records)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(DamagedChunk):
        read_all(group, cut)


def test_a_chunk_of_another_group_is_refused() -> None:
    group = Group("m1", "main", (Point("a", "H"), Point("b", "H")))
    body = pack(hour_of(group, [1, 2], [3, 4]))
    with pytest.raises(DamagedChunk, match="2 points"):
        Chunk(Group("m1", "main", (Point("a", "H"),)), 7, reader_of(body))


def test_the_mix_of_a_plant_costs_less_than_a_byte_a_point() -> None:
    from bench import mix

    group = mix.groups()[0]
    device = mix._Device(group, 0)
    records = [Record(7, Lane.ROUNDS, 20 * i + 1, 1, device.round(i)) for i in range(3600)]
    assert len(pack(records)) / (3600 * 50) < 0.75


def test_all_wire_types_are_drawn() -> None:
    assert {struct.calcsize(f"<{wire}") for wire in set(RAWS) - set("sy")} == {1, 2, 4, 8}
