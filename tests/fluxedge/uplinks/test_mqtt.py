"""The MQTT uplink: topics, properties, status, reason codes and commands, on a scripted and on a real broker."""

from __future__ import annotations

import asyncio
import dataclasses
import typing
from pathlib import Path

import pytest

from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import TopicsCfg, UplinkCfg
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Problem, Refused
from fluxedge.spi import Message, UplinkCommand
from fluxedge.uplinks import formats
from fluxedge.uplinks.mqtt import MqttUplink
from tests.conftest import Mosquitto, free_port
from tests.fluxedge.listener import Listener
from tests.fluxedge.scripted_broker import Peer as BrokerPeer
from tests.fluxedge.scripted_broker import Published, ScriptedBroker, until
from tests.fluxedge.uplinks.road import Road

ROUNDS, EVENTS, STATUS = "fluxedge/gw/rounds", "fluxedge/gw/events", "fluxedge/gw/status"
REQUEST, RESPONSE = "fluxedge/gw/cmd/request", "fluxedge/gw/cmd/response"


class Told:
    """What an uplink says while it runs."""

    def __init__(self) -> None:
        self.commands: list[UplinkCommand] = []
        self.conditions: list[tuple[str, bool]] = []  # code, whether it stands

    def condition(self, code: str, problem: Problem | None) -> None:
        assert problem is None or problem.code == code
        self.conditions.append((code, problem is not None))


def uplink_of(port: int, told: Told | None = None, *, version: str = "5", **cfg: typing.Any) -> MqttUplink:
    url = f"mqtt://127.0.0.1:{port}"
    told = told or Told()
    made = MqttUplink("cloud", UplinkCfg(url=url, **cfg), url, "gw", "", None, version, told.commands.append)
    made.condition = told.condition
    return made


def message(payload: bytes = b"{}", lane: Lane = Lane.ROUNDS, lo: int = 7, hi: int = 9) -> Message:
    return Message(1_764_000_000_000, lane, lo, hi, payload, formats.JSON)


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_message_says_what_it_is_in_its_properties() -> None:
    async with ScriptedBroker() as broker:
        uplink = uplink_of(broker.port, expiry_s=Seconds(3600))
        await uplink.open()
        await uplink.send(message(b"rounds"))
        await uplink.send(message(b"events", Lane.EVENTS))
        await uplink.close()
    rounds, events = broker.records()
    assert (rounds.topic, rounds.payload, events.topic) == (ROUNDS, b"rounds", EVENTS)
    assert not rounds.retain
    assert rounds.properties == {
        "content_type": ["application/json"],
        "message_expiry_interval": [3600],
        "user_property": [
            ("gateway", "gw"), ("epoch", "1764000000000"), ("lane", "rounds"), ("seq", "7"), ("n", "3"),
        ],
    }  # fmt: skip
    assert broker.connects[0].client_id == "gw-cloud"


async def test_the_backlog_and_what_is_in_memory_only_are_marked_in_the_properties() -> None:
    async with ScriptedBroker() as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        await uplink.send(dataclasses.replace(message(), historical=True))
        await uplink.send(dataclasses.replace(message(), durable=False))
        await uplink.close()
    marks = [p.properties["user_property"][5:] for p in broker.records()]
    assert marks == [[("historical", "true")], [("durable", "false")]]


async def test_topics_are_templates() -> None:
    async with ScriptedBroker() as broker:
        topics = TopicsCfg(rounds="werk/{gateway}/r", status="werk/{gateway}/s")
        uplink = uplink_of(broker.port, topics=topics, client_id="mine")
        await uplink.open()
        await uplink.send(message())
        await uplink.close()
    assert {p.topic for p in broker.published} == {"werk/gw/r", "werk/gw/s"}
    assert broker.connects[0].will == ("werk/gw/s", b'{"gateway":"gw","state":"offline"}', 1, True)
    assert broker.connects[0].client_id == "mine"


