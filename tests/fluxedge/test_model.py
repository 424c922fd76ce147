"""Groups and rounds: identity, what is shared, and how a round is born."""

from __future__ import annotations

import gc
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.model import Group, Lane, Point, Quality

U = Point("u", "f", unit="V", low=0.0, high=300.0)
STATE = Point("state", "H", enum={0: "off", 1: "on"}, bits={3: "overload"})


def group(device: str = "m1", *points: Point) -> Group:
    return Group(device, "main", points or (U, STATE), "Meter")


def test_equal_groups_are_the_same_group_in_the_log() -> None:
    assert group() == group()
    assert hash(group()) == hash(group())
    assert group().key != group("m2").key
    assert group().key != group("m1", U, Point("state", "h")).key


def test_a_group_comes_back_from_the_log_as_it_was() -> None:
    back = Group.from_bytes(group().to_bytes())
    assert back == group()
    assert back.points == (U, STATE)
    assert back.label == "Meter"


names = st.text(alphabet="abcdefghij_", min_size=1, max_size=5)
points = st.lists(
    st.builds(
        Point,
        name=names,
        wire=st.sampled_from("?bBhHiIqQfdsy"),
        label=st.text(max_size=5),
        scale=st.sampled_from([1.0, 0.1, 2.5]),
        precision=st.none() | st.integers(0, 6),
        low=st.none() | st.floats(-10, 0),
        enum=st.dictionaries(st.integers(0, 9), st.text(max_size=3), max_size=2),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda point: point.name,
)


@given(points)
def test_any_group_survives_the_log(columns: list[Point]) -> None:
    made = Group("d", "g", tuple(columns))
    assert Group.from_bytes(made.to_bytes()).key == made.key


def test_devices_of_one_driver_share_their_columns() -> None:
    one, two = group("m1"), group("m2", U, STATE)
    assert one.codec is two.codec
    assert one.names is two.names


def test_columns_go_with_their_last_group() -> None:
    from fluxedge import model

    made = Group("d", "g", (Point("only_here", "q"),))
    gc.collect()  # what other tests left
    before = len(model._shared)
    del made
    gc.collect()
    assert len(model._shared) == before - 1


def test_a_good_round_has_no_quality_bytes() -> None:
    made = group().round((230.0, 1), 10, 20)
    assert made.quality == b""
    assert made.values == (230.0, 1)
    assert (made.at_ns, made.arrived_mono_ns) == (10, 20)


def test_outside_its_validity_limits_a_value_is_uncertain_and_stays() -> None:
    made = group().round((301.0, 1), 0, 0)
    assert made.quality == bytes([Quality.UNCERTAIN, Quality.GOOD])
    assert made.values == (301.0, 1)


@pytest.mark.parametrize("raw", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_bad_and_no_value(raw: float) -> None:
    made = group().round((raw, 1), 0, 0)
    assert made.quality == bytes([Quality.BAD, Quality.GOOD])
    assert made.values == (None, 1)


def test_a_round_has_as_many_raws_as_its_group_has_points() -> None:
    with pytest.raises(ValueError, match="1 raws for the 2 points of m1/main"):
        group().round((1.0,), 0, 0)


def test_a_silent_round_has_no_value_at_all() -> None:
    made = group().silent_round(Quality.OFFLINE, 1, 2)
    assert made.values == (None, None)
    assert made.quality == bytes([Quality.OFFLINE] * 2)


def test_lanes_have_the_names_of_the_topics() -> None:
    assert [lane.label for lane in Lane] == ["rounds", "events"]
