"""Payloads are what the published schemas say, and carry every value without loss."""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
import typing

import jsonschema
import pytest

from fluxedge.columns import Value
from fluxedge.model import Event, Flag, Group, Lane, Point, Quality, Record, Round
from fluxedge.uplinks import formats

AT_NS = 1_764_000_000_123_456_789
MONO_NS = 5_000_000_999
Json = dict[str, typing.Any]

WIDE = Group(
    "meter-1",
    "main",
    (
        Point("on", "?"), Point("small", "b"), Point("state", "H", enum={0: "off", 3: "fault"}), Point("total", "q"),
        Point("energy", "Q"), Point("u_l1", "f", unit="V"), Point("power", "d", scale=0.001, unit="kW"),
        Point("name", "s"), Point("blob", "y"), Point("temp", "h", scale=0.1, low=-40.0, high=85.0, unit="Cel"),
    ),
)  # fmt: skip
RAWS: tuple[Value, ...] = (True, -7, 3, -(2**53) - 1, 2**64 - 1, 230.5, 1234.0, 'Zähler "一号"', b"\x00\xff", 215)


def validator(name: str) -> jsonschema.Draft202012Validator:
    text = importlib.resources.files("fluxedge.uplinks").joinpath("schemas", f"{name}.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


ROUNDS, COLUMNS, EVENTS = validator("rounds-json"), validator("rounds-json-columns"), validator("events")


def rounds(*bodies: Round, first: int = 7) -> list[Record]:
    return [Record(42, Lane.ROUNDS, seq, 3, body) for seq, body in enumerate(bodies, first)]


def events(*bodies: Event) -> list[Record]:
    return [Record(42, Lane.EVENTS, seq, 3, body) for seq, body in enumerate(bodies, 1)]


def payload(form: str, records: list[Record]) -> Json:
    """Encode, check against the published schema, decode with Python's own reader (not msgspec)."""
    made = formats.message("gw-1", form, records)
    found: Json = json.loads(made.payload, parse_constant=pytest.fail)  # no NaN, no Infinity
    schema = EVENTS if records[0].lane is Lane.EVENTS else {"json": ROUNDS, "json-columns": COLUMNS}[form]
    schema.validate(found)
    assert (made.epoch, made.lane, made.lo, made.hi) == (42, records[0].lane, records[0].seq, records[-1].seq)
    assert (found["gateway"], found["epoch"], found["seq"], found["n"]) == ("gw-1", 42, records[0].seq, len(records))
    return found


def values_of(found: Json, form: str) -> list[typing.Any]:
    if form == "json":
        return list(found["records"][0]["values"].values())
    return list(found["groups"][0]["rows"][0][3])


FORMS = ["json", "json-columns"]


@pytest.mark.parametrize("form", FORMS)
def test_every_wire_type_arrives_without_loss(form: str) -> None:
    found = payload(form, rounds(WIDE.round(RAWS, AT_NS, MONO_NS)))
    on, small, state, total, energy, u_l1, power, name, blob, temp = values_of(found, form)
    assert (on, small, state) == (True, -7, 3)
    assert isinstance(on, bool)
    assert (total, energy) == ("-9007199254740993", "18446744073709551615")
    assert (u_l1, power, name, temp) == (230.5, 1.234, 'Zähler "一号"', 21.5)
    assert base64.b64decode(blob) == b"\x00\xff"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0, -1, 2**53 - 1, 2**53, -(2**53)])