async def outcome(code: int) -> BaseException | None:
    async with ScriptedBroker(code_of=lambda p: code if p.topic == ROUNDS else 0) as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        sent = uplink.send(message())
        await asyncio.wait([sent], timeout=5)
        await uplink.close()
        return sent.exception()


@pytest.mark.parametrize("code", [0x00, 0x10])
async def test_an_acknowledgement_is_success_even_without_subscribers(code: int) -> None:
    assert await outcome(code) is None


@pytest.mark.parametrize("code", [0x90, 0x99])
async def test_what_can_never_go_is_refused_record_by_record(code: int) -> None:
    error = await outcome(code)
    assert isinstance(error, Refused)
    assert set(error.reasons) == {7, 8, 9}


@pytest.mark.parametrize(
    ("code", "problem", "advice"),
    [
        (0x80, "uplink-throttled", ""),
        (0x83, "uplink-throttled", ""),
        (0x87, "uplink-refused", ""),
        (0x95, "uplink-throttled", "smaller-messages"),
        (0x97, "uplink-throttled", ""),
        (0x91, "uplink-throttled", ""),
    ],
)
async def test_what_cannot_go_now_stays(code: int, problem: str, advice: str) -> None:
    error = await outcome(code)
    assert isinstance(error, LinkProblem)
    assert (error.code, error.advice) == (problem, advice)


async def test_an_uplink_is_greeted_when_the_broker_answers_its_status_be_it_with_a_refusal() -> None:
    for code in (0, 0x87):
        async with ScriptedBroker(puback_code=code) as broker:
            uplink = uplink_of(broker.port)
            await uplink.open()
            await asyncio.wait_for(uplink.greeted.wait(), 5)
            await uplink.close()
    async with ScriptedBroker(acks=False) as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        await until(lambda: broker.published)
        await asyncio.sleep(0.02)
        broker.peer.drop()
        with pytest.raises(LinkProblem):
            await uplink.wait_closed()
        assert not uplink.greeted.is_set()
        await uplink.close()


async def test_nobody_subscribing_is_told_per_lane_and_taken_back() -> None:
    nobody = {ROUNDS, EVENTS}
    told = Told()
    async with ScriptedBroker(code_of=lambda p: 0x10 if p.topic in nobody else 0) as broker:
        uplink = uplink_of(broker.port, told)
        await uplink.open()
        for lanes_without in ({ROUNDS, EVENTS}, {EVENTS}, set[str]()):
            nobody = lanes_without
            for _ in range(3):
                await uplink.send(message())
                await uplink.send(message(lane=Lane.EVENTS))
        await uplink.close()
    standing = [("uplink-no-subscribers", True)] * 3 + [("uplink-no-subscribers", False)]
    assert told.conditions == standing  # once a change, not once a message


async def test_the_largest_payload_that_the_broker_takes_fits_exactly() -> None:
    async with ScriptedBroker(maximum_packet_size=2000) as broker:
        uplink = uplink_of(broker.port, expiry_s=Seconds(60))
        await uplink.open()
        largest = bytes(uplink.maximum_message_bytes)
        await uplink.send(message(largest, Lane.EVENTS, lo=2**62, hi=2**63 - 1))
        assert uplink.maximum_message_bytes > 1700
        await uplink.close()
    assert broker.records()[0].packet_bytes <= 2000


async def test_a_broker_that_no_record_fits_into_costs_none(tmp_path: Path) -> None:
    async with ScriptedBroker(maximum_packet_size=150) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(5)
        await until(lambda: road.problems.stands("uplink:cloud", "uplink-refused"))
        await until(lambda: len(broker.connects) > 3)
        assert road.forwarder.counters.refused == 0
        broker.maximum_packet_size = 2000
        await until(lambda: road.delivered == 5)
        assert list(road.problems) == []
        await road.close()


