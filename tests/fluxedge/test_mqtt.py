"""The session over gmqtt: each defect D1-D11 of gmqtt's reliability layer has a test that our way round it works."""

from __future__ import annotations

import ast
import asyncio
import gc
import importlib.metadata
import inspect
import socket
import ssl
import typing
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import gmqtt
import pytest
import uvloop
from gmqtt.mqtt.handler import MQTTConnectError

from fluxedge import mqtt, mqtt_client
from fluxedge.mqtt import Incoming, Rejected, Session, Settings, WrongVersion, packet_bytes
from fluxedge.problems import LinkProblem
from tests.conftest import Mosquitto
from tests.fluxedge.certificates import Authority
from tests.fluxedge.listener import Listener
from tests.fluxedge.scripted_broker import ScriptedBroker, until


def settings(port: int, **changes: typing.Any) -> Settings:
    """Return settings with time limits that tests can wait for."""
    known: dict[str, typing.Any] = {"client_id": "gw-cloud", "connect_s": 0.4, "ack_s": 0.4, "close_s": 0.3}
    return Settings(host="127.0.0.1", port=port, **(known | changes))


async def opened(port: int, **changes: typing.Any) -> Session:
    session = Session(settings(port, **changes))
    await session.open()
    return session


async def problem_of(future: asyncio.Future[typing.Any]) -> LinkProblem:
    with pytest.raises(LinkProblem) as caught:
        await asyncio.wait_for(future, 5)
    return caught.value


async def refusal(port: int, **changes: typing.Any) -> LinkProblem:
    """Return what `open` raises."""
    session = Session(settings(port, **changes))
    with pytest.raises(LinkProblem) as caught:
        await asyncio.wait_for(session.open(), 5)
    assert not session.running
    return caught.value


# --- the good case ----------------------------------------------------------------------------------------------------


async def test_a_message_is_done_at_its_puback() -> None:
    async with ScriptedBroker(acks=False) as broker:
        session = await opened(broker.port)
        sent = session.publish("a/b", b"payload", content_type="text/plain", user_property=[("seq", "7"), ("n", "1")])
        await broker.until(lambda: broker.published)
        assert not sent.done()
        broker.peer.acknowledge(broker.published[0].mid)
        assert await sent == 0
        await session.close()
    (published,) = broker.published
    assert (published.topic, published.payload, published.qos) == ("a/b", b"payload", 1)
    assert published.properties == {"content_type": ["text/plain"], "user_property": [("seq", "7"), ("n", "1")]}


async def test_no_matching_subscribers_is_a_success_with_a_code() -> None:
    async with ScriptedBroker(puback_code=0x10) as broker:
        session = await opened(broker.port)
        assert await session.publish("a", b"") == mqtt.NO_SUBSCRIBERS
        await session.close()


async def test_version_3_1_1_is_spoken_without_properties() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, version="3.1.1")
        assert await session.publish("a", b"x", content_type="text/plain") == 0
        await session.subscribe("cmd")
        await session.close()
    assert broker.connects[0].level == 4
    assert broker.subscribed == [("cmd", 1)]  # 3.1.1: every other bit must be 0


async def test_a_client_id_may_be_in_any_language() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, client_id="一号车间", username="Zähler", password="schlüssel")
        await session.close()
    connected = broker.connects[0]
    assert connected.client_id == "一号车间"
    assert (connected.username, connected.password) == ("Zähler".encode(), "schlüssel".encode())


async def test_a_password_without_a_user_name_is_sent() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, password="token")
        await session.close()
    assert broker.connects[0].password == b"token"


async def test_messages_come_to_the_callback_with_their_properties() -> None:
    received: list[Incoming] = []
    async with ScriptedBroker() as broker:
        session = Session(settings(broker.port), received.append)
        await session.open()
        await session.subscribe("cmd")
        assert broker.subscribed == [
            ("cmd", 1 | 1 << 2 | 1 << 3 | 2 << 4)
        ]  # QoS 1, no local, retain flag kept, none retained
        broker.peer.send("cmd", b"now", b"\x08\x00\x05reply\x09\x00\x02id")
        broker.peer.send("cmd", b"old", retain=True)
        await broker.until(lambda: len(received) == 2)
        await session.close()
    assert [(m.payload, m.retained) for m in received] == [(b"now", False), (b"old", True)]
    assert received[0].properties["response_topic"] == ["reply"]
    assert received[0].properties["correlation_data"] == [b"id"]