def test_integers_that_json_carries_exactly_are_numbers(form: str, value: int) -> None:
    group = Group("m", "main", (Point("total", "q"),))
    assert values_of(payload(form, rounds(group.round((value,), AT_NS, MONO_NS))), form) == [value]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_integers_beyond_two_to_the_53_are_strings(form: str, value: int) -> None:
    group = Group("m", "main", (Point("total", "q"),))
    assert values_of(payload(form, rounds(group.round((value,), AT_NS, MONO_NS))), form) == [str(value)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_bad(form: str, value: float) -> None:
    group = Group("m", "main", (Point("a", "f"), Point("b", "f")))
    found = payload(form, rounds(group.round((1.5, value), AT_NS, MONO_NS)))
    assert values_of(found, form) == [1.5, None]
    if form == "json":
        assert found["records"][0]["quality"] == {"b": "BAD"}
    else:
        assert found["groups"][0]["rows"][0][4]["quality"] == [0, 2]


@pytest.mark.parametrize("form", FORMS)
def test_every_quality_is_told_and_good_is_silent(form: str) -> None:
    group = Group("m", "main", tuple(Point(name, "h") for name in ("good", "doubtful", "bad", "gone")))
    marks = bytes(Quality)
    found = payload(form, rounds(group.round((1, 2, None, None), AT_NS, MONO_NS, quality=marks)))
    assert values_of(found, form) == [1, 2, None, None]
    if form == "json":
        assert found["records"][0]["quality"] == {"doubtful": "UNCERTAIN", "bad": "BAD", "gone": "OFFLINE"}
    else:
        assert found["groups"][0]["rows"][0][4] == {"quality": [0, 1, 2, 3]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("quality", [b"", bytes(4)])
def test_a_good_round_says_nothing_about_quality(form: str, quality: bytes) -> None:
    group = Group("m", "main", tuple(Point(name, "h") for name in "abcd"))
    found = payload(form, rounds(group.round((1, 2, 3, 4), AT_NS, MONO_NS, quality=quality)))
    if form == "json":
        assert set(found["records"][0]) == {"seq", "device", "group", "at_us", "values"}
    else:
        assert len(found["groups"][0]["rows"][0]) == 4


@pytest.mark.parametrize("form", FORMS)
def test_a_silent_device_is_all_offline(form: str) -> None:
    found = payload(form, rounds(WIDE.silent_round(Quality.OFFLINE, AT_NS, MONO_NS)))
    assert values_of(found, form) == [None] * 10


def stamp_of(found: Json, form: str) -> Json:
    if form == "json":
        return {k: v for k, v in found["records"][0].items() if k in ("unsynced", "source_time", "historical")}
    row = found["groups"][0]["rows"][0]
    return typing.cast(Json, row[4]) if len(row) > 4 else {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("flags", "stamp"),
    [
        (0, {}),
        (Flag.SOURCE_TIME, {"source_time": True}),
        (Flag.HISTORICAL, {"historical": True}),
        (Flag.CLOCK_UNSYNCED, {"unsynced": {"boot": 3, "mono_us": 5_000_000}}),
        (
            Flag.SOURCE_TIME | Flag.HISTORICAL | Flag.CLOCK_UNSYNCED,
            {"source_time": True, "historical": True, "unsynced": {"boot": 3, "mono_us": 5_000_000}},
        ),
    ],
)
def test_flags_of_a_stamp_travel(form: str, flags: int, stamp: Json) -> None:
    group = Group("m", "main", (Point("a", "h"),))
    found = payload(form, rounds(group.round((1,), AT_NS, MONO_NS, flags=int(flags))))
    assert stamp_of(found, form) == stamp
    at_us = found["records"][0]["at_us"] if form == "json" else found["groups"][0]["rows"][0][2]
    assert at_us == AT_NS // 1000


def test_columns_carry_names_and_units_once_for_all_devices_that_have_the_same() -> None:
    points = (Point("x", "h", unit="V"), Point("y", "h", label="of this device"))
    a, b = Group("a", "main", points), Group("b", "main", (points[0], Point("y", "H")))
    other = Group("a", "main", (Point("x", "h", unit="mV"), points[1]))
    bodies = (a.round((1, 2), AT_NS, 0), b.round((3, 4), AT_NS, 0), other.round((5, 6), AT_NS, 0))
    found = payload("json-columns", rounds(*bodies, a.round((7, 8), AT_NS, 0)))
    assert [(g["group"], g["points"], g["units"]) for g in found["groups"]] == [
        ("main", ["x", "y"], ["V", ""]),
        ("main", ["x", "y"], ["mV", ""]),
    ]
    assert [[row[:2] + row[3:] for row in g["rows"]] for g in found["groups"]] == [
        [[7, "a", [1, 2]], [8, "b", [3, 4]], [10, "a", [7, 8]]],
        [[9, "a", [5, 6]]],
    ]


def test_columns_of_a_fleet_take_less_than_half_of_the_bytes() -> None:
    points = tuple(Point(f"point_{i}", "h", scale=0.1, unit="V") for i in range(100))
    fleet = [Group(f"meter-{i}", "main", points) for i in range(20)]
    records = rounds(*[group.round(tuple(range(2000, 2100)), AT_NS, 0) for group in fleet])
    sizes = {form: len(formats.message("gw", form, records).payload) for form in FORMS}
    assert sizes["json-columns"] < 0.5 * sizes["json"]


def test_both_formats_say_the_same() -> None:
    records = rounds(WIDE.round(RAWS, AT_NS, MONO_NS), WIDE.silent_round(Quality.BAD, AT_NS, MONO_NS))
    plain, columns = payload("json", records), payload("json-columns", records)
    (group,) = columns["groups"]
    assert [[r["seq"], r["device"], r["at_us"], list(r["values"].values())] for r in plain["records"]] == [
        row[:4] for row in group["rows"]
    ]


def test_points_and_the_oldest_stamp_are_counted_for_metrics() -> None:
    made = formats.message("gw", "json", rounds(*[WIDE.round(RAWS, AT_NS + i, MONO_NS) for i in range(3)]))
    assert (made.points, made.oldest_ns) == (30, AT_NS)


def test_groups_of_one_driver_share_what_encodes_them() -> None:
    points = (Point("shared-name", "h"), Point("1st", "h"))  # no Python identifiers
    one, other = Group("a", "main", points), Group("b", "main", points)
    assert formats._shape(one).named is formats._shape(other).named
    found = payload("json", rounds(one.round((1, 2), AT_NS, 0), other.round((3, 4), AT_NS, 0)))
    assert [r["values"] for r in found["records"]] == [{"shared-name": 1, "1st": 2}, {"shared-name": 3, "1st": 4}]


def test_beyond_the_bound_of_kept_names_the_payload_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_STRUCT_POINTS", 0)
    monkeypatch.setattr(formats, "_shapes", {})
    monkeypatch.setattr(formats, "_structs", {})
    monkeypatch.setattr(formats, "_SHAPES", 2)
    for number in range(5):
        group = Group("a", f"g{number}", (Point(f"p{number}", "h"),))
        found = payload("json", rounds(group.round((number,), AT_NS, 0)))
        assert found["records"][0]["values"] == {f"p{number}": number}
    assert not formats._structs
    assert len(formats._shapes) <= 2


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_events_are_the_same_in_both_formats(form: str) -> None:
    data = {"state": "done", "value": 2**64 - 1, "raw": b"\x01\x02", "list": [2**60, 1], "deep": {"n": None}, "x": 1.5}
    gap = {"uplink": "cloud", "epoch": 1, "lane": "rounds", "lo": 1, "hi": 9, "why": "damaged"}
    found = payload(
        form,
        events(
            Event("command-result", "device:meter-1", AT_NS, MONO_NS, data),
            Event("gap", "uplink:cloud", AT_NS, MONO_NS, gap, flags=Flag.CLOCK_UNSYNCED),
            Event("start", "gateway", AT_NS, MONO_NS),
        ),
    )
    result, announced, start = found["records"]
    assert result["data"] == {
        "state": "done", "value": "18446744073709551615", "raw": "AQI=", "list": [str(2**60), 1], "deep": {"n": None},
        "x": 1.5,
    }  # fmt: skip
    assert announced["data"] == gap
    assert announced["unsynced"] == {"boot": 3, "mono_us": 5_000_000}
    assert start == {"seq": 3, "kind": "start", "item": "gateway", "at_us": AT_NS // 1000, "data": {}}


# --- the schemas themselves -------------------------------------------------------------------------------------------


def broken(found: Json, change: typing.Callable[[Json], object]) -> Json:
    copy: Json = json.loads(json.dumps(found))
    change(copy)
    return copy


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("epoch"),
        lambda p: p.update(lane="events"),
        lambda p: p.update(n=0),
        lambda p: p.update(extra=1),
        lambda p: p["records"][0].pop("at_us"),
        lambda p: p["records"][0].update(quality={"on": "GOOD"}),
        lambda p: p["records"][0].update(historical=False),
        lambda p: p["records"][0]["values"].update(on=[1]),
        lambda p: p["records"].clear(),
    ],
)
def test_the_schema_of_rounds_refuses_what_is_wrong(change: typing.Callable[[Json], object]) -> None:
    found = payload("json", rounds(WIDE.round(RAWS, AT_NS, MONO_NS)))
    assert not ROUNDS.is_valid(broken(found, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["groups"][0].pop("units"),
        lambda p: p["groups"][0]["rows"][0].pop(),
        lambda p: p["groups"][0]["rows"][0].append({}),
        lambda p: p["groups"][0]["rows"][0].pop(1),
        lambda p: p["groups"][0]["rows"][0].append({"quality": [4]}),
        lambda p: p["groups"][0]["rows"][0].extend([{"historical": True}, 1]),
    ],
)
def test_the_schema_of_columns_refuses_what_is_wrong(change: typing.Callable[[Json], object]) -> None:
    found = payload("json-columns", rounds(WIDE.round(RAWS, AT_NS, MONO_NS)))
    assert not COLUMNS.is_valid(broken(found, change))


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (formats.Marks(), {}),
        (formats.Marks(historical=True), {"historical": True}),
        (formats.Marks(durable=False), {"durable": False}),
        (formats.Marks(historical=True, durable=False), {"historical": True, "durable": False}),
    ],
)
@pytest.mark.parametrize(
    ("form", "schema", "lane"),
    [("json", ROUNDS, "rounds"), ("json-columns", COLUMNS, "rounds"), ("json", EVENTS, "events")],
)
def test_a_message_of_the_backlog_or_of_memory_says_so_and_fits_its_schema(
    marks: formats.Marks, said: Json, form: str, schema: typing.Any, lane: str
) -> None:
    group = WIDE.round(RAWS, AT_NS, MONO_NS)
    records = rounds(group) if lane == "rounds" else events(Event("start", "gateway", AT_NS, MONO_NS))
    made = formats.message("gw", form, records, marks)
    found: Json = json.loads(made.payload)
    assert {key: found[key] for key in ("historical", "durable") if key in found} == said
    assert (made.historical, made.durable) == marks
    assert schema.is_valid(found)
    assert not schema.is_valid({**found, "historical": False})
    assert not schema.is_valid({**found, "durable": True})


def test_the_schema_of_events_refuses_a_gap_without_a_range() -> None:
    gap = {"uplink": "cloud", "epoch": 1, "lane": "rounds", "lo": 1, "hi": 9, "why": "damaged"}
    found = payload("json", events(Event("gap", "uplink:cloud", AT_NS, MONO_NS, gap)))
    assert not EVENTS.is_valid(broken(found, lambda p: p["records"][0]["data"].pop("hi")))
