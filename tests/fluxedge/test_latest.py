"""Latest: the last round of each group."""

from __future__ import annotations

from fluxedge.latest import Latest
from fluxedge.model import Flag, Group, Point, Quality, Round

GROUP = Group("m1", "main", (Point("flow", "h"), Point("level", "h")))


def filled(*rounds: Round) -> Latest:
    latest = Latest()
    for round_ in rounds:
        latest.update(round_)
    return latest


def test_the_last_round_of_a_group_is_what_is_read() -> None:
    latest = filled(GROUP.round((1, 2), 10, 1), GROUP.round((3, 4), 20, 2))
    reading = latest.reading("m1", "level")
    assert reading is not None
    assert (reading.id, reading.value, reading.raw, reading.at_ns, reading.arrived_mono_ns) == ("m1.level", 4, 4, 20, 2)
    assert (reading.quality, reading.good_at_ns, reading.value_when_good) == (Quality.GOOD, 20, 4)
    assert latest.of("m1", "main") is not None
    assert latest.of("m1", "other") is latest.of("m2", "main") is None
    assert latest.reading("m1", "nothing") is latest.reading("m2", "flow") is None


def test_an_offline_device_still_shows_when_it_was_good() -> None:
    latest = filled(GROUP.round((1, 2), 10, 1), GROUP.silent_round(Quality.OFFLINE, 30, 3))
    reading = latest.reading("m1", "flow")
    assert reading is not None
    assert (reading.value, reading.quality, reading.at_ns) == (None, Quality.OFFLINE, 30)
    assert (reading.good_at_ns, reading.value_when_good) == (10, 1)


def test_a_round_in_which_only_the_first_point_failed_counts_as_usable() -> None:
    latest = filled(GROUP.round((None, 7), 10, 1, quality=bytes([Quality.OFFLINE, Quality.GOOD])))
    reading = latest.reading("m1", "level")
    assert reading is not None
    assert (reading.good_at_ns, reading.value_when_good) == (10, 7)


def test_a_round_of_bad_values_does_not_count_as_usable() -> None:
    latest = filled(GROUP.silent_round(Quality.BAD, 10, 1))
    reading = latest.reading("m1", "flow")
    assert reading is not None
    assert (reading.quality, reading.good_at_ns, reading.value_when_good) == (Quality.BAD, 0, None)


def test_historical_rounds_are_not_the_present_state() -> None:
    told: list[Round] = []
    latest = filled(GROUP.round((1, 2), 10, 1))
    latest.listeners.append(told.append)
    latest.update(GROUP.round((8, 9), 5, 2, flags=Flag.HISTORICAL))
    assert latest.reading("m1", "flow").value == 1  # type: ignore[union-attr]
    assert told == []


def test_listeners_hear_every_round() -> None:
    told: list[Round] = []
    latest = Latest()
    latest.listeners.append(told.append)
    latest.update(GROUP.round((1, 2), 10, 1))
    assert [round_.values for round_ in told] == [(1, 2)]


def test_readings_come_by_device_group_and_column() -> None:
    other = Group("a", "z", (Point("x", "h"),))
    first = Group("m1", "aux", (Point("y", "h"),))
    latest = filled(GROUP.round((1, 2), 1, 1), other.round((3,), 1, 1), first.round((4,), 1, 1))
    assert [reading.id for reading in latest.readings()] == ["a.x", "m1.y", "m1.flow", "m1.level"]
    assert [reading.id for reading in latest.readings("m1")] == ["m1.y", "m1.flow", "m1.level"]
    assert [round_.group.name for round_ in latest.rounds()] == ["z", "aux", "main"]


def test_forgetting_a_device_keeps_the_groups_that_are_the_same() -> None:
    aux = Group("m1", "aux", (Point("y", "h"),))
    latest = filled(GROUP.round((1, 2), 1, 1), aux.round((4,), 1, 1))
    changed = Group("m1", "main", (Point("flow", "h"),))
    latest.forget("m1", (changed, Group("m1", "aux", (Point("y", "h"),))))
    assert [reading.id for reading in latest.readings()] == ["m1.y"]
    latest.forget("m1")
    assert list(latest.readings()) == []
    latest.forget("m1")


def test_a_group_that_changed_its_columns_does_not_mix_with_its_past() -> None:
    latest = filled(GROUP.round((1, 2), 1, 1))
    wider = Group("m1", "main", (Point("a", "h"), Point("flow", "h"), Point("level", "h")))
    latest.update(wider.silent_round(Quality.OFFLINE, 2, 2))
    readings = list(latest.readings("m1"))
    assert [(reading.point.name, reading.value_when_good) for reading in readings] == [
        ("a", None), ("flow", None), ("level", None),
    ]  # fmt: skip


def test_what_is_not_configured_any_more_passes_by() -> None:
    latest = Latest()
    latest.wanted = lambda group: group.device != "m1"
    latest.update(GROUP.round((1, 2), 10, 1))
    assert list(latest.readings()) == []