async def test_a_refused_subscription_is_told() -> None:
    async with ScriptedBroker(suback_code=0x87) as broker:
        session = await opened(broker.port)
        with pytest.raises(Rejected) as caught:
            await session.subscribe("cmd")
        assert caught.value.code == 0x87
        assert session.running
        await session.close()


async def test_a_packet_of_nonsense_does_not_end_the_process() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port)
        broker.peer.write(b"\x40\x00" + b"\x90\x01\x00" + b"\x00\x00" + b"\x30\x01\x00")
        assert await session.publish("a", b"x") == 0
        await session.close()


# --- D1, D2: ids leak over reconnections ------------------------------------------------------------------------------


async def test_d1_d2_ids_are_not_leaked_over_reconnects() -> None:
    async with ScriptedBroker(acks=False, receive_maximum=20) as broker:
        for _ in range(5):
            session = await opened(broker.port)
            lost = [session.publish("a", b"x") for _ in range(18)]
            await broker.until(lambda: len(broker.peer.unacknowledged) == 18)
            broker.peer.drop()
            for future in lost:
                assert (await problem_of(future)).code == "uplink-down"
            await session.abort()
        broker.acks = True
        session = await opened(broker.port)
        for _ in range(100):
            assert await session.publish("a", b"y") == 0
        assert session._client._client._package_handler.id_generator._used_ids == set()
        await session.close()
    assert len(broker.published) == 5 * 18 + 100  # nothing was resent by gmqtt


# --- D3: negative PUBACKs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x90, 0x97, 0x99])
async def test_d3_a_negative_puback_is_no_success(code: int) -> None:
    async with ScriptedBroker(puback_code=code) as broker:
        session = await opened(broker.port)
        with pytest.raises(Rejected) as caught:
            await session.publish("a", b"x")
        assert caught.value.code == code
        assert session.running
        await session.close()


# --- D4: resumed sessions ---------------------------------------------------------------------------------------------


async def test_d4_nothing_is_ever_resumed() -> None:
    async with ScriptedBroker(acks=False, session_present=True) as broker:
        first = await opened(broker.port)
        lost = first.publish("a", b"x")
        await broker.until(lambda: broker.published)
        broker.peer.drop()
        await problem_of(lost)
        await first.abort()
        second = await opened(broker.port)
        await asyncio.sleep(0.05)
        await second.close()
    assert len(broker.published) == 1
    assert all(c.clean and "session_expiry_interval" not in c.properties for c in broker.connects)


# --- D5: publishing while not connected -------------------------------------------------------------------------------


async def test_d5_publishing_while_not_connected_fails_and_is_not_forgotten() -> None:
    async with ScriptedBroker() as broker:
        session = Session(settings(broker.port))
        assert (await problem_of(session.publish("a", b"x"))).code == "uplink-down"
        assert (await problem_of(session.subscribe("a"))).code == "uplink-down"
        await session.open()
        await session.close()
        assert (await problem_of(session.publish("a", b"x"))).code == "uplink-down"
        with pytest.raises(LinkProblem):
            await session.room()
        await session.wait_closed()
    assert broker.published == []


# --- D6: gmqtt's own reconnection -------------------------------------------------------------------------------------


async def test_d6_gmqtt_does_not_reconnect_by_itself() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port)
        session._client._client.set_config({"reconnect_delay": 0})
        broker.peer.drop()
        await asyncio.wait_for(session.wait_closed(), 5)
        await asyncio.sleep(0.1)
        assert len(broker.connects) == 1
        await session.abort()


# --- D7: half-open ----------------------------------------------------------------------------------------------------


async def test_d7_a_peer_that_stops_reading_with_bytes_under_way_is_aborted() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, keepalive_s=1.0, window=1000, ack_s=30.0)
        broker.peer.stall()
        began_s = asyncio.get_running_loop().time()
        sent = [session.publish("a", bytes(1 << 20)) for _ in range(15)]
        assert session._transport.get_write_buffer_size() > mqtt.TRANSPORT_BYTES
        assert (await problem_of(sent[0])).code == "uplink-silent"
        assert asyncio.get_running_loop().time() - began_s < 3
        assert session._transport.is_closing()
        await session.abort()