async def test_the_window_can_be_made_smaller() -> None:
    async with ScriptedBroker(acks=False, receive_maximum=20) as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        assert uplink.window == 18
        uplink.window = 2
        await uplink.room()
        sent = uplink.send(message())
        with pytest.raises(TimeoutError):  # the status message is unacknowledged, too
            await asyncio.wait_for(uplink.room(), 0.1)
        broker.peer.drop()
        with pytest.raises(LinkProblem):
            await uplink.wait_closed()
        await uplink.close()
        with pytest.raises(LinkProblem):
            await sent


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_the_status_topic_says_whether_the_gateway_is_there(broker: Mosquitto, version: str) -> None:
    listener = await asyncio.to_thread(Listener, broker.port, STATUS)
    try:
        uplink = uplink_of(broker.port, version=version)
        await uplink.open()
        await until(lambda: listener.payloads == [(STATUS, b'{"gateway":"gw","state":"online"}')])
        await uplink.close()
        await until(lambda: listener.payloads[1:] == [(STATUS, b'{"gateway":"gw","state":"offline"}')])
        second = uplink_of(broker.port, version=version)
        await second.open()
        await until(lambda: len(listener.payloads) == 3)
        await second._session.abort()  # power cut
        await until(lambda: listener.payloads[3:] == [(STATUS, b'{"gateway":"gw","state":"offline"}')])
        late = await asyncio.to_thread(Listener, broker.port, STATUS)
        await until(lambda: late.payloads == [(STATUS, b'{"gateway":"gw","state":"offline"}')])  # retained
        await asyncio.to_thread(late.close)
    finally:
        await asyncio.to_thread(listener.close)


async def test_offline_is_said_before_goodbye_even_when_the_window_is_one() -> None:
    async with ScriptedBroker(receive_maximum=1, ack_delay_s=0.02) as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        sent = uplink.send(message())
        await uplink.close()
        assert sent.exception() is None
        await broker.until(lambda: broker.goodbyes)
    assert [p.payload for p in broker.published if p.topic == STATUS] == [
        b'{"gateway":"gw","state":"online"}', b'{"gateway":"gw","state":"offline"}',
    ]  # fmt: skip


async def test_without_an_acknowledged_offline_the_will_has_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxedge.uplinks.mqtt.CLOSE_S", 0.1)
    async with ScriptedBroker(acks=False) as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        await asyncio.wait_for(uplink.close(), 2)
        await broker.until(lambda: broker.peer.closed)
        assert broker.goodbyes == []  # DISCONNECT would suppress the will


# --- commands ---------------------------------------------------------------------------------------------------------


async def test_nothing_is_subscribed_unless_something_may_be_commanded() -> None:
    async with ScriptedBroker() as broker:
        uplink = uplink_of(broker.port)
        await uplink.open()
        await uplink.send(message())
        await uplink.close()
    assert broker.subscribed == []


async def test_a_refused_subscription_is_told_and_data_goes_on() -> None:
    told = Told()
    async with ScriptedBroker(suback_code=0x87) as broker:
        uplink = uplink_of(broker.port, told, commands=["*"])
        await uplink.open()
        await until(lambda: told.conditions == [("uplink-commands", True)])
        await uplink.send(message())
        await uplink.close()


async def test_a_command_is_answered_where_the_caller_says(broker: Mosquitto) -> None:
    told = Told()
    uplink = uplink_of(broker.port, told, commands=["*"])
    await uplink.open()
    await until(lambda: told.conditions == [("uplink-commands", False)])
    listener = await asyncio.to_thread(Listener, broker.port, "answers/#", RESPONSE)
    try:
        await asyncio.to_thread(
            listener.publish, REQUEST, b'{"a":1}', ResponseTopic="answers/7", CorrelationData=b"\x00\xff"
        )
        await until(lambda: told.commands)
        assert told.commands == [UplinkCommand(b'{"a":1}', "answers/7", b"\x00\xff")]
        uplink.respond("answers/7", b'{"state":"done"}', b"\x00\xff")
        await until(lambda: listener.messages)
        (answer,) = listener.messages
        assert (answer.topic, answer.payload) == ("answers/7", b'{"state":"done"}')
        assert answer.properties is not None
        assert answer.properties.CorrelationData == b"\x00\xff"
        assert answer.properties.ContentType == "application/json"
    finally:
        await asyncio.to_thread(listener.close)
        await uplink.close()


