"""Bodies of rows: what is packed comes back; what is damaged raises DamagedBody and nothing else."""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.columns import Value
from fluxedge.log.body import (
    CODEC_PLAIN,
    CODEC_ZLIB,
    DamagedBody,
    Row,
    close_body,
    pack_event,
    pack_round,
    raw_rounds,
    records,
)
from fluxedge.model import Event, Group, Lane, Point, Quality, Record, Round
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of

RAWS: dict[str, st.SearchStrategy[Value]] = {
    "?": st.booleans(),
    **{
        letter: st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)
        for letter, size in (("b", 1), ("h", 2), ("i", 4), ("q", 8))
    },
    **{letter: st.integers(0, 2 ** (8 * size) - 1) for letter, size in (("B", 1), ("H", 2), ("I", 4), ("Q", 8))},
    "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "d": st.floats(allow_nan=False, allow_infinity=False),
    "s": st.text(st.characters(exclude_categories=["Cs"])),
    "y": st.binary(max_size=40),
}


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    wires = draw(st.lists(st.sampled_from(sorted(RAWS)), min_size=1, max_size=12))
    group = group_of("".join(wires))
    marks = draw(st.lists(st.sampled_from(Quality), min_size=len(wires), max_size=len(wires)))
    raws = tuple(
        None if mark >= Quality.BAD and draw(st.booleans()) else draw(RAWS[wire])
        for wire, mark in zip(wires, marks, strict=True)
    )
    stamps = st.integers(-(2**63), 2**63 - 1)
    quality = bytes(marks) if any(marks) else b""
    return group.round(
        raws, draw(stamps), draw(st.integers(0, 2**64 - 1)), quality=quality, flags=draw(st.integers(0, 7))
    )


def row_of(lane: Lane, parts: list[bytes], seq: int = 1) -> Row:
    codec, crc, body = close_body(parts)
    return Row(7, lane, seq, len(parts), 3, codec, crc, body)


def resealed(row: Row, plain: bytes) -> Row:
    """Return a row with another body whose checksum is right."""
    return dataclasses.replace(row, codec=CODEC_PLAIN, crc=zlib.crc32(plain), body=plain)


@given(st.lists(rounds(), min_size=1, max_size=6))
def test_rounds_come_back_as_they_were(made: list[Round]) -> None:
    groups = {i: round_.group for i, round_ in enumerate(made, 1)}
    row = row_of(Lane.ROUNDS, [pack_round(i, round_) for i, round_ in enumerate(made, 1)], seq=100)
    found = list(records(row, groups))
    assert [record.seq for record in found] == list(range(100, 100 + len(made)))
    for record, round_ in zip(found, made, strict=True):
        body = record.body
        assert isinstance(body, Round)
        assert (body.group, body.values, body.quality) == (round_.group, round_.values, round_.quality)
        assert (body.at_ns, body.arrived_mono_ns, body.flags) == (round_.at_ns, round_.arrived_mono_ns, round_.flags)
        for back, raw in zip(body.raws, round_.raws, strict=True):
            assert raw is None or (back == raw and type(back) is type(raw))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain_data = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts, max_size=5)


@given(
    st.lists(
        st.builds(Event, texts, texts, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63), plain_data), max_size=5
    )
)
def test_events_come_back_as_they_were(made: list[Event]) -> None:
    row = row_of(Lane.EVENTS, [pack_event(event) for event in made])
    assert [record.body for record in records(row, {})] == made


def sample(lane: Lane) -> tuple[Row, dict[int, Group]]:
    group = group_of("Hfs?")
    if lane is Lane.EVENTS:
        return row_of(lane, [pack_event(event_of(text="å" * 9, n=i)) for i in range(5)]), {}
    parts = [pack_round(1, round_of(group, i, 1.5, "text", True, quality=bytes([0, 1, 2, 0]))) for i in range(5)]
    return row_of(lane, parts), {1: group}


@pytest.mark.parametrize("lane", Lane)
def test_any_changed_byte_of_a_stored_body_is_noticed(lane: Lane) -> None:
    row, groups = sample(lane)
    assert row.codec == CODEC_ZLIB
    for i in range(len(row.body)):
        for flip in (0x01, 0x80, 0xFF):
            body = bytearray(row.body)
            body[i] ^= flip
            with pytest.raises(DamagedBody):
                list(records(dataclasses.replace(row, body=bytes(body)), groups))


@pytest.mark.parametrize("lane", Lane)
def test_any_cut_body_is_noticed_even_with_a_right_checksum(lane: Lane) -> None:
    row, groups = sample(lane)
    plain = zlib.decompress(row.body)
    for size in range(len(plain)):
        with pytest.raises(DamagedBody):
            list(records(resealed(row, plain[:size]), groups))
    with pytest.raises(DamagedBody, match="behind the last record"):
        list(records(resealed(row, plain + b"\0"), groups))


@given(st.sampled_from(Lane), st.binary(max_size=300), st.integers(1, 4))
def test_garbage_with_a_right_checksum_raises_nothing_but_damaged_body(lane: Lane, plain: bytes, count: int) -> None:
    groups = {number: group_of("Hs?d", str(number)) for number in range(4)}
    try:
        found = list(records(dataclasses.replace(resealed(sample(lane)[0], plain), count=count), groups))
    except DamagedBody:
        return
    assert len(found) == count


