"""How single values are judged; whole files are in test_load."""

from __future__ import annotations

import typing

import pytest
from msgspec import field

from fluxedge.config.decode import decode, decode_rest, id_mistake, is_id
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, PointOverrideCfg, Table


class Inner(Table, frozen=True, kw_only=True):
    low: float = 0.0


class Sample(Table, frozen=True, kw_only=True):
    name: str
    every_s: Seconds = field(default=Seconds(1), name="every")
    count: int | None = None
    mode: bool | typing.Literal["single", "multiple"] = False
    url: str | list[str] = ""
    inner: dict[str, Inner] = {}
    free: dict[str, typing.Any] = {}

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("count: 13 brings bad luck")


def told(table: object) -> list[str]:
    notes: list[str] = []
    decode(Sample, table, lambda path, message, hint: notes.append(f"{path}: {message}{hint and ' | '}{hint}"))
    return notes


def test_a_good_table_becomes_a_struct() -> None:
    table = {"name": "x", "every": "2s", "mode": "single", "inner": {"a": {"low": 1}}, "free": {"any": [1]}}
    sample = decode(Sample, table, lambda *_: pytest.fail("nothing is wrong"))
    assert sample == Sample(name="x", every_s=Seconds(2), mode="single", inner={"a": Inner(low=1.0)}, free={"any": [1]})
    assert sample is not None
    assert isinstance(sample.inner["a"].low, float)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("count", True, "('count',): true is not a whole number"),
        ("count", "12", "('count',): \"12\" is not a whole number | Write it without quotes: 12."),
        ("count", 2**63, f"('count',): {2**63} is not a number that can be used"),
        ("count", 13, "('count',): 13 brings bad luck"),
        ("mode", 1, '(\'mode\',): 1 is not true or false or one of "multiple", "single"'),
        ("url", 7, "('url',): 7 is not text or an array of text"),
        ("url", ["a", 7], "('url', 1): 7 is not text | Write it in quotes: \"7\"."),
        ("inner", 1, "('inner',): 1 is not a table"),
        ("inner", {"a": 1}, "('inner', 'a'): 1 is not a table"),
        (
            "inner",
            {"a": {"low": "1.5"}},
            "('inner', 'a', 'low'): \"1.5\" is not a number | Write it without quotes: 1.5.",
        ),
        ("inner", {"a": {"low": float("inf")}}, "('inner', 'a', 'low'): inf is not a number that can be used"),
        (
            "every",
            1,
            '(\'every\',): 1 is not a duration; write a string with a unit such as "250ms", "1s", "5m", "24h"',
        ),
        ("every_s", 1, '(\'every_s\',): unknown key "every_s": did you mean "every"?'),
        ("name", {}, "('name',): a table is not text"),
        ("name", "x" * 70, ""),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(key: str, value: object, words: str) -> None:
    assert told({"name": "n"} | {key: value}) == ([words] if words else [])


def test_every_mistake_is_told() -> None:
    assert [line.partition(":")[0] for line in told({"every": 1, "x": 1, "inner": {"a": {"low": "", "b": 1}}})] == [
        "('every',)",
        "('x',)",
        "('inner', 'a', 'low')",
        "('inner', 'a', 'b')",
        "()",
    ]


def test_the_rest_is_what_is_right() -> None:
    table = {"name": "n", "count": "x", "url": "u"}
    assert decode_rest(Sample, table) == Sample(name="n", url="u")
    assert decode_rest(Sample, {"url": "u"}) is None
    assert decode_rest(Sample, {"url": "u"}, instead={"name": "?"}) == Sample(name="?", url="u")
    assert decode_rest(Sample, {"name": 5, "url": "u"}, instead={"name": "?"}) == Sample(name="?", url="u")
    assert decode_rest(Sample, 5) is None


def test_the_rest_loses_no_more_than_the_wrong_keys() -> None:
    table = {"driver": "x", "unit": 1, "units": "2-3", "points": {"a": {"low": "x", "high": 3}, "b": 7}, "every": "1s"}
    points = {"a": PointOverrideCfg(high=3.0)}
    assert decode_rest(DeviceCfg, table) == DeviceCfg(driver="x", points=points, every_s=Seconds(1.0))


@pytest.mark.parametrize("text", ["a", "m-1_x", "0", "x" * 64])
def test_a_name_is_short_and_plain(text: str) -> None:
    assert is_id(text)
    assert id_mistake(text) == ""


@pytest.mark.parametrize("text", ["", "A", "a b", "ä", "a.b", "x" * 65, "a\n"])
def test_other_names_are_refused(text: str) -> None:
    assert not is_id(text)
    assert "is not a name: use small letters" in id_mistake(text)
