"""Columns: packing, scaling and judging of a group's values."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.columns import Codec, Value, power_of_ten, scaler, unscale
from fluxedge.model import Group, Point, Quality

GOOD, UNCERTAIN, BAD, OFFLINE = (int(quality) for quality in Quality)


def codec(*points: Point) -> Codec:
    return Codec(points)


def point(wire: str, **more: object) -> Point:
    return Point("p", wire, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", range(1, 13))
@pytest.mark.parametrize("spelling", ["literal", "power", "product"])
def test_a_power_of_ten_divides_and_is_right_to_the_last_digit(power: int, spelling: str) -> None:
    scales = {"literal": float(f"1e-{power}"), "power": 10.0**-power, "product": float("0." + "0" * (power - 1) + "1")}
    assert power_of_ten(scales[spelling]) == 10**power
    scale = scaler(scales[spelling], 0.0, None)
    assert scale is not None
    raws = [*range(-1000, 1000), 2**31 - 1, 32767, 65535]
    assert scale(raws) == [float(Fraction(raw, 10**power)) for raw in raws]


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.25, 10.0, 0.3, 1e-13, 0.0])
def test_other_scales_are_no_powers_of_ten(scale: float) -> None:
    assert power_of_ten(scale) == 0


@pytest.mark.parametrize(
    ("scale", "offset", "precision", "raw", "value"),
    [
        (1.0, 0.0, None, 7, 7),
        (0.1, 0.0, None, 3, 0.3),
        (0.1, -40.0, None, 615, 21.5),
        (2.0, 0.0, None, 3, 6.0),
        (2.0, 1.0, None, 3, 7.0),
        (1.0, -273.15, None, 300, 300 - 273.15),
        (0.01, 0.0, 1, 1234, 12.3),
        (0.3, 0.5, 2, 1, 0.8),
        (1.0, 0.0, 0, 2, 2),
    ],
)
def test_a_raw_is_scaled_offset_and_rounded(
    scale: float, offset: float, precision: int | None, raw: int, value: float
) -> None:
    made = codec(point("h", scale=scale, offset=offset, precision=precision))
    assert made.judge((raw,), b"") == ((value,), b"")
    assert made.values((raw,), b"") == (value,)


@given(
    st.integers(-32768, 32767), st.sampled_from([1.0, 0.1, 0.01, 0.5, 3.0, -0.1]), st.sampled_from([0.0, -40.0, 0.5])
)
def test_unscale_finds_the_raw_that_scale_came_from(raw: int, scale: float, offset: float) -> None:
    (value,), _ = codec(point("h", scale=scale, offset=offset)).judge((raw,), b"")
    assert isinstance(value, float | int)
    assert unscale(value, scale, offset, "h") == raw


def test_unscale_keeps_large_integers_exact() -> None:
    assert unscale(2**64 - 1, 1.0, 0.0, "Q") == 2**64 - 1


def test_unscale_gives_the_nearest_raw() -> None:
    assert unscale(21.54, 0.1, 0.0, "h") == 215
    assert unscale(21.56, 0.1, 0.0, "h") == 216
    assert unscale(1.5, 2.0, 0.0, "f") == 0.75


@pytest.mark.parametrize(
    ("value", "scale", "wire"),
    [(math.nan, 1.0, "h"), (math.inf, 1.0, "f"), (1.0, 0.0, "h"), (1e39, 1.0, "f"), (1e300, 1e-12, "d")],
)
def test_unscale_refuses_what_no_raw_can_stand_for(value: float, scale: float, wire: str) -> None:
    with pytest.raises(ValueError):
        unscale(value, scale, 0.0, wire)


@pytest.mark.parametrize("wire", ["x", "", "hh", "S"])
def test_an_unknown_wire_type_is_refused_at_load(wire: str) -> None:
    with pytest.raises(ValueError, match="unknown wire type"):
        codec(point(wire))


def test_columns_are_packed_little_endian_with_text_and_bytes_behind() -> None:
    made = codec(point("s"), point("H"), point("?"), point("y"))
    body = made.pack(("µ", 0x0102, True, b"\xff"))
    assert body == b"\x02\x01\x01" + struct.pack("<I", 2) + "µ".encode() + struct.pack("<I", 1) + b"\xff"
    assert made.unpack(b"??" + body, 2) == (("µ", 0x0102, True, b"\xff"), 2 + len(body))


def test_columns_can_be_skipped_and_a_short_body_is_noticed() -> None:
    made = codec(point("s"), point("H"), point("y"))
    body = made.pack(("text", 5, b"\xff" * 9))
    assert made.skip(b"??" + body, 2) == 2 + len(body)
    for size in range(len(body)):
        with pytest.raises(struct.error):
            made.skip(body[:size], 0)


def test_missing_raws_are_stored_as_zero_or_empty() -> None:
    made = codec(*(point(wire) for wire in "?hQfdsy"))
    quality = bytes([BAD, OFFLINE] * 3 + [BAD])
    body = made.pack((None,) * 7, quality)
    assert body == made.pack((False, 0, 0, 0.0, 0.0, "", b""))
    assert made.values(made.unpack(body, 0)[0], quality) == (None,) * 7
    assert made.pack((None, 5, 6, None, 1.0, "x", b"y"), bytes([BAD, 0, 0, OFFLINE, 1, 0, 0])) == made.pack(
        (False, 5, 6, 0.0, 1.0, "x", b"y")
    )


@pytest.mark.parametrize("wire", "?hQfdsy")
def test_none_without_bad_or_offline_is_never_stored_as_a_value(wire: str) -> None:
    made = codec(point(wire), point(wire))
    zero = made.unpack(bytes(made._struct.size or 8), 0)[0][0]  # any fitting raw
    for quality in (b"", bytes([GOOD, GOOD]), bytes([UNCERTAIN, BAD])):
        with pytest.raises(ValueError):
            made.pack((None, zero), quality)


@pytest.mark.parametrize("wire", ["h", "f", "d"])
def test_none_without_bad_or_offline_is_refused_where_the_round_is_born(wire: str) -> None:
    group = Group("m", "g", (point(wire, scale=0.5), point(wire, scale=0.5)))
    for quality in (b"", bytes([GOOD, BAD]), bytes([UNCERTAIN, GOOD])):
        with pytest.raises(ValueError):
            group.round((None, 1), 0, 0, quality=quality)


def test_a_quality_of_the_wrong_length_is_refused() -> None:
    made = codec(point("h"), point("h"))
    for raws in ((1, 2), (None, None)):
        with pytest.raises(ValueError):
            made.judge(raws, bytes([BAD]))
        with pytest.raises(ValueError):
            made.pack(raws, bytes([BAD]))


def test_the_wrong_number_of_raws_is_refused() -> None:
    with pytest.raises(ValueError, match="2 raws for the 1 points of m/g"):
        Group("m", "g", (point("h"),)).round((1, 2), 0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wire", "fd")
def test_what_is_not_finite_is_bad_and_its_neighbours_are_not(bad: float, wire: str) -> None:
    for wires, raws in ((wire * 3, (1.0, bad, 2.0)), ("h" + wire + "s", (1, bad, "x"))):
        made = codec(*(point(letter) for letter in wires))
        values, quality = made.judge(raws, b"")
        assert quality == bytes([GOOD, BAD, GOOD])
        assert values == (raws[0], None, raws[2])
        assert made.judge(raws, bytes([UNCERTAIN, GOOD, GOOD]))[1] == bytes([UNCERTAIN, BAD, GOOD])


def test_infinities_that_cancel_out_are_noticed() -> None:
    values, quality = codec(point("d"), point("d")).judge((math.inf, -math.inf), b"")
    assert quality == bytes([BAD, BAD])
    assert values == (None, None)


def test_finite_values_whose_sum_overflows_stay_good() -> None:
    big = 1.7e308
    values, quality = codec(point("d"), point("d")).judge((big, big), b"")
    assert values == (big, big)
    assert set(quality) <= {GOOD}
    assert codec(point("d")).judge((big,), b"")[0] == (big,)


def test_a_scaling_that_leaves_the_range_of_floats_is_bad() -> None:
    made = codec(point("d", scale=1e10), point("d", scale=1e10))
    values, quality = made.judge((1e305, 1.0), b"")
    assert values == (None, 1e10)
    assert quality == bytes([BAD, GOOD])
    assert made.values((1e305, 1.0), quality) == values


@pytest.mark.parametrize(("raw", "mark"), [(-1, UNCERTAIN), (0, GOOD), (100, GOOD), (101, UNCERTAIN)])
def test_outside_its_validity_limits_a_value_is_uncertain(raw: int, mark: int) -> None:
    made = codec(point("h"), point("h", low=0.0, high=100.0))
    values, quality = made.judge((500, raw), b"")
    assert values == (500, raw)
    assert quality == (bytes([GOOD, mark]) if mark else b"")


def test_limits_judge_engineering_values_and_never_improve_a_quality() -> None:
    made = codec(point("h", scale=0.1, high=10.0), point("h", low=5.0), point("s", low=1.0), point("h", low=5.0))
    values, quality = made.judge((101, None, "x", 1), bytes([GOOD, OFFLINE, GOOD, UNCERTAIN]))
    assert values == (10.1, None, "x", 1)
    assert quality == bytes([UNCERTAIN, OFFLINE, GOOD, UNCERTAIN])
    assert made.judge((100, 5, "x", 5), bytes([GOOD] * 4)) == ((10.0, 5, "x", 5), bytes(4))


def test_a_value_is_none_exactly_when_bad_or_offline() -> None:
    made = codec(*(point("h", scale=0.1) for _ in range(4)))
    quality = bytes([GOOD, UNCERTAIN, BAD, OFFLINE])
    assert made.judge((1, 2, 3, None), quality) == ((0.1, 0.2, None, None), quality)


def test_neighbours_of_different_powers_of_ten_are_divided_each_by_its_own() -> None:
    rng = random.Random(5)
    powers = [rng.randint(0, 6) for _ in range(40)]
    made = codec(*(point("i", scale=float(f"1e-{power}") if power else 1.0) for power in powers))
    raws = tuple(rng.randint(-(10**9), 10**9) for _ in powers)
    expected = tuple(raw / 10**power if power else raw for raw, power in zip(raws, powers, strict=True))
    values = made.values(raws, b"")
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_text_is_not_scaled_with_its_neighbours() -> None:
    made = codec(point("h", scale=0.1), point("s", scale=0.1), point("h", scale=0.1))
    assert made.judge((1, "x", 2), b"") == ((0.1, "x", 0.2), b"")


def test_sixty_four_bit_counters_stay_exact() -> None:
    made = codec(point("Q"), point("q"))
    raws = (2**64 - 1, -(2**63))
    assert made.unpack(made.pack(raws), 0)[0] == raws
    assert made.judge(raws, b"")[0] == raws


@pytest.mark.parametrize(
    ("wire", "unfit", "fit"),
    [("H", 70000, 1), ("?", None, True), ("f", 1e39, 1.0), ("s", "\ud800", "x"), ("y", None, b"x"), ("h", "no", 2)],
)
def test_only_the_raws_that_cannot_be_packed_are_taken_out(wire: str, unfit: Value | None, fit: Value) -> None:
    made = codec(point(wire), point(wire), point("h"))
    raws, quality = made.without_unfit((unfit, fit, None), bytes([UNCERTAIN, GOOD, OFFLINE]))
    assert raws == (None, fit, None)
    assert quality == bytes([BAD, GOOD, OFFLINE])
    assert made.unpack(made.pack(raws, quality), 0)[0][1] == fit


def test_a_codec_knows_whether_json_can_carry_its_values_as_they_are() -> None:
    assert codec(point("i"), point("d"), point("s"), point("?")).plain
    assert not any(codec(point("i"), point(wire)).plain for wire in "qQy")


def test_a_silent_round_is_as_small_to_make_as_any() -> None:
    group = Group("m", "g", (point("h"), point("s"), point("d")))
    round_ = group.silent_round(Quality.OFFLINE, 1, 2)
    assert round_.values == (None, None, None)
    assert group.codec.pack(round_.raws, round_.quality) == group.codec.pack((0, "", 0.0))
