"""Commands end to end: MQTT request and response, a real device, a real daemon that is killed in the middle."""

from __future__ import annotations

import json
import queue
import sqlite3
import time
import typing
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.conftest import Mosquitto
from tests.system.arrivals import wait_until
from tests.system.daemon import Daemon
from tests.system.peers import TcpPeer

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

REQUEST, RESPONSE = "fluxedge/gw/cmd/request", "fluxedge/gw/cmd/response"
PUMP = """\
name = "Pump"
protocol = "modbus"
source = "tests"
[points]
speed = { at = "hr:7", type = "uint16", write = true, max = 3000 }
mode = { at = "hr:9", type = "uint16", write = true }
total = { at = "hr:20", type = "uint32" }
"""
PANEL = """\
name = "Panel"
protocol = "simulator"
source = "tests"
[points]
lamp = { wave = "constant", type = "bool", write = true }
text = { wave = "constant", type = "string", text = "hello", write = true }
limit = { wave = "constant", from = 5.0, write = true }
"""


class Caller:
    """Somebody upstream who sends commands."""

    def __init__(self, port: int) -> None:
        self.answers: queue.Queue[tuple[str, dict[str, typing.Any], bytes]] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        subscribed: queue.Queue[bool] = queue.Queue()
        self._client.on_connect = lambda client, *_: client.subscribe([(RESPONSE, 1), ("my/answers", 1)])
        self._client.on_subscribe = lambda *_: subscribed.put(True)
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        subscribed.get(timeout=10)

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", b"")
        self.answers.put((message.topic, json.loads(message.payload), correlation))

    def send(self, body: object, *, topic: str = "", correlation: bytes = b"", retain: bool = False) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if topic:
            properties.ResponseTopic = topic
        if correlation:
            properties.CorrelationData = correlation
        payload = body if isinstance(body, bytes) else json.dumps(body)
        self._client.publish(REQUEST, payload, qos=1, retain=retain, properties=properties)

    def answer(self) -> tuple[str, dict[str, typing.Any], bytes]:
        return self.answers.get(timeout=10)

    def ask(self, device: str, point: str, value: object, **more: object) -> dict[str, typing.Any]:
        self.send({"device": device, "point": point, "value": value, **more})
        return self.answer()[1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        del self._client


class Site(typing.NamedTuple):
    daemon: Daemon
    peer: TcpPeer
    caller: Caller

    @property
    def writes(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(address, words) for _, address, words in self.peer.registers.writes]

    def ready(self) -> bool:
        uplinks = self.daemon.ask("uplinks")
        return set(self.daemon.devices().values()) == {"ok"} and uplinks[0]["state"] == "connected"


@pytest.fixture
def site(tmp_path: Path, broker: Mosquitto) -> Iterator[Site]:
    peer, daemon, caller = TcpPeer(), Daemon(tmp_path), Caller(broker.port)
    daemon.write(
        "fluxedge.toml",
        f"""\
[gateway]
id = "gw"
[log]
commit = "100ms"
[uplinks.cloud]
url = "mqtt://127.0.0.1:{broker.port}"
commands = ["pump.speed", "panel.*"]
""",
    )
    daemon.write("drivers/pump.toml", PUMP)
    daemon.write("drivers/panel.toml", PANEL)
    daemon.write(
        "devices/all.toml",
        f"""\
[devices.pump]
driver = "pump"
channel = "{peer.url}"
every = "100ms"
timeout = "300ms"
[devices.panel]
driver = "panel"
every = "100ms"
""",
    )
    made = Site(daemon, peer, caller)
    try:
        daemon.start()
        wait_until(made.ready, what="devices answer, the uplink is connected")
        yield made
    finally:
        daemon.close()
        caller.close()
        peer.stop()


def test_a_command_over_mqtt_is_written_read_back_and_answered_where_the_caller_wants_it(site: Site) -> None:
    body = {"device": "pump", "point": "speed", "value": 1500, "key": "k1"}
    site.caller.send(body, topic="my/answers", correlation=b"42")
    topic, answer, correlation = site.caller.answer()
    assert (topic, correlation) == ("my/answers", b"42")
    assert (answer["state"], answer["read_back"], answer["key"]) == ("done", 1500, "k1")
    site.caller.send(body)
    topic, again, correlation = site.caller.answer()
    assert (topic, correlation) == (RESPONSE, b"")
    assert again == answer
    assert site.writes == [(7, (1500,))]
    wait_until(lambda: site.daemon.value("pump.speed") == 1500, 2, "the new value shows")


@pytest.mark.parametrize(
    ("device", "point", "value", "before"),
    [
        ("pump", "speed", 0, None),
        ("panel", "lamp", True, False),
        ("panel", "lamp", False, False),
        ("panel", "text", "", "hello"),
        ("panel", "limit", 0.0, 5.0),
        ("panel", "limit", -1.5, 5.0),
    ],
)
def test_values_of_every_type_arrive_those_too_that_are_false(
    site: Site, device: str, point: str, value: object, before: object
) -> None:
    answer = site.caller.ask(device, point, value)
    assert (answer["state"], answer["read_back"], answer["before"]) == ("done", value, before)
    assert type(answer["read_back"]) is type(value)
    wait_until(lambda: site.daemon.value(f"{device}.{point}") == value, 2)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"device": "pump", "point": "mode", "value": 1}, "uplink cloud may not command pump.mode"),
        ({"device": "panel", "point": "colour", "value": 1}, "there is no point 'colour'"),
        ({"device": "pump", "point": "speed", "value": 3001}, "above the largest value permitted"),
        ({"device": "pump", "point": "speed", "value": "fast"}, "is not a number"),
        ({"device": "pump", "point": "speed", "value": 1, "expires_ms": 1000}, "expired"),
        ({"device": "pump", "point": "speed", "value": 1, "colour": "red"}, "unknown field `colour`"),
        ({"device": "pump", "point": "speed", "value": 10**30}, "more than 64 bits"),
        ({"device": "pump", "point": "speed", "value": [1]}, "this is no command"),
        (b"\xff\xfe", "this is no command"),
        (b"", "this is no command"),
        (b"[" * 100_000, "100000 bytes"),
        (b'{"a":' * 3_000, "this is no command"),
    ],
)
def test_what_is_not_permitted_or_no_command_is_refused_with_the_reason(site: Site, body: object, why: str) -> None:
    site.caller.send(body, correlation=b"c")
    _, answer, correlation = site.caller.answer()
    assert (answer["state"], answer["code"], correlation) == ("refused", "command-refused", b"c")
    assert why in answer["message"]
    assert site.caller.ask("pump", "speed", 5)["state"] == "done"  # and the gateway lives
    assert site.writes == [(7, (5,))]


