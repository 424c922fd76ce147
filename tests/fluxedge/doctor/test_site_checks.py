"""What is said of the gateway and its site."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from fluxedge.doctor.facts import Reach, SerialPort
from fluxedge.doctor.site_checks import TOLD
from tests.fluxedge.doctor.healthy import ANSWERS, DEVICE, HEALTHY, NOW_S, UPLINK, answering, only, spoilt, wrong

BY_ID = "/dev/serial/by-id/usb-1"


@pytest.mark.parametrize(
    ("part", "changes", "verdict", "words", "remedy"),
    [
        ("configuration", {"fatal": True}, "bad", "would not start", "fluxedge check"),
        ("configuration", {"mistakes": ("a.toml:1: wrong",)}, "bad", "a.toml:1: wrong", "fluxedge check"),
        ("configuration", {"warnings": ("a.toml:1: odd",)}, "note", "a.toml:1: odd", "fluxedge check"),
        ("configuration", {"kept": {"device:m1": "x"}}, "bad", "device m1 goes on as its last good", "fluxedge reload"),
        ("configuration", {"left_out": {"device:m1": "x"}}, "bad", "device m1 does not run", "fluxedge reload"),
        ("configuration", {"unseen": "closed to this user: /e"}, "note", "ann may not read all", "sudo"),
        ("configuration", {"devices": 0}, "note", "nothing is read", "fluxedge check"),
        ("configuration", {"last_good": "none"}, "note", "nothing is remembered", ""),
        ("configuration", {"last_good": "unseen"}, "note", "may not see", ""),
        ("configuration", {"last_good": "it is damaged"}, "note", "it is damaged", "written anew"),
        ("configuration", {"listen": "0.0.0.0:502"}, "bad", "port 502 is below 1024", "8080"),
        ("configuration", {"backlog_bytes": 90 << 30}, "note", "may take 98.2 GiB, the disk has 30.0 GiB", "Lower"),
        ("state", {"set_aside": ("log.damaged-20270101T000000Z",)}, "note", "log.damaged-2027", "dmesg"),
        ("files", {"limit": 256}, "bad", "300 are needed, 256 are permitted", "LimitNOFILE"),
    ],
)
def test_what_is_spoilt_is_the_one_thing_that_is_told(
    part: str, changes: dict[str, typing.Any], verdict: str, words: str, remedy: str
) -> None:
    found = only(spoilt(part, **changes))
    assert (found.verdict, words in found.text, remedy in found.remedy) == (verdict, True, True), found


@pytest.mark.parametrize(
    ("state", "verdict", "words"),
    [
        ("absent", "bad", "does not run"),
        ("forbidden", "note", "ann may not talk"),
        ("silent", "bad", "does not answer"),
        ("broken", "bad", "nonsense"),
    ],
)
def test_a_gateway_that_says_nothing_is_told_and_nothing_is_guessed(state: str, verdict: str, words: str) -> None:
    found = only(spoilt("daemon", state=state, why="nonsense", answers={}))
    assert (found.verdict, words in found.text) == (verdict, True)


def test_a_hundred_thousand_mistakes_are_a_few_lines() -> None:
    found = wrong(spoilt("configuration", mistakes=tuple(f"a.toml:{i}" for i in range(1000))))
    assert len(found) == TOLD + 1
    assert found[-1].text == f"and {1000 - TOLD} more"


def port(**changes: typing.Any) -> typing.Any:
    found = dataclasses.replace(SerialPort("bus-1", BY_ID, group="dialout"), **changes)
    return dataclasses.replace(HEALTHY, ports=(found,))


@pytest.mark.parametrize(
    ("changes", "verdict", "words", "remedy"),
    [
        ({"exists": False}, "bad", "there is no", "plugged in"),
        ({"is_tty": False}, "bad", "no serial port", "by-id"),
        ({"blocked": "fluxedge"}, "bad", "fluxedge may not open", "usermod -aG dialout fluxedge"),
        ({"blocked": "uid 1000"}, "bad", "uid 1000 may not open", "usermod -aG dialout USER"),
        ({"blocked": "fluxedge", "group": "root"}, "bad", "may not open", "udev"),
        ({"holders": ("minicom (pid 8)",)}, "bad", "minicom (pid 8)", "two masters"),
        ({"holders_unseen": True}, "note", "ann cannot see", "sudo"),
        ({"path": "/dev/ttyUSB0"}, "note", "another adapter", "by-id"),
    ],
)
def test_a_port_that_cannot_be_used_has_its_remedy(
    changes: dict[str, typing.Any], verdict: str, words: str, remedy: str
) -> None:
    found = only(port(**changes))
    assert (found.verdict, words in found.text, remedy in found.remedy) == (verdict, True, True), found


def test_nobody_is_told_to_join_the_group_root() -> None:
    assert "usermod" not in only(port(blocked="fluxedge", group="root")).remedy


def broker(**changes: typing.Any) -> typing.Any:
    found = dataclasses.replace(HEALTHY.reach[0], **changes)
    return dataclasses.replace(HEALTHY, reach=(found,))


@pytest.mark.parametrize(
    ("changes", "verdict", "words", "remedy"),
    [
        ({"failed": "name", "why": "b has no address"}, "bad", "b has no address", "name server"),
        ({"failed": "skipped"}, "note", "was not tried", "--connect"),
        ({"failed": "connect", "why": "refused"}, "bad", "refused", "firewall"),
        ({"failed": "settings", "why": "ca.pem: not PEM"}, "bad", "ca.pem", "credentials/"),
        ({"failed": "tls", "why": "certificate is not yet valid"}, "bad", "not yet valid", "clock"),
        ({"failed": "tls", "why": "self-signed certificate"}, "bad", "self-signed", "troubleshooting"),
        ({"verified": False, "ends_s": None}, "note", "not checked", "ca"),
        ({"ends_s": NOW_S + 20.5 * 86400}, "note", "ends in 20 days", "Renew"),
        ({"ends_s": NOW_S + 3.5 * 86400}, "bad", "ends in 3 days", "now"),
        ({"shallow": True, "tls": ""}, "note", "TLS was not tried", "sudo"),
    ],
)
def test_a_broker_out_of_reach_says_where_it_ends(
    changes: dict[str, typing.Any], verdict: str, words: str, remedy: str
) -> None:
    found = only(broker(**changes))
    assert (found.verdict, words in found.text, remedy in found.remedy) == (verdict, True, True), found


def test_a_broker_without_tls_is_all_right() -> None:
    assert wrong(dataclasses.replace(HEALTHY, reach=(Reach("lan", "mqtt://b", took_ms=1),))) == []


def test_a_silent_device_is_told_once_though_its_problem_stands_too() -> None:
    problem = {"item": "device:meter-1", "code": "no-reply", "message": "silent", "hint": "", "count": 9}
    found = only(answering(devices=[{**DEVICE, "state": "offline", "last_answer_us": 0}], problems=[problem]))
    assert (found.verdict, found.text) == ("bad", "silent at bus-1; it has never answered")


def test_a_device_that_drops_out_now_and_then_is_a_note_with_its_share() -> None:
    found = only(answering(devices=[{**DEVICE, "silent": 40}]))
    assert (found.verdict, found.text) == ("note", "4.0 % of 1,000 reads got no answer")


def test_many_silent_devices_are_a_few_lines() -> None:
    devices = [{**DEVICE, "id": f"m{i}", "state": "offline"} for i in range(300)]
    assert wrong(answering(devices=devices))[-1].text == f"and {300 - TOLD} more are silent"


def test_late_answers_are_told_of_their_channel() -> None:
    assert only(answering(channels=[{"id": "bus-1", "suspects": 3}])).subject == "channel bus-1"


def test_a_problem_that_stands_is_told_with_its_own_remedy() -> None:
    problem = {"item": "log", "code": "disk-low", "message": "1 MiB free", "hint": "Make room.", "count": 3}
    found = only(answering(problems=[problem]))
    assert (found.verdict, found.text, found.remedy) == ("bad", "disk-low: 1 MiB free (3 times)", "Make room.")


def test_an_uplink_that_is_down_says_how_long_the_log_can_wait() -> None:
    down = {**UPLINK, "state": "down", "autonomy_h": 50.2}
    assert only(answering(uplinks=[down])).text == "not connected, 3 records behind; the log can wait 50 h more"
    problem = {"item": "uplink:cloud", "code": "uplink-down", "message": "refused", "hint": "", "count": 1}
    assert "uplink-down" in only(answering(uplinks=[down], problems=[problem])).text


def test_a_late_event_loop_is_told_but_not_right_after_the_start() -> None:
    late = {**ANSWERS["status"], "loop": {"lag_max_ms": 80.0}}
    assert only(answering(status=late)).subject == "load"
    young = {**late, "gateway": {**late["gateway"], "started_us": int((NOW_S - 30) * 1e6)}}
    assert wrong(answering(status=young)) == []


def test_a_setting_that_waits_for_a_restart_is_told() -> None:
    status = {**ANSWERS["status"], "restart_needed": ["log"]}
    assert only(answering(status=status)).text == "[log] of fluxedge.toml changed since the start"


def test_an_answer_that_was_refused_is_told() -> None:
    assert "queue: HTTP 503" in only(spoilt("daemon", missing={"queue": "HTTP 503"})).text