async def test_d7_our_own_watchdog_does_not_wait_for_the_kernel() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, keepalive_s=20.0, window=1000, ack_s=0.2)
        broker.peer.stall()
        lost = session.publish("a", bytes(15 << 20))
        assert (await problem_of(lost)).code == "uplink-silent"
        await session.abort()
        assert session._client._client._connection._protocol._read_loop_future is None  # the transport let go


async def test_d7_closing_a_half_open_connection_takes_a_moment_only() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port)
        broker.peer.stall()
        lost = session.publish("a", bytes(8 << 20))
        await asyncio.wait_for(session.close(), 2)
        await problem_of(lost)


async def test_d7_an_idle_half_open_connection_is_noticed() -> None:
    async with ScriptedBroker(pings=False) as broker:
        session = await opened(broker.port, keepalive_s=1.0)
        await asyncio.wait_for(session.wait_closed(), 4)
        assert session.reason().code == "uplink-silent"
        assert broker.pings_seen >= 1
        await session.abort()


async def test_d7_the_kernel_gives_up_unsent_bytes_too() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, keepalive_s=4.0)
        sock = session._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6000
        await session.close()


async def test_a_puback_that_is_withheld_ends_the_session() -> None:
    async with ScriptedBroker(acks=False) as broker:
        session = await opened(broker.port, keepalive_s=1.0, ack_s=0.4)
        problem = await problem_of(session.publish("a", b"x"))
        assert (problem.code, "unacknowledged" in problem.message) == ("uplink-silent", True)
        await session.abort()


async def test_an_idle_connection_lives_by_pings() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, keepalive_s=1.0)
        await asyncio.sleep(0.9)
        assert broker.pings_seen >= 1  # gmqtt's own one comes after 1.0 to 1.3 keep-alives
        await asyncio.sleep(1.3)
        assert session.running
        await session.close()


async def test_the_brokers_own_keep_alive_counts() -> None:
    async with ScriptedBroker(server_keep_alive=60, pings=False) as broker:
        session = await opened(broker.port, keepalive_s=1.0)
        await asyncio.sleep(1.8)
        assert session.running  # 1.5 s of silence are no reason: the broker named 60 s
        await session.close()


# --- D8: connecting for ever ------------------------------------------------------------------------------------------


async def test_d8_a_broker_that_never_sends_connack_is_left() -> None:
    async with ScriptedBroker(connack_code=None) as broker:
        problem = await refusal(broker.port)
        assert (problem.code, "no answer to CONNECT" in problem.message) == ("uplink-down", True)


async def test_d8_a_broker_that_closes_without_an_answer_is_left_at_once() -> None:
    async with ScriptedBroker(connack_code=None) as broker:
        session = Session(settings(broker.port, connect_s=5.0))
        opening = asyncio.ensure_future(session.open())
        await broker.until(lambda: broker.connects)
        broker.peer.transport.close()
        assert "before answering" in (await problem_of(opening)).message


async def test_d8_cancelling_while_connecting_leaves_nothing() -> None:
    async with ScriptedBroker(connack_code=None) as broker:
        session = Session(settings(broker.port, connect_s=5.0))
        opening = asyncio.ensure_future(session.open())
        await broker.until(lambda: broker.connects)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await session.close()
        await broker.until(lambda: broker.peer.closed)


