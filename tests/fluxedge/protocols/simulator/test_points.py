"""One simulated point: types, commands, contradictions."""

from __future__ import annotations

import typing

import pytest

from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import SimulatorPointCfg
from fluxedge.protocols.simulator.points import SimulatedPoint, contradictions
from fluxedge.protocols.simulator.waves import NS


def point(**fields: typing.Any) -> SimulatedPoint:
    return SimulatedPoint("p", SimulatorPointCfg(**{"wave": "constant"} | fields), 1)


@pytest.mark.parametrize(
    ("fields", "raws"),
    [
        ({"wave": "ramp", "to": 10.0, "period_s": Seconds(10.0)}, [0.0, 2.5, 7.5]),
        ({"wave": "ramp", "to": 10.0, "period_s": Seconds(10.0), "type": "int32"}, [0, 2, 8]),
        ({"wave": "ramp", "to": 10.0, "period_s": Seconds(10.0), "type": "bool"}, [False, False, True]),
        ({"wave": "step", "steps": [1.0, 0.0, 1.0], "period_s": Seconds(2.5), "type": "bool"}, [True, False, True]),
        ({"type": "string", "text": "正常"}, ["正常"] * 3),
    ],
)
def test_a_wave_in_each_type(fields: dict[str, typing.Any], raws: list[object]) -> None:
    made = point(**fields)
    got = [made.raw(t) for t in (0, 2 * NS + NS // 2, 7 * NS + NS // 2)]
    assert got == raws
    assert [type(raw) for raw in got] == [type(raw) for raw in raws]


@pytest.mark.parametrize(
    ("fields", "value", "raw"),
    [
        ({"scale": 0.1, "type": "int32"}, 21.5, 215),
        ({"scale": 0.1, "type": "int32"}, 0, 0),
        ({"scale": 2.0, "offset": 10.0}, 20, 5.0),
        ({"type": "bool"}, True, True),
        ({"type": "bool"}, 0, False),
        ({"type": "string"}, "", ""),
    ],
)
def test_a_command_becomes_the_raw_value(fields: dict[str, typing.Any], value: typing.Any, raw: object) -> None:
    got = point(write=True, **fields).encode(value)
    assert got == raw
    assert type(got) is type(raw)


@pytest.mark.parametrize(
    ("fields", "value", "words"),
    [
        ({"write": False}, 1.0, "not writable"),
        ({}, "1", "not a number"),
        ({}, True, "not a number"),
        ({}, float("nan"), "not a finite number"),
        ({"min": 1.0}, 0, "below the smallest"),
        ({"max": 1.0}, 2, "above the largest"),
        ({"type": "int32"}, 2**31, "cannot hold it"),
        ({"type": "bool"}, 2, "not true, false"),
        ({"type": "bool"}, "true", "not true, false"),
        ({"type": "string"}, 5, "not a text"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(
    fields: dict[str, typing.Any], value: typing.Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        point(**{"write": True} | fields).encode(value)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"period_s": Seconds(0.0)}, "period"),
        ({"wave": "step"}, "steps"),
        ({"steps": [1.0]}, "steps"),
        ({"type": "string", "wave": "sine"}, "wave"),
        ({"text": "x"}, "text"),
        ({"type": "string", "scale": 2.0}, "scale"),
        ({"type": "bool", "low": 0.0}, "low"),
        ({"min": 2.0, "max": 1.0}, "min"),
        ({"type": "int32", "to": 1e10}, "to"),
        ({"wave": "step", "type": "int32", "steps": [1.0, -1e10]}, "steps"),
        ({"from_": float("inf")}, "from"),
    ],
)
def test_keys_that_do_not_fit_together_are_found(fields: dict[str, typing.Any], key: str) -> None:
    assert [found for found, _ in contradictions(SimulatorPointCfg(**{"wave": "constant"} | fields))] == [key]


def test_a_sound_point_has_no_contradiction() -> None:
    assert list(contradictions(SimulatorPointCfg(wave="step", steps=[1.0, 2.0], type="int64", min=0.0))) == []
