"""Packed columns: every bit pattern comes back, by whatever method is the smallest; damage raises DamagedColumn."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fluxedge.log.history import packing
from fluxedge.log.history.packing import DamagedColumn, pack, unpack

LETTERS = {1: "b", 2: "h", 4: "i", 8: "q"}


def lanes(width: int) -> st.SearchStrategy[bytes]:
    """Columns that differ by little, by anything, or not at all."""
    top = 2 ** (8 * width - 1)
    anything = st.lists(st.integers(-top, top - 1), min_size=1, max_size=60)
    near = st.tuples(st.integers(-top, top - 1), st.lists(st.integers(-3, 3), max_size=60)).map(
        lambda pair: [(pair[0] + sum(pair[1][:i]) + top) % (2 * top) - top for i in range(len(pair[1]) + 1)]
    )
    return st.one_of(anything, near).map(lambda values: array(LETTERS[width], values).tobytes())


COLUMNS = st.sampled_from([1, 2, 4, 8]).flatmap(lambda width: st.tuples(st.just(width), lanes(width), st.booleans()))


@settings(deadline=None)
@given(COLUMNS)
@example((8, struct.pack("<3q", -(2**63), 2**63 - 1, -(2**63)), False))
@example((8, struct.pack("<3q", 2**63 - 1, -(2**63), 0), False))
@example((8, struct.pack("<4q", 10, 20, 40, 10), False))
@example((8, struct.pack("<4q", -(2**62), 2**62, 0, 2**61), False))
@example((1, b"\x80\x7f\x00", False))
def test_every_column_comes_back(case: tuple[int, bytes, bool]) -> None:
    width, column, floats = case
    packed = pack(column, width, floats=floats)
    assert unpack(packed, width, len(column) // width) == column


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(), st.sampled_from([0.0, -0.0, float("inf"), float("nan")])), min_size=1))
def test_every_bit_of_a_float_comes_back(values: list[float]) -> None:
    column = struct.pack(f"<{len(values)}d", *values)
    assert unpack(pack(column, 8, floats=True), 8, len(values)) == column


def test_a_constant_column_costs_two_bytes_and_the_value() -> None:
    assert len(pack(struct.pack("<q", 77) * 3600, 8)) == 10
    assert len(pack(b"\1" * 3600, 1)) == 3


def test_whole_milliseconds_with_jitter_cost_less_than_half_a_byte() -> None:
    stamps = [1_760_000_000_000_000_000 + (1000 * i + i * 7 % 4) * 10**6 for i in range(3600)]
    packed = pack(array("q", stamps).tobytes(), 8)
    assert packed[0] == packing.STEPS
    assert len(packed) < 1800


def test_a_counter_that_goes_round_is_small() -> None:
    counter = array("H", [(65_000 + i) % 65_536 for i in range(3600)])
    packed = pack(counter.tobytes(), 2)
    assert len(packed) < 60
    assert unpack(packed, 2, 3600) == counter.tobytes()


def test_noise_is_not_made_larger() -> None:
    noise = bytes((i * 197 + i * i * 31) % 256 for i in range(64))
    assert len(pack(noise, 1)) <= 66


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\0",
        b"\x0b\0",
        b"\0\0",
        b"\1\1ab",
        b"\x81\1\xff\xff",
        b"\2\1\0\0",
        b"\1\3abcdef",
        b"\x40\0\0",
    ],
)
def test_damage_raises_and_nothing_else(packed: bytes) -> None:
    with pytest.raises(DamagedColumn):
        unpack(packed, 2, 3)


@settings(deadline=None)
@given(COLUMNS, st.data())
def test_a_flipped_byte_raises_or_gives_a_column_of_the_right_size(
    case: tuple[int, bytes, bool], data: st.DataObject
) -> None:
    width, column, floats = case
    count = len(column) // width
    packed = bytearray(pack(column, width, floats=floats))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert len(unpack(bytes(packed), width, count)) == len(column)
    except DamagedColumn:
        pass


def test_a_bomb_is_not_inflated() -> None:
    bomb = packing._deflate(bytes(1 << 24))
    with pytest.raises(DamagedColumn):
        unpack(bytes((packing.PLAIN | 128, 1)) + bomb, 1, 10)