@given(st.binary(min_size=1, max_size=60), st.data())
def test_bent_bodies_with_a_right_checksum_raise_nothing_but_damaged_body(noise: bytes, data: st.DataObject) -> None:
    row, groups = sample(Lane.ROUNDS)
    plain = bytearray(zlib.decompress(row.body))
    at = data.draw(st.integers(0, len(plain) - 1))
    plain[at : at + len(noise)] = noise
    try:
        for record in records(resealed(row, bytes(plain)), groups):
            assert isinstance(record, Record)
    except DamagedBody:
        pass


def test_what_cannot_be_decompressed_or_has_an_unknown_codec_is_damaged() -> None:
    row, groups = sample(Lane.ROUNDS)
    with pytest.raises(DamagedBody):
        list(records(dataclasses.replace(row, body=b"junk", crc=zlib.crc32(b"junk")), groups))
    with pytest.raises(DamagedBody, match="unknown codec 9"):
        list(records(dataclasses.replace(row, codec=9), groups))
    with pytest.raises(DamagedBody):
        list(records(row, {}))  # its group is gone


def test_records_below_the_wanted_seq_and_of_other_groups_are_left_out() -> None:
    one, two = group_of("H", "m1"), group_of("sH", "m2")
    parts = [pack_round(1, round_of(one, 1)), pack_round(2, round_of(two, "x", 2)), pack_round(1, round_of(one, 3))]
    row, groups = row_of(Lane.ROUNDS, parts, seq=10), {1: one, 2: two}
    assert [record.seq for record in records(row, groups, 11)] == [11, 12]
    assert [record.seq for record in records(row, groups, 0, {1})] == [10, 12]
    assert [record.seq for record in records(row, groups, 0, set())] == []


def test_small_bodies_are_stored_plain() -> None:
    row = row_of(Lane.ROUNDS, [pack_round(1, round_of(group_of("H"), 5))])
    assert row.codec == CODEC_PLAIN
    assert row.last == row.seq


def test_the_drawing_of_a_round_holds() -> None:
    part = pack_round(0x01020304, round_of(group_of("Hs"), 0xABCD, "é", at_ns=-2, quality=b"\0\1"))
    assert part[0:4] == bytes([4, 3, 2, 1])
    assert struct.unpack("<q", part[4:12]) == (-2,)
    assert struct.unpack("<Q", part[12:20]) == (10**9,)
    assert part[20] == 0
    assert struct.unpack("<H", part[21:23]) == (2,)
    assert part[23:25] == b"\0\1"
    assert part[25:27] == b"\xcd\xab"
    assert part[27:] == struct.pack("<I", 2) + "é".encode()


@pytest.mark.parametrize(
    ("wire", "raw"),
    [("H", 70000), ("H", -1), ("h", 1.5), ("?", None), ("H", None), ("s", None), ("y", None), ("y", "text"),
     ("s", "\ud800"), ("f", 1e39), ("s", 5)],
)  # fmt: skip
def test_a_raw_that_does_not_fit_is_a_value_error(wire: str, raw: Value | None) -> None:
    group = group_of(wire)
    with pytest.raises(ValueError, match="does not fit"):
        pack_round(1, Round(group, (raw,), (raw,), b"", 0, 0))


def test_a_stamp_that_does_not_fit_is_a_value_error() -> None:
    group = group_of("H")
    with pytest.raises(ValueError, match="stamp"):
        pack_round(1, Round(group, (1,), (1,), b"", 2**63, 0))


def test_a_bad_float_keeps_its_bits_and_has_no_value() -> None:
    group = Group("m", "g", (Point("a", "d"),))
    round_ = group.round((math.inf,), 0, 0)
    (record,) = records(row_of(Lane.ROUNDS, [pack_round(1, round_)]), {1: group})
    assert isinstance(record.body, Round)
    assert record.body.raws == (math.inf,)
    assert record.body.values == (None,)
    assert record.body.quality == bytes([Quality.BAD])


def test_an_event_with_a_name_that_is_not_utf8_is_stored_with_it_escaped() -> None:
    name = "devices/\udcff\udcfe.toml"
    event = Event("config", f"file:{name}", 1, 2, {"files": [name], "raw": b"\xff", "n": {name: 1}})
    part = pack_event(event)
    row = Row(1, Lane.EVENTS, 1, 1, 1, *close_body([part]))
    (record,) = records(row, {})
    shown = "devices/\\udcff\\udcfe.toml"
    assert record.body == Event("config", f"file:{shown}", 1, 2, {"files": [shown], "raw": b"\xff", "n": {shown: 1}})


@given(st.lists(rounds(), min_size=1, max_size=5), st.data())
def test_raw_rounds_are_the_rounds_without_their_values(made: list[Round], data: st.DataObject) -> None:
    groups = {i: one.group for i, one in enumerate(made)}
    row = row_of(Lane.ROUNDS, [pack_round(i, one) for i, one in enumerate(made)], seq=40)
    found = raw_rounds(row, groups)
    assert [seq for seq, _ in found] == list(range(40, 40 + len(made)))
    for (_, raw), one in zip(found, made, strict=True):
        assert (raw.at_ns, raw.mono_ns, raw.flags) == (one.at_ns, one.arrived_mono_ns, one.flags)
        assert (raw.quality, raw.columns) == (one.quality, one.group.codec.pack(one.raws, one.quality))
    only = data.draw(st.sets(st.sampled_from(range(len(made)))))
    assert raw_rounds(row, groups, only) == [pair for pair in found if pair[1].group_id in only]
    cut = row_of(Lane.ROUNDS, [pack_round(0, made[0])[:-1]])
    with pytest.raises(DamagedBody):
        raw_rounds(cut, groups)