async def test_d8_connecting_may_be_cancelled_at_any_moment() -> None:
    """gmqtt raises in the loop, or leaves a task, where its connection is not put together yet."""
    loop, told = asyncio.get_running_loop(), list[typing.Any]()
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    async with ScriptedBroker(connack_code=None) as broker:
        for turns in range(30):
            session = Session(settings(broker.port, connect_s=5.0))
            opening = asyncio.ensure_future(session.open())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            await session.abort()
            await asyncio.sleep(0.005)
            assert not [task for task in asyncio.all_tasks() if "_read_loop" in repr(task)]
    gc.collect()
    assert told == []


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
async def test_d8_a_rejected_client_certificate_does_not_hang(tmp_path: Path, version: str) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("broker")
    lines = ("user root", f"cafile {authority.certificate}", f"certfile {certificate}", f"keyfile {key}",
             "require_certificate true", f"tls_version {version}")  # fmt: skip
    mosquitto = await asyncio.to_thread(Mosquitto(tmp_path, lines).start)
    without, foreign, expired = (ssl.create_default_context(cafile=str(authority.certificate)) for _ in range(3))
    foreign.load_cert_chain(*stranger.issue("impostor"))
    expired.load_cert_chain(*authority.issue("late", days=0))
    try:
        for context in (without, foreign, expired):
            problem = await refusal(mosquitto.port, tls=context, connect_s=5.0)
            assert problem.code == "uplink-tls"
            assert "alert" in problem.message or "without a word" in problem.message  # the alert may be lost by a reset
            assert "certificate" in problem.hint
    finally:
        await asyncio.to_thread(mosquitto.close)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_d8_a_certificate_that_is_rejected_without_a_word_does_not_hang(
    tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # in an asyncio server, which sends no alerts
    server.load_cert_chain(*authority.issue("broker"))
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = newest
    async with ScriptedBroker(tls=server) as broker:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        problem = await refusal(broker.port, tls=context, connect_s=5.0)
        assert (problem.code, "client certificate" in problem.hint) == ("uplink-tls", True)


async def test_a_server_that_never_answers_the_tls_handshake_is_left() -> None:
    deaf = socket.create_server(("127.0.0.1", 0))
    problem = await refusal(deaf.getsockname()[1], tls=ssl.create_default_context())
    assert (problem.code, "no answer" in problem.message) == ("uplink-down", True)
    deaf.close()


async def test_a_closed_port_and_an_unknown_name_are_told_in_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        problem = await refusal(unused.getsockname()[1])
    assert (problem.code, "refused" in problem.message) == ("uplink-down", True)
    session = Session(Settings(host="broker.invalid", port=1883, client_id="gw", connect_s=5.0))
    with pytest.raises(LinkProblem, match=r"uplink-down: broker\.invalid:1883"):
        await session.open()


@pytest.mark.parametrize(("version", "code"), [("5", 0x86), ("5", 0x87), ("3.1.1", 4), ("3.1.1", 5)])
async def test_refused_credentials_are_told(version: str, code: int) -> None:
    async with ScriptedBroker(connack_code=code) as broker:
        problem = await refusal(broker.port, version=version, username="u", password="wrong")
        assert problem.code == "uplink-refused"
        assert "user name or password" in problem.message or "not authorised" in problem.message


@pytest.mark.parametrize(("version", "code"), [("5", 0x89), ("5", 0x88), ("5", 0x9F), ("3.1.1", 3)])
async def test_a_busy_broker_is_not_a_wrong_password(version: str, code: int) -> None:
    async with ScriptedBroker(connack_code=code) as broker:
        assert (await refusal(broker.port, version=version)).code == "uplink-throttled"


async def test_a_broker_without_qos_1_is_refused_because_it_cannot_acknowledge() -> None:
    async with ScriptedBroker(max_qos=0) as broker:
        assert (await refusal(broker.port)).code == "uplink-refused"


async def test_a_broker_that_retains_nothing_is_not_asked_to() -> None:
    async with ScriptedBroker(retain_available=False) as broker:
        session = await opened(broker.port)
        await session.publish("status", b"online", retain=True)
        await session.close()
    assert not broker.published[0].retain


# --- D9, D10: what is under way is bounded ----------------------------------------------------------------------------


async def test_d9_bytes_in_flight_are_bounded() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, window=1000)
        broker.peer.stall()
        sent = []
        while not session.full:
            sent.append(session.publish("a", bytes(64 << 10)))
        assert sum(map(len, [bytes(64 << 10)] * len(sent))) <= mqtt.IN_FLIGHT_BYTES
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.room(), 0.05)
        await session.abort()
        for future in sent:
            await problem_of(future)