async def test_without_properties_a_command_is_answered_on_the_response_topic(broker: Mosquitto) -> None:
    told = Told()
    uplink = uplink_of(broker.port, told, version="3.1.1", commands=["*"])
    await uplink.open()
    await until(lambda: told.conditions == [("uplink-commands", False)])
    listener = await asyncio.to_thread(Listener, broker.port, RESPONSE)
    try:
        # The broker drops the properties on the way to a 3.1.1 client.
        await asyncio.to_thread(listener.publish, REQUEST, b"{}", ResponseTopic="answers/7", CorrelationData=b"id")
        await until(lambda: told.commands)
        assert told.commands == [UplinkCommand(b"{}", "", b"")]
        uplink.respond("", b'{"key":"k"}', b"")
        await until(lambda: listener.payloads == [(RESPONSE, b'{"key":"k"}')])
    finally:
        await asyncio.to_thread(listener.close)
        await uplink.close()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_retained_command_is_marked_or_does_not_come(broker: Mosquitto, version: str) -> None:
    listener = await asyncio.to_thread(Listener, broker.port, "nothing")
    try:
        await asyncio.to_thread(listener.publish, REQUEST, b"old", retain=True)
        told = Told()
        uplink = uplink_of(broker.port, told, version=version, commands=["*"])
        await uplink.open()
        await until(lambda: told.conditions)
        await asyncio.to_thread(listener.publish, REQUEST, b"new")
        await until(lambda: any(command.payload == b"new" for command in told.commands))
        assert [(c.payload, c.retained) for c in told.commands] == (
            [(b"new", False)] if version == "5" else [(b"old", True), (b"new", False)]
        )
        told.commands.clear()
        await asyncio.to_thread(listener.publish, REQUEST, b"while connected", retain=True)
        await until(lambda: told.commands)
        # A 3.1.1 broker must take the flag away when it forwards to a subscription that exists (MQTT 3.1.1, 3.3.1.3).
        assert [(c.payload, c.retained) for c in told.commands] == [(b"while connected", version == "5")]
        await uplink.close()
    finally:
        await asyncio.to_thread(listener.close)


@pytest.mark.parametrize("topic", ["a/#", "a/+/b", "nul\0", ROUNDS, EVENTS, STATUS, REQUEST])
async def test_an_answer_goes_to_no_wildcard_and_into_no_stream_of_the_gateway(topic: str) -> None:
    told = Told()
    async with ScriptedBroker() as broker:
        uplink = uplink_of(broker.port, told, commands=["*"])
        await uplink.open()
        await until(lambda: told.conditions)
        raw = topic.encode()
        broker.peer.send(REQUEST, b"{}", b"\x08" + len(raw).to_bytes(2, "big") + raw)
        await until(lambda: told.commands)
        assert told.commands[0].reply_topic == ""
        uplink.respond(told.commands[0].reply_topic, b"{}", b"")
        await broker.until(lambda: broker.records(RESPONSE))
        await uplink.close()


async def test_our_own_answer_is_no_command(broker: Mosquitto) -> None:
    told = Told()
    uplink = uplink_of(broker.port, told, commands=["*"], topics=TopicsCfg(response=REQUEST))
    await uplink.open()
    await until(lambda: told.conditions)
    listener = await asyncio.to_thread(Listener, broker.port, REQUEST)
    try:
        uplink.respond("", b"{}", b"")
        await until(lambda: listener.messages)
        await asyncio.sleep(0.05)
        assert told.commands == []
    finally:
        await asyncio.to_thread(listener.close)
        await uplink.close()


# --- with the forward loop --------------------------------------------------------------------------------------------