@pytest.mark.parametrize("topic", ["my/+/answers", "#", REQUEST, "fluxedge/gw/rounds"])
def test_a_caller_cannot_make_the_gateway_answer_into_its_own_streams_or_lose_its_connection(
    site: Site, topic: str
) -> None:
    connected_us = site.daemon.ask("uplinks")[0]["connected_since_us"]
    site.caller.send({"device": "pump", "point": "speed", "value": 1}, topic=topic)
    of, answer, _ = site.caller.answer()
    assert (of, answer["state"]) == (RESPONSE, "done")
    assert site.daemon.ask("uplinks")[0]["connected_since_us"] == connected_us


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_retained_command_is_not_carried_out_by_who_connects_later(site: Site, version: str) -> None:
    main = (site.daemon.config / "fluxedge.toml").read_text()
    site.daemon.stop()
    site.caller.send({"device": "pump", "point": "speed", "value": 9}, retain=True)
    time.sleep(0.2)
    site.daemon.write("fluxedge.toml", f'{main}version = "{version}"\n')
    site.daemon.start()
    wait_until(site.ready)
    if version == "3.1.1":  # the broker cannot be asked to keep it to itself
        answer = site.caller.answer()[1]
        assert (answer["state"], "retained" in answer["message"]) == ("refused", True)
    assert site.caller.ask("pump", "speed", 5)["state"] == "done"
    assert site.writes == [(7, (5,))]


def test_a_command_that_is_retained_while_the_gateway_is_connected_is_refused(site: Site) -> None:
    site.caller.send({"device": "pump", "point": "speed", "value": 9}, retain=True)
    answer = site.caller.answer()[1]
    assert (answer["state"], "retained" in answer["message"]) == ("refused", True)
    assert site.caller.ask("pump", "speed", 5)["state"] == "done"
    assert site.writes == [(7, (5,))]


def test_a_device_that_does_not_answer_a_write_is_unknown_and_it_is_not_sent_again(site: Site) -> None:
    site.peer.registers.on_write = lambda: setattr(site.peer.registers, "mode", "silent")
    answer = site.caller.ask("pump", "speed", 5, key="k1")
    assert (answer["state"], answer["code"]) == ("unknown", "no-reply")
    assert site.writes == [(7, (5,))]
    site.peer.registers.on_write = lambda: None
    wait_until(lambda: site.daemon.devices()["pump"] == "offline")
    refused = site.caller.ask("pump", "speed", 6)
    assert (refused["state"], refused["message"]) == ("refused", "pump is offline")
    site.caller.send({"device": "pump", "point": "speed", "value": 7, "wait": True, "timeout_ms": 9000})
    time.sleep(0.3)
    site.peer.registers.mode = "good"
    assert site.caller.answer()[1]["state"] == "done"
    assert site.caller.ask("pump", "speed", 5, key="k1") == answer
    assert site.writes == [(7, (5,)), (7, (7,))]


def test_a_command_that_expires_while_its_device_is_offline_never_reaches_it(site: Site) -> None:
    site.peer.registers.mode = "silent"
    wait_until(lambda: site.daemon.devices()["pump"] == "offline")
    answer = site.caller.ask("pump", "speed", 7, wait=True, timeout_ms=300)
    assert (answer["state"], answer["message"]) == ("refused", "expired before it could be sent")
    site.peer.registers.mode = "good"
    wait_until(site.ready)
    assert site.writes == []


def test_a_key_is_answered_once_also_after_a_restart(site: Site) -> None:
    answer = site.caller.ask("pump", "speed", 5, key="k1")
    assert answer["state"] == "done"
    site.daemon.kill()
    site.daemon.start()
    wait_until(site.ready)
    assert site.caller.ask("pump", "speed", 5, key="k1") == answer
    assert site.writes == [(7, (5,))]


def test_a_kill_between_intent_and_result_is_unknown_and_never_sent_again(site: Site) -> None:
    database = site.daemon.state / "log.db"
    seen: list[tuple[str, object]] = []

    def kill_at_the_first_byte() -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            seen.extend(connection.execute("SELECT key, result FROM intents"))
        site.daemon.kill()
        site.peer.registers.on_write = lambda: None

    site.peer.registers.on_write = kill_at_the_first_byte
    site.caller.send({"device": "pump", "point": "speed", "value": 5, "key": "k1"})
    wait_until(lambda: site.daemon.process is None, what="the write reaches the device")
    assert seen == [("k1", None)]  # the intent was durable when the wire was reached
    for _ in range(2):
        site.daemon.start()
        wait_until(site.ready)
        answer = site.caller.ask("pump", "speed", 5, key="k1")
        assert (answer["state"], answer["code"]) == ("unknown", "command-unknown")
        site.daemon.kill()
    assert site.writes == [(7, (5,))]
