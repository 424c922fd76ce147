"""What the routes answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from fluxedge.api.answers import StatusAnswer
from fluxedge.config.mistakes import Mistake
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, UplinkCfg
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.conftest import free_port
from tests.fluxedge.api.running import DRIVER, Running, config, running


async def test_status_has_every_field_that_is_described(run: Running) -> None:
    import msgspec

    reply = await run.ask("GET", "/api/v1/status")
    found = msgspec.json.decode(reply.body, type=StatusAnswer)
    assert found.gateway.id == "gw-test"
    assert found.points == 10
    assert found.channels == {"none": 2}


async def test_problems_come_with_hint_and_count(run: Running) -> None:
    for _ in range(2):
        run.gateway.problems.report("uplink:cloud", LinkProblem("uplink-down", "refused", "Start the broker."))
    (found,) = (await run.ask("GET", "/api/v1/problems")).json
    assert (found["item"], found["code"], found["hint"], found["count"]) == (
        "uplink:cloud", "uplink-down", "Start the broker.", 2,
    )  # fmt: skip


async def test_devices_tell_how_they_answer(run: Running) -> None:
    found = {device["id"]: device for device in (await run.ask("GET", "/api/v1/devices")).json}
    assert found["boiler-1"]["state"] == "ok"
    assert found["boiler-1"]["reads"] >= 1
    assert found["boiler-1"]["label"] == "锅炉"
    assert found["boiler-3"]["state"] == "disabled"


async def test_points_are_listed_also_before_they_were_read(run: Running) -> None:
    run.gateway.protocols["boiler-9"] = run.gateway.protocols["boiler-2"].build(
        "boiler-9", DeviceCfg(driver="boiler"), DRIVER
    )
    found = {point["id"]: point for point in (await run.ask("GET", "/api/v1/points")).json}
    assert len(found) == 15
    assert (found["boiler-9.pump"]["value"], found["boiler-9.pump"]["quality"]) == (None, "")
    assert found["boiler-1.flow_temp"] == found["boiler-1.flow_temp"] | {
        "value": 61.5, "unit": "Cel", "label": "供水温度", "quality": "GOOD", "type": "float", "group": "main",
    }  # fmt: skip
    assert found["boiler-1.name"]["value"] == "一号锅炉"


async def test_integers_that_a_double_cannot_hold_are_text(run: Running) -> None:
    assert (await run.ask("GET", "/api/v1/points/boiler-1.total")).json["value"] == str(2**60)


async def test_points_can_be_chosen_by_device_and_pattern(run: Running) -> None:
    by_device = (await run.ask("GET", "/api/v1/points?device=boiler-2")).json
    assert {point["device"] for point in by_device} == {"boiler-2"}
    both = (await run.ask("GET", "/api/v1/points?device=boiler-2&match=*.pump")).json
    assert [point["id"] for point in both] == ["boiler-2.pump"]
    assert (await run.ask("GET", "/api/v1/points?match=nobody.*")).json == []


async def test_what_does_not_exist_is_404_with_a_suggestion(run: Running) -> None:
    for path, hint in (
        ("points/boiler-1.flow_tmp", "Did you mean boiler-1.flow_temp?"),
        ("points/boiler-11.pump", "Did you mean boiler-1?"),
        ("points?device=boiler-22", "Did you mean boiler-2?"),
        ("points/boiler-3.pump", "Its device file says enabled = false."),
    ):
        reply = await run.ask("GET", f"/api/v1/{path}")
        assert (reply.status, reply.json["code"], reply.json["hint"]) == (404, "not-found", hint)


async def test_the_configuration_is_shown_without_secrets(run: Running) -> None:
    reply = await run.ask("GET", "/api/v1/config")
    assert reply.json["log"]["commit"] == "50ms"
    assert b"hunter2" not in reply.body
    assert reply.json["secrets"] == {"broker-password": "***"}


async def test_a_command_is_carried_out_and_its_key_remembered(run: Running) -> None:
    body = {"device": "boiler-1", "point": "setpoint", "value": 60, "key": "k1"}
    first = (await run.ask("POST", "/api/v1/commands", body)).json
    assert (first["state"], first["before"], first["read_back"]) == ("done", 55.0, 60.0)
    assert (await run.ask("POST", "/api/v1/commands", body)).json == first
    other = (await run.ask("POST", "/api/v1/commands", body | {"value": 70})).json
    assert (other["state"], other["message"]) == ("refused", "the key 'k1' was used for another command")


async def test_a_command_for_a_point_that_does_not_exist_gets_a_suggestion(run: Running) -> None:
    reply = await run.ask("POST", "/api/v1/commands", {"device": "boiler-1", "point": "setpiont", "value": 60})
    assert reply.status == 200
    assert (reply.json["state"], reply.json["hint"]) == ("refused", "Did you mean boiler-1.setpoint?")


async def test_a_body_that_is_no_command_is_a_bad_request(run: Running) -> None:
    for body in (b"{", b"\xff\xfe", json.dumps({"device": "boiler-1"}).encode(), b""):
        reply = await run.ask("POST", "/api/v1/commands", body)
        assert (reply.status, reply.json["code"]) == (400, "bad-request")


async def test_a_reload_that_refuses_something_is_422_with_file_and_line(run: Running) -> None:
    wrong = Mistake("devices/a.toml", 7, "devices.m1.unit", "300 is not in 1..247", item="device:m1")

    async def reload() -> object:
        return SimpleNamespace(
            started=("device:b",), stopped=(), restart_needed=(), mistakes=(wrong,), kept={}, left_out={}
        )

    run.gateway.reload = reload
    reply = await run.ask("POST", "/api/v1/reload")
    assert reply.status == 422
    assert reply.json["started"] == ["device:b"]
    assert (reply.json["mistakes"][0]["file"], reply.json["mistakes"][0]["line"]) == ("devices/a.toml", 7)


async def test_a_gateway_without_a_directory_says_that_it_cannot_reload(run: Running) -> None:
    reply = await run.ask("POST", "/api/v1/reload")
    assert (reply.status, reply.json["code"]) == (503, "not-available")


async def test_an_uplink_that_never_connected_has_everything_to_deliver(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}", keepalive_s=Seconds(30))}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        (found,) = (await run.ask("GET", "/api/v1/uplinks")).json
        log = (await run.ask("GET", "/api/v1/status")).json["log"]
    behind = {lane["lane"]: lane for lane in found["lanes"]}
    held = {lane["lane"]: lane for lane in log["lanes"]}
    assert 0 < behind["rounds"]["records"] <= held["rounds"]["records"]
    assert behind["rounds"]["oldest_us"] == held["rounds"]["oldest_us"]
    assert (found["state"], found["records"], found["autonomy_h"]) == ("down", 0, None)


async def test_what_was_given_up_is_counted(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        log = run.gateway.log
        log.lose("cloud", log.epoch, Lane.ROUNDS, 1, 2)
        commits = log.commits
        await run.until(lambda: log.commits > commits)
        (found,) = (await run.ask("GET", "/api/v1/uplinks")).json
    assert found["gap_records"] == 2