@pytest.mark.parametrize(("receive_maximum", "window"), [(1, 1), (2, 1), (3, 1), (4, 2), (20, 18), (None, 64)])
async def test_d10_the_receive_maximum_is_obeyed(receive_maximum: int | None, window: int) -> None:
    async with ScriptedBroker(receive_maximum=receive_maximum, ack_delay_s=0.01) as broker:
        session = await opened(broker.port)
        assert session.window == window
        granted = session.subscribe("cmd")
        sent = []
        for number in range(3 * window + 3):
            await session.room()
            sent.append(session.publish("a", str(number).encode()))
            if number % window == 0:  # an answer to a command does not wait for room
                sent.append(session.publish("answer", b"x"))
        assert set(await asyncio.gather(*sent)) == {0}
        await granted
        await session.close()
    assert broker.most_unacknowledged <= (receive_maximum or 65)
    assert [int(p.payload) for p in broker.records("a")] == list(range(3 * window + 3))


async def test_answers_beyond_the_receive_maximum_wait_in_a_bounded_queue() -> None:
    async with ScriptedBroker(receive_maximum=1, acks=False) as broker:
        session = await opened(broker.port, ack_s=30.0)
        sent = [session.publish("a", b"x") for _ in range(1 + mqtt.WAITING_MOST)]
        assert session.full
        assert (await problem_of(session.publish("a", b"x"))).code == "uplink-throttled"
        broker.acks = True
        await broker.until(lambda: broker.published)
        broker.peer.acknowledge(broker.published[0].mid)
        assert set(await asyncio.gather(*sent)) == {0}
        await session.close()
    assert broker.most_unacknowledged == 1


async def test_a_packet_that_the_broker_does_not_take_is_not_sent() -> None:
    async with ScriptedBroker(maximum_packet_size=200) as broker:
        session = await opened(broker.port)
        assert session.maximum_packet_bytes == 200
        properties: dict[str, typing.Any] = {"content_type": "application/json", "user_property": [("gateway", "gw")]}
        room = 200 - packet_bytes("topic", 0, properties)
        assert await session.publish("topic", bytes(room), **properties) == 0
        with pytest.raises(Rejected, match="0x95"):
            await session.publish("topic", bytes(room + 1), **properties)
        assert session.running
        await session.close()
    assert broker.published[0].packet_bytes <= 200
    assert broker.published[0].packet_bytes >= 190  # the estimate wastes a few bytes only


# --- D11: version 5 is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 0x84])
async def test_d11_a_broker_without_version_5_is_told_apart(code: int) -> None:
    async with ScriptedBroker(refuse_v5=code) as broker:
        problem = await refusal(broker.port, connect_s=5.0)
        assert isinstance(problem, WrongVersion)
        assert problem.advice == "older-version"
        session = await opened(broker.port, version="3.1.1")
        assert await session.publish("a", b"x") == 0
        await session.close()


async def test_a_broker_that_refuses_3_1_1_too_is_simply_refusing() -> None:
    async with ScriptedBroker(connack_code=1) as broker:
        problem = await refusal(broker.port, version="3.1.1")
        assert not isinstance(problem, WrongVersion)
        assert problem.code == "uplink-refused"


# --- why a connection ended -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code", "advice"),
    [
        (0x8E, "uplink-clash", "longer-pause"),
        (0x93, "uplink-throttled", "smaller-window"),
        (0x95, "uplink-throttled", "smaller-messages"),
        (0x97, "uplink-throttled", ""),
        (0x87, "uplink-refused", ""),
        (0x8B, "uplink-down", ""),
        (0xAF, "uplink-down", ""),
    ],
)
async def test_the_reason_of_a_disconnect_is_kept(reason: int, code: str, advice: str) -> None:
    async with ScriptedBroker(acks=False) as broker:
        session = await opened(broker.port)
        sent = session.publish("a", b"x")
        await broker.until(lambda: broker.published)
        broker.peer.disconnect(reason)
        problem = await problem_of(sent)
        assert (problem.code, problem.advice) == (code, advice)
        assert session.reason() is problem
        await session.abort()


async def test_a_broker_that_half_closes_is_left() -> None:
    async with ScriptedBroker(acks=False) as broker:
        session = await opened(broker.port)
        lost = session.publish("a", b"x")
        await broker.until(lambda: broker.published)
        broker.peer.transport.write_eof()
        assert (await problem_of(lost)).code == "uplink-down"
        await session.abort()


