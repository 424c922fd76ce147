"""MQTT session over gmqtt: one fresh client per connection attempt, none of its reliability used.

gmqtt is a fast transport whose own store, reconnection and acknowledgements lose messages. So here: a client is made
for one attempt and thrown away; nothing is stored or resumed in it; PUBACKs are taken at its packet handler, with their
reason code; the window, the bytes in flight, the watchdog and the end of a sick connection are ours.

    CONNECTING (connect_s) -> RUNNING -> closed for ever

A session starts no task of its own, and none of gmqtt's survives `close` or `abort`. These are private names of gmqtt
0.8.0, which is pinned; tests/fluxedge/test_mqtt.py fails when one of them moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import typing
from collections import deque
from collections.abc import Callable

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.storage import PersistentStorage

from fluxedge import mqtt_terms as terms
from fluxedge.mqtt_terms import Incoming, Rejected, Settings, WrongVersion, packet_bytes
from fluxedge.problems import LinkProblem

__all__ = ["Incoming", "Rejected", "Session", "Settings", "WrongVersion", "packet_bytes"]

IN_FLIGHT_BYTES = 1 << 20
TRANSPORT_BYTES = 256 << 10
INBOUND_PACKET_BYTES = 256 << 10  # commands are small; gmqtt would collect a packet of 256 MiB in memory
WAITING_MOST = 64  # answers and status that wait for the broker's receive maximum; records wait in the log
NO_SUBSCRIBERS = 0x10  # MQTT 5, 3.4.2.1
_ALL_IDS = 65536  # gmqtt's allocator gives out 1 .. 65535

_SILENT = logging.getLogger("fluxedge.gmqtt")
_SILENT.setLevel(logging.CRITICAL + 1)  # it logs an ERROR at each loss that we asked for; problems are told by us
logging.getLogger("gmqtt").setLevel(logging.CRITICAL + 1)


class _NoStore(PersistentStorage):  # type: ignore[misc]  # gmqtt has no types
    """The log is the only store: gmqtt keeps nothing."""

    def push_message(self, mid: int, raw_package: bytes) -> None:
        pass


class _Sent(typing.NamedTuple):
    acknowledged: asyncio.Future[int]
    payload_bytes: int
    at_s: float


class _Outgoing(typing.NamedTuple):
    topic: str
    payload: bytes
    retain: bool
    properties: dict[str, typing.Any]
    acknowledged: asyncio.Future[int]


class Session:
    """One connection: open it, publish, and throw it away when it closed."""

    def __init__(self, settings: Settings, on_message: Callable[[Incoming], None] | None = None) -> None:
        self._settings = settings
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._dead = asyncio.Event()
        self._reason: LinkProblem | None = None
        self._acks: dict[int, _Sent] = {}  # packet id -> what was sent, oldest first
        self._waiting: deque[_Outgoing] = deque()
        self._subscribing: dict[int, asyncio.Future[None]] = {}  # packet id -> SUBACK
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._client: typing.Any = None
        self._transport: typing.Any = None  # set while RUNNING
        self._reading: asyncio.Future[None] | None = None  # gmqtt's task
        self._receive_maximum = 1
        self._retain = True
        self._heard_s = self._pinged_s = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self.window = 1
        self.maximum_packet_bytes = 0  # 0 = the broker names no limit

    # --- connecting ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect within `connect_s`.

        Raises:
            WrongVersion: try again with 3.1.1.
            LinkProblem: "uplink-down", "uplink-refused", "uplink-throttled" or "uplink-tls", with what is in the way.
        """
        settings = self._settings
        self._client = client = self._make_client()
        self._schedule_watch()
        try:
            async with asyncio.timeout(settings.connect_s):
                await client.connect(
                    settings.host,
                    settings.port,
                    ssl=settings.tls or False,
                    keepalive=round(settings.keepalive_s),
                    version=MQTTv50 if settings.version == "5" else MQTTv311,
                )
            if self._dead.is_set():
                raise self.reason()
            self._begin(client)
        except MQTTConnectError as exc:
            raise terms.refused(settings.where, exc._code) from exc
        except ssl.SSLError as exc:
            raise terms.tls_failed(settings.where, exc) from exc
        except OSError as exc:
            if isinstance(exc, TimeoutError) and exc.errno is None:  # ours; the system's has a number
                text = f"no answer to CONNECT within {settings.connect_s:g} s"
                raise self._problem(
                    "uplink-down", text, "Is it an MQTT broker, and does a firewall let it through?"
                ) from exc
            if isinstance(exc, ConnectionResetError | ConnectionAbortedError):
                raise terms.hung_up(settings.where, tls=settings.tls is not None) from exc
            raise terms.unreachable(settings.where, exc) from exc
        finally:
            if self._transport is None:
                await self.abort()

    def _make_client(self) -> typing.Any:
        settings = self._settings
        will = None
        if settings.will_topic:
            will = gmqtt.Message(settings.will_topic, settings.will_payload, qos=1, retain=True)
        limits = {"maximum_packet_size": INBOUND_PACKET_BYTES} if settings.version == "5" else {}
        client = gmqtt.Client(
            settings.client_id.encode(),  # its length field counts characters of a str, not bytes
            clean_session=True,
            persistent_storage=_NoStore(),
            will_message=will,
            logger=_SILENT,
            **limits,
        )
        client.set_config({"reconnect_retries": -2})  # 0 still reconnects once, -1 means unlimited
        client._wait_qos_queue_drained = _nothing_waits  # it starts two tasks for a store that is always empty
        if settings.username or settings.password:
            client.set_auth_credentials(settings.username, settings.password or None)
        client.on_message = self._received
        client.on_subscribe = self._subscribed
        self._hook(client._package_handler)
        return client

    def _hook(self, handler: typing.Any) -> None:
        """Take every packet, PUBACK, CONNACK and DISCONNECT at gmqtt's packet handler, before connecting."""
        handle, take_connack = handler._handle_packet, handler._handle_connack_packet
        free_id = handler.id_generator.free_id

        def packet(cmd: int, data: bytes) -> None:
            self._heard_s = self._loop.time()
            handle(cmd, data)

        def puback(_cmd: int, data: bytes) -> None:
            mid = int.from_bytes(data[:2], "big")
            free_id(mid)
            self._settle(mid, data[2] if len(data) > 2 else 0)

        def connack(cmd: int, data: bytes) -> None:
            if data[1:2] and data[1] in terms.WRONG_VERSION and self._settings.version == "5":
                # gmqtt would downgrade by its own reconnection, which is off, and then wait for ever
                self._died(WrongVersion(self._settings.where))
                return
            take_connack(cmd, data)

        def disconnect(_cmd: int, data: bytes) -> None:
            # A lost socket arrives here too, as an empty packet. gmqtt's own handler only starts a reconnection.
            self._died(terms.ended(self._settings.where, data[0]) if data and data[0] else self._lost())

        handler._handle_packet = packet
        handler._handler_cache.update({0x40: puback, 0x20: connack, 0xE0: disconnect})

    def _begin(self, client: typing.Any) -> None:
        """Take the broker's limits over; from here on the session runs.

        Raises:
            LinkProblem: "uplink-refused": the broker cannot acknowledge.
        """
        settings, handler, connection = self._settings, client._package_handler, client._connection
        limits = handler._connack_properties
        if (limits.get("max_qos") or [1])[0] == 0:
            raise self._problem("uplink-refused", "the broker takes QoS 0 only, which it never acknowledges", "")
        self._receive_maximum = (limits.get("receive_maximum") or [65535])[0] or 1
        # Two places are left for status and answers to commands, where the broker has them.
        self.window = max(1, min(settings.window, self._receive_maximum - 2))
        self.maximum_packet_bytes = (limits.get("maximum_packet_size") or [0])[0]
        self._retain = (limits.get("retain_available") or [1])[0] != 0
        # gmqtt takes receive_maximum for a bound of ids, of which SUBSCRIBE needs one too: with 2 it would have none.
        handler.id_generator._max = _ALL_IDS
        self._transport = connection._transport
        self._set_user_timeout()

    def _set_user_timeout(self) -> None:
        """Let the kernel give a half-open connection up: with unsent bytes gmqtt's close() waits for ever."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1500 * self._keepalive_s))

    @property
    def _keepalive_s(self) -> float:
        """Return the keep-alive in force: the broker may have named another."""
        connection = self._client._connection
        return float(connection._keepalive) if connection is not None else self._settings.keepalive_s

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Tell whether messages can be published."""
        return self._transport is not None and not self._dead.is_set()

    @property
    def full(self) -> bool:
        """Tell whether the window, the bytes in flight or the transport's buffer are exhausted."""
        return (
            len(self._acks) >= self.window
            or bool(self._waiting)
            or self._in_flight_bytes >= IN_FLIGHT_BYTES
            or self._transport.get_write_buffer_size() >= TRANSPORT_BYTES
        )

    async def room(self) -> None:
        """Wait until a message may be published.

        Raises:
            LinkProblem: the connection closed.
        """
        while self.running and self.full:
            self._room.clear()
            await self._room.wait()
        if not self.running:
            raise self.reason()

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, **properties: typing.Any
    ) -> asyncio.Future[int]:
        """Send with QoS 1; the future gives the PUBACK's reason code (below 0x80).

        Never more than the broker's receive maximum is unacknowledged: who publishes without waiting for `room` waits
        in a queue of 64, then is refused.

        Raises (through the future): Rejected, or LinkProblem when the connection closes first or the queue is full.
        """
        acknowledged: asyncio.Future[int] = self._loop.create_future()
        if self._settings.version != "5":
            properties = {}
        outgoing = _Outgoing(topic, payload, retain and self._retain, properties, acknowledged)
        if not self.running:
            acknowledged.set_exception(self.reason())
        elif 0 < self.maximum_packet_bytes < packet_bytes(topic, len(payload), properties):
            acknowledged.set_exception(Rejected(terms.PACKET_TOO_LARGE))
        elif len(self._acks) < self._receive_maximum and not self._waiting:
            self._transmit(outgoing)
        elif len(self._waiting) < WAITING_MOST:
            self._waiting.append(outgoing)
        else:
            text = f"{WAITING_MOST} answers wait for acknowledgements; this one is dropped"
            acknowledged.set_exception(self._problem("uplink-throttled", text, ""))
        return acknowledged

    def _transmit(self, outgoing: _Outgoing) -> None:
        topic, payload, retain, properties, acknowledged = outgoing
        self._client.publish(topic, payload, qos=1, retain=retain, **properties)
        # publish() is synchronous and returns nothing; the id it took is the allocator's last one.
        mid = self._client._package_handler.id_generator._last_used_id
        self._acks[mid] = _Sent(acknowledged, len(payload), self._loop.time())
        self._in_flight_bytes += len(payload)

    def subscribe(self, topic: str) -> asyncio.Future[None]:
        """Subscribe with QoS 1; messages come to `on_message`. Done at the SUBACK.

        Raises (through the future): Rejected, or LinkProblem when the connection closes first.
        """
        granted: asyncio.Future[None] = self._loop.create_future()
        if not self.running:
            granted.set_exception(self.reason())
            return granted
        # Neither what we publish ourselves nor what is retained (MQTT 5, 3.8.3.1; 3.1.1 has no such options).
        options = {"no_local": True, "retain_handling_options": 2} if self._settings.version == "5" else {}
        mid = self._client.subscribe(gmqtt.Subscription(topic, qos=1, **options))
        self._subscribing[mid] = granted
        return granted

    async def wait_closed(self) -> None:
        """Return when the connection is gone; see `reason`."""
        await self._dead.wait()

    def reason(self) -> LinkProblem:
        """Return why the connection is gone."""
        return self._reason or self._problem("uplink-down", "the connection was closed", "")

    async def close(self) -> None:
        """Send DISCONNECT, which suppresses the will, and wait a moment for the broker to hang up.

        Hanging up ourselves at once could reset the connection while the DISCONNECT is on its way.
        """
        if self.running:
            self._client._connection.send_disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.close_s):
                    await self._dead.wait()
        await self.abort()

    async def abort(self) -> None:
        """Drop the connection without a word: the broker sends the will. Returns when gmqtt's task has ended."""
        self._died(None)
        self._kill()
        if self._reading is not None and not self._reading.done():
            await asyncio.wait([self._reading], timeout=1.0)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _received(
        self, _client: object, topic: str, payload: bytes, _qos: int, properties: dict[str, typing.Any]
    ) -> None:
        if self._on_message is not None and isinstance(topic, str):
            incoming = Incoming(topic, bytes(payload), bool(properties.get("retain")), properties)
            self._loop.call_soon(self._on_message, incoming)  # gmqtt would swallow what it raises

    def _subscribed(self, _client: object, mid: int, granted_qos: tuple[int, ...], _properties: object) -> None:
        granted = self._subscribing.pop(mid, None)
        if granted is None or granted.done():
            return
        worst = max(granted_qos, default=0)
        if worst >= 0x80:
            granted.set_exception(Rejected(worst))
        else:
            granted.set_result(None)

    def _settle(self, mid: int, code: int) -> None:
        sent = self._acks.pop(mid, None)
        if sent is None:
            return
        self._in_flight_bytes -= sent.payload_bytes
        if not sent.acknowledged.done():
            if code >= 0x80:
                sent.acknowledged.set_exception(Rejected(code))
            else:
                sent.acknowledged.set_result(code)
        while self._waiting and self.running and len(self._acks) < self._receive_maximum:
            self._transmit(self._waiting.popleft())
        self._room.set()

    def _schedule_watch(self) -> None:
        if not self._dead.is_set():
            self._watch = self._loop.call_later(min(1.0, self._settings.keepalive_s / 4), self._look)

    def _look(self) -> None:
        """Abort a connection that is silent: gmqtt would not notice for minutes."""
        now_s, connection, keepalive_s = self._loop.time(), self._client._connection, self._keepalive_s
        silent_s = now_s - self._heard_s
        unacknowledged_s = now_s - next(iter(self._acks.values())).at_s if self._acks else 0.0
        if connection is not None and connection.is_closing():
            self._died(self._lost())  # gmqtt began to close, which may take for ever
        elif self._transport is not None and silent_s > 1.5 * keepalive_s:
            self._died(self._problem("uplink-silent", f"nothing heard for {silent_s:.3g} s", ""))
        elif unacknowledged_s > self._settings.ack_s:
            text = f"a message is unacknowledged for {unacknowledged_s:.3g} s"
            self._died(self._problem("uplink-silent", text, ""))
        else:
            if self._transport is not None and now_s - max(self._heard_s, self._pinged_s) > keepalive_s / 2:
                self._pinged_s = now_s  # gmqtt pings as late as after 1.3 keep-alives
                connection._send_ping_request()
            self._room.set()  # the transport's buffer may have drained
        self._schedule_watch()

    def _lost(self) -> LinkProblem:
        """Say why the socket closed, as far as the transport told."""
        error = self._client._connection._protocol._hard_reader.exception()
        if isinstance(error, ssl.SSLError):
            return terms.tls_failed(self._settings.where, error)
        if self._transport is None:
            return terms.hung_up(self._settings.where, tls=self._settings.tls is not None)
        if isinstance(error, OSError):
            return terms.unreachable(self._settings.where, error)
        return self._problem("uplink-down", "the broker closed the connection", "")

    def _died(self, reason: LinkProblem | None) -> None:
        if self._dead.is_set():
            return
        self._reason = reason
        self._dead.set()
        if self._watch is not None:
            self._watch.cancel()
        pending: list[asyncio.Future[typing.Any]] = [sent.acknowledged for sent in self._acks.values()]
        pending += [outgoing.acknowledged for outgoing in self._waiting]
        pending += self._subscribing.values()
        for future in pending:
            if not future.done():
                future.set_exception(self.reason())
        self._acks.clear()
        self._waiting.clear()
        self._subscribing.clear()
        self._in_flight_bytes = 0
        self._room.set()
        self._kill()

    def _kill(self) -> None:
        """Kill the connection: never close() or disconnect() on a sick one, they wait for ever."""
        client = self._client
        if client is None:
            return
        client._is_active = False
        client._connack_received.set()  # connect() waits for nothing else
        connection = client._connection
        if connection is not None:
            if connection._keep_connection_callback:
                connection._keep_connection_callback.cancel()
            self._reading = connection._protocol._read_loop_future or self._reading
            connection._transport.abort()

    def _problem(self, code: str, message: str, hint: str) -> LinkProblem:
        return LinkProblem(code, f"{self._settings.where}: {message}", hint)


async def _nothing_waits() -> None:
    return