async def test_the_next_broker_takes_over_and_keeps_the_connection(tmp_path: Path) -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as second:
        road = Road(tmp_path, [free_port(), first.port, second.port])  # nobody listens on the first one
        await road.commit(10)
        await until(lambda: road.delivered == 10)
        first.peer.drop()  # it worked: the same one again
        await until(lambda: len(first.connects) == 2)
        await road.commit(10)
        await until(lambda: road.delivered == 20)
        first.connack_code = 0x88
        first.peer.drop()
        await road.commit(10)
        await until(lambda: road.delivered == 30)
        assert len(second.connects) == 1
        await until(lambda: not len(road.problems))
        await road.close()
    assert second.records()


async def test_a_broker_of_the_old_version_gets_everything(tmp_path: Path) -> None:
    async with ScriptedBroker(refuse_v5=1) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(100)
        await until(lambda: road.delivered == 100)
        assert [standing.code for standing in road.problems] == ["uplink-old-version"]
        await road.close()
    assert [connected.level for connected in broker.connects] == [5, 4]


@pytest.mark.parametrize("code", [0x87, 0x97])
async def test_what_the_broker_refuses_for_now_stays_and_goes_later(tmp_path: Path, code: int) -> None:
    async with ScriptedBroker(code_of=lambda p: 0 if p.topic == STATUS else code) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(10)
        await until(lambda: len(broker.connects) >= 3)
        assert road.delivered == 0
        assert [standing.code for standing in road.problems] == [
            "uplink-refused" if code == 0x87 else "uplink-throttled"
        ]
        broker.code_of = None
        await until(lambda: road.delivered == 10)
        await until(lambda: not len(road.problems))
        await road.close()


async def test_where_a_subscriber_is_required_nothing_goes_before_there_is_one(tmp_path: Path) -> None:
    async with ScriptedBroker(code_of=lambda p: 0 if p.topic == STATUS else 0x10) as broker:
        road = Road(tmp_path, [broker.port], require_subscriber=True)
        await road.commit(10)
        await until(lambda: len(broker.connects) >= 4)
        assert road.delivered == 0
        assert next(iter(road.log.cursors.of("cloud", Lane.ROUNDS)))[1].intersect(1, 10) == [(1, 10)]
        assert [standing.code for standing in road.problems] == ["uplink-no-subscribers"]
        broker.code_of = None
        await until(lambda: road.delivered == 10)
        await until(lambda: not len(road.problems))
        await road.close()


async def test_a_broker_that_finds_a_packet_too_large_gets_smaller_ones(tmp_path: Path) -> None:
    def too_large(peer: BrokerPeer, published: Published) -> None:
        if len(published.payload) > 1000:
            peer.disconnect(0x95)

    async with ScriptedBroker(on_publish=too_large) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(100)
        await until(lambda: road.delivered == 100, 20)
        assert road.forwarder.counters.refused == 0
        await road.close()


@pytest.mark.parametrize(("receive_maximum", "window"), [(1, 1), (2, 1), (20, 18)])
async def test_a_backlog_obeys_the_receive_maximum(tmp_path: Path, receive_maximum: int, window: int) -> None:
    async with ScriptedBroker(receive_maximum=receive_maximum, ack_delay_s=0.001) as broker:
        road = Road(tmp_path, [broker.port], commands=["*"])
        await road.commit(2000)
        await until(lambda: road.delivered == 2000)
        await road.close()
    assert broker.most_unacknowledged <= receive_maximum
    assert len(broker.connects) == 1


async def test_a_broker_that_dies_in_mid_stream_gets_the_rest_later(tmp_path: Path) -> None:
    mosquitto = await asyncio.to_thread(Mosquitto(tmp_path).start)
    road = Road(tmp_path, [mosquitto.port])
    try:
        await road.commit(500)
        await until(lambda: road.delivered == 500)
        await asyncio.to_thread(mosquitto.stop)
        await road.commit(500)
        await until(lambda: road.problems.stands("uplink:cloud", "uplink-down"))
        await asyncio.to_thread(mosquitto.start)
        await until(lambda: road.delivered == 1000)
    finally:
        await road.close()
        await asyncio.to_thread(mosquitto.close)