# --- goodbye ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_the_will_is_sent_when_the_session_dies_and_not_when_it_closes(broker: Mosquitto, version: str) -> None:
    listener = await asyncio.to_thread(Listener, broker.port, "will/#")
    try:
        for topic in ("will/closed", "will/aborted"):
            session = await opened(
                broker.port, client_id=topic, version=version, will_topic=topic, will_payload=b"offline", connect_s=5.0
            )
            assert await session.publish(topic, b"online") == 0
            await (session.close() if topic == "will/closed" else session.abort())
        await until(lambda: ("will/aborted", b"offline") in listener.payloads)
        assert listener.payloads == [
            ("will/closed", b"online"),
            ("will/aborted", b"online"),
            ("will/aborted", b"offline"),
        ]
    finally:
        await asyncio.to_thread(listener.close)


async def test_a_goodbye_goes_behind_what_was_published_before() -> None:
    async with ScriptedBroker() as broker:
        session = await opened(broker.port, close_s=5.0)
        sent = session.publish("a", bytes(8 << 20))  # more than the kernel buffers
        await session.close()
        assert broker.goodbyes == [0]
        assert sent.done()
    assert len(broker.published[0].payload) == 8 << 20


# --- private names ----------------------------------------------------------------------------------------------------

# Where the private names stand that fluxedge/mqtt_client.py uses.
PRIVATE = {
    "client": {"_client", "_package_handler", "_connection", "_is_active", "_connack_received",
               "_wait_qos_queue_drained", "_create_connection", "_connection_state"},
    "handler": {"_handle_packet", "_handle_connack_packet", "_handler_cache", "_connack_properties"},
    "ids": {"_max", "_last_used_id"},
    "connection": {"_transport", "_protocol", "_keepalive", "_keep_connection_callback", "_send_ping_request"},
    "protocol": {"_hard_reader", "_connection"},
    "error": {"_code"},
}  # fmt: skip
INHERITED = {"_connection", "_transport", "_read_loop_future"}  # by its own protocol


def private_names() -> Iterator[str]:
    """Yield every private attribute of something else than self (and of self._client) in fluxedge/mqtt_client.py."""
    for node in ast.walk(ast.parse(inspect.getsource(mqtt_client))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                continue
            yield node.attr


def test_every_private_name_in_use_is_watched() -> None:
    watched = set().union(*PRIVATE.values()) - {"_client"}
    assert set(private_names()) == watched


async def test_no_private_name_of_gmqtt_has_moved() -> None:
    assert importlib.metadata.version("gmqtt") == "0.8.0"
    assert isinstance(MQTTConnectError(5)._code, int)
    async with ScriptedBroker() as broker:
        client = gmqtt.Client("x", clean_session=True)
        handler = client._package_handler
        places: dict[str, typing.Any] = {"client": client, "handler": handler, "ids": handler.id_generator}
        await client.connect("127.0.0.1", broker.port)
        places |= {"connection": client._connection, "protocol": client._connection._protocol}
        for place, found in places.items():
            for name in PRIVATE[place] - {"_client"}:
                assert hasattr(found, name), f"{place}.{name}"
        assert all(hasattr(client._connection._protocol, name) for name in INHERITED)
        assert inspect.iscoroutinefunction(client._wait_qos_queue_drained)
        assert isinstance(client._connection._protocol._hard_reader, asyncio.StreamReader)
        assert isinstance(client._connection._protocol._read_loop_future, asyncio.Future)
        assert set(handler._handler_cache) == {0x20}  # packet type -> handler
        assert handler.id_generator._max == 65535
        client.set_config({"reconnect_retries": -2})
        await client.disconnect()
        await asyncio.sleep(0.01)


# --- uvloop -----------------------------------------------------------------------------------------------------------


async def nothing_left(promise: Callable[[], Coroutine[typing.Any, typing.Any, None]]) -> None:
    await promise()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


PROMISES = [f for f in list(globals().values()) if inspect.iscoroutinefunction(f) and f.__name__.startswith("test_")]


@pytest.mark.parametrize(
    "promise", [f for f in PROMISES if not inspect.signature(f).parameters], ids=lambda promise: promise.__name__[5:]
)
def test_the_same_holds_on_uvloop(promise: Callable[[], Coroutine[typing.Any, typing.Any, None]]) -> None:
    """The daemon runs on uvloop, whose transports are not asyncio's."""
    uvloop.run(nothing_left(promise))
