"""`fluxedge write`."""

from __future__ import annotations

import json
import typing

import pytest

from fluxedge.cli.online import Trouble
from fluxedge.cli.write import EXIT, parse
from fluxedge.commands import State
from fluxedge.problems import DeviceProblem
from tests.fluxedge.api.running import Running


async def test_it_shows_before_and_after_and_that_it_is_verified(run: Running, say) -> None:
    done = await say("write", "boiler-1.setpoint", "60.5")
    assert done.exit_code == 0
    assert done.stdout == "boiler-1.setpoint: 55 Cel -> 60.5 Cel  verified\n"


async def test_a_value_out_of_limits_is_refused_and_nothing_is_written(run: Running, say) -> None:
    done = await say("write", "boiler-1.setpoint", "-5")
    assert done.exit_code == 1
    assert "refused, nothing was written" in done.stderr
    assert "below the smallest value permitted, 20" in done.stderr


async def test_a_device_that_does_not_answer_leaves_it_open(run: Running, say, monkeypatch) -> None:
    async def write(*_: object) -> typing.NoReturn:
        raise DeviceProblem("no-reply", "unit 1 did not answer within 1 s")

    monkeypatch.setattr(run.gateway.protocols["boiler-1"], "write", write)
    done = await say("write", "boiler-1.setpoint", "60")
    assert done.exit_code == 5
    assert "not known whether it was written" in done.stderr


async def test_repeating_a_key_writes_once(run: Running, say, monkeypatch) -> None:
    protocol = run.gateway.protocols["boiler-1"]
    original, calls = protocol.write, []

    async def write(link, point, value):
        calls.append(value)
        return await original(link, point, value)

    monkeypatch.setattr(protocol, "write", write)
    for _ in range(2):
        assert (await say("write", "boiler-1.setpoint", "42", "--key", "abc")).exit_code == 0
    assert calls == [42]


async def test_texts_and_switches_in_words(run: Running, say) -> None:
    assert json.loads((await say("write", "boiler-1.pump", "off", "--json")).stdout)["read_back"] is False
    assert (await say("write", "boiler-2.name", "二号锅炉")).stdout == "boiler-2.name: 一号锅炉 -> 二号锅炉  verified\n"


async def test_a_misspelt_point_gets_a_suggestion(say) -> None:
    done = await say("write", "boiler-1.setpiont", "60")
    assert done.exit_code == 1
    assert "Did you mean boiler-1.setpoint?" in done.stderr


async def test_a_time_out_may_be_plain_seconds_and_must_be_a_duration(say) -> None:
    assert (await say("write", "boiler-1.pump", "on", "--timeout", "5")).exit_code == 0
    assert (await say("write", "boiler-1.pump", "on", "--timeout", "soon")).exit_code == 2


def test_every_state_has_an_exit_code_and_only_done_has_zero() -> None:
    assert set(EXIT) == set(typing.get_args(State))
    assert [state for state, code in EXIT.items() if code == 0] == ["done"]


@pytest.mark.parametrize(
    ("kind", "enum", "text", "value"),
    [
        ("int", {}, "42", 42), ("int", {}, "0x2a", 42), ("float", {}, "-1.5e3", -1500.0), ("int", {}, "2.5", 2.5),
        ("bool", {}, "ON", True), ("bool", {}, "false", False), ("bool", {}, "0", False),
        ("text", {}, "42", "42"), ("int", {"0": "off", "3": "Eco"}, "eco", 3), ("int", {"0": "off"}, "0", 0),
    ],
)  # fmt: skip
def test_a_text_means_what_the_points_type_demands(kind: str, enum: dict[str, str], text: str, value: object) -> None:
    found = parse({"id": "d.p", "type": kind, "enum": enum}, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "enum", "text", "hint"),
    [
        ("bool", {}, "maybe", "on or off"), ("float", {}, "warm", "a number"),
        ("int", {"0": "off", "3": "Eco"}, "turbo", "off, Eco"), ("bytes", {}, "00ff", "bytes"),
    ],
)  # fmt: skip
def test_a_text_that_means_nothing_is_explained(kind: str, enum: dict[str, str], text: str, hint: str) -> None:
    with pytest.raises(Trouble) as trouble:
        parse({"id": "d.p", "type": kind, "enum": enum}, text)
    assert hint in trouble.value.hint


async def test_waiting_for_an_offline_device_is_asked_for_with_wait(run: Running, say) -> None:
    poller = next(poller for poller in run.gateway.pollers.values() if "boiler-1" in poller.devices)
    orders: list[bool] = []
    original = poller.order

    def order(*given: object, patient: bool = False) -> object:
        orders.append(patient)
        return original(*given, patient=patient)

    poller.order = order
    assert (await say("write", "boiler-1.pump", "on", "--wait")).exit_code == 0
    assert (await say("write", "boiler-1.pump", "on")).exit_code == 0
    assert orders == [True, False]
