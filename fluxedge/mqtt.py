"""MQTT session over gmqtt: one fresh client per connection attempt, none of its reliability used.

gmqtt is a fast transport whose own store, reconnection and acknowledgements lose messages. So here: a client is made
for one attempt and thrown away; nothing is stored or resumed in it; PUBACKs are taken at its packet handler, with their
reason code; the window, the bytes in flight, the watchdog and the end of a sick connection are ours.

    CONNECTING (10 s) -> RUNNING -> closed for ever

These are private names of gmqtt 0.8.0, which is pinned; tests/fluxedge/test_mqtt.py fails when one of them moves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.storage import PersistentStorage

from fluxedge.problems import LinkProblem

CONNECT_S = 10.0
ACK_S = 30.0  # the oldest unacknowledged message may be this old
IN_FLIGHT_BYTES = 1 << 20
TRANSPORT_BYTES = 256 << 10
_SILENT = logging.getLogger("fluxedge.gmqtt")
_SILENT.setLevel(logging.CRITICAL + 1)  # it logs an ERROR at each loss that we asked for; problems are told by us
logging.getLogger("gmqtt").setLevel(logging.CRITICAL + 1)

PUBACK, DISCONNECT, ANY_INBOUND = 0x40, 0xE0, "*"

# MQTT 5, 3.2.2.2 and MQTT 3.1.1, 3.2.2.3
_REFUSED = {
    1: "the broker does not speak this MQTT version", 2: "client identifier rejected", 3: "server unavailable",
    4: "bad user name or password", 5: "not authorised",
    0x80: "unspecified error", 0x84: "the broker does not speak this MQTT version", 0x85: "client identifier not valid",
    0x86: "bad user name or password", 0x87: "not authorised", 0x88: "server unavailable", 0x89: "server busy",
    0x8A: "banned", 0x97: "quota exceeded", 0x9C: "use another server", 0x9D: "server moved",
    0x9F: "connection rate exceeded",
}  # fmt: skip
_WRONG_VERSION = (1, 0x84)

# MQTT 5, 3.14.2.1
_DISCONNECTED = {
    0x8B: "server shutting down", 0x8D: "keep-alive time-out", 0x8E: "another client took this client identifier",
    0x93: "receive maximum exceeded", 0x95: "packet too large", 0x97: "quota exceeded", 0x98: "administrative action",
    0x87: "not authorised", 0x89: "server busy",
}  # fmt: skip


class WrongVersion(LinkProblem):
    """The broker does not speak MQTT 5; the next attempt is made with 3.1.1."""


class Rejected(Exception):
    """A PUBACK with a reason code >= 0x80 (MQTT 5, 3.4.2.1)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"PUBACK 0x{code:02X}")
        self.code = code


class _NoStore(PersistentStorage):  # type: ignore[misc]  # gmqtt has no types
    """The log is the only store: gmqtt keeps nothing."""

    def push_message(self, mid: int, raw_package: bytes) -> None:
        pass

    def remove_message_by_mid(self, mid: int) -> None:
        pass

    @property
    def is_empty(self) -> bool:
        return True

    async def wait_empty(self) -> None:
        return

    def clear(self) -> None:
        pass

    def get_all(self) -> list[typing.Any]:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and how to connect."""

    host: str
    port: int
    client_id: str
    keepalive_s: float = 30.0
    window: int = 64
    version: str = "5"
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    will_topic: str = ""
    will_payload: bytes = b""


class Incoming(typing.NamedTuple):
    """A message that came down."""

    topic: str
    payload: bytes
    properties: dict[str, typing.Any]


class Session:
    """One connection: open it, publish, and throw it away when it closed."""

    def __init__(self, settings: Settings, on_message: Callable[[Incoming], None] | None = None) -> None:
        self._settings = settings
        self._on_message = on_message
        self._dead = asyncio.Event()
        self._reason: LinkProblem | None = None
        self._acks: dict[int, tuple[asyncio.Future[int], int, float]] = {}  # mid -> (future, bytes, sent at)
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._client: typing.Any = None
        self._transport: typing.Any = None
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.window = 1
        self.maximum_packet_bytes = 0  # 0 = the broker names no limit
        self.no_subscribers_total = 0

    async def open(self) -> None:
        """Connect within 10 s.

        Raises:
            WrongVersion: try again with 3.1.1.
            LinkProblem: "uplink-down", "uplink-refused" or "uplink-tls", with what is in the way.
        """
        settings = self._settings
        will = (
            gmqtt.Message(settings.will_topic, settings.will_payload, qos=1, retain=True)
            if settings.will_topic
            else None
        )
        client = gmqtt.Client(
            settings.client_id, clean_session=True, persistent_storage=_NoStore(), will_message=will, logger=_SILENT
        )
        client.set_config({"reconnect_retries": -2})  # 0 still reconnects once, -1 means unlimited
        if settings.username:
            client.set_auth_credentials(settings.username, settings.password)
        client.on_disconnect = lambda *_: self._died(None)
        client.on_message = self._received
        handler = client._package_handler
        self._hook(handler)
        self._client = client
        version = MQTTv50 if settings.version == "5" else MQTTv311
        connecting = asyncio.ensure_future(
            client.connect(
                settings.host,
                settings.port,
                ssl=settings.tls or False,
                keepalive=round(settings.keepalive_s),
                version=version,
            )
        )
        await self._race(connecting)
        self._transport = client._connection._transport
        self._set_user_timeout()
        limits = handler._connack_properties
        receive_maximum = (limits.get("receive_maximum") or [65535])[0]
        # gmqtt's allocator holds receive_maximum - 1 ids, and a SUBSCRIBE takes one of them.
        self.window = max(1, min(settings.window, receive_maximum - 2))
        self.maximum_packet_bytes = (limits.get("maximum_packet_size") or [0])[0]
        self._heard_s = asyncio.get_running_loop().time()
        self._schedule_watch()

    async def _race(self, connecting: asyncio.Future[None]) -> None:
        """Wait for the connection, its refusal, its loss or the time-out, whichever is first."""
        dying = asyncio.ensure_future(self._dead.wait())
        try:
            both: set[asyncio.Future[typing.Any]] = {connecting, dying}
            await asyncio.wait(both, timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
                return
            raise self._lost_while_connecting()
        except MQTTConnectError as exc:
            raise self._refusal(exc._code) from exc
        except ssl.SSLError as exc:
            raise self._problem("uplink-tls", f"TLS: {exc.reason or exc}", _tls_hint(exc)) from exc
        except OSError as exc:
            raise self._problem(
                "uplink-down", exc.strerror or str(exc), "Is the broker running and the address right?"
            ) from exc
        finally:
            for waiting in (connecting, dying):
                waiting.cancel()
            await asyncio.gather(connecting, dying, return_exceptions=True)
            if not connecting.done() or connecting.cancelled() or connecting.exception() is not None:
                self._abort()

    def _lost_while_connecting(self) -> LinkProblem:
        refused = self._client._package_handler._connack_code
        if refused in _WRONG_VERSION:
            return WrongVersion("uplink-refused", f"{self._where()}: the broker does not speak MQTT 5")
        if self._dead.is_set():
            hint = "Does the broker expect TLS, or a client certificate?"
            return self._problem("uplink-down", "the broker closed the connection before answering", hint)
        return self._problem("uplink-down", f"no answer to CONNECT within {CONNECT_S:g} s", "Is this an MQTT broker?")

    def _refusal(self, code: int) -> LinkProblem:
        if code in _WRONG_VERSION:
            return WrongVersion("uplink-refused", f"{self._where()}: the broker does not speak MQTT 5")
        return self._problem(
            "uplink-refused",
            _REFUSED.get(code, f"code 0x{code:02X}"),
            "Check username, password and the broker's access list.",
        )

    def _hook(self, handler: typing.Any) -> None:
        """Take PUBACK, CONNACK and DISCONNECT at gmqtt's packet handler, before connecting."""
        on_puback, on_connack, on_disconnect = (
            handler._handle_puback_packet, handler._handle_connack_packet, handler._handle_disconnect_packet,
        )  # fmt: skip
        handler._connack_code = 0
        original = handler._handle_packet

        def packet(cmd: int, data: bytes) -> None:
            self._heard_s = asyncio.get_running_loop().time()
            original(cmd, data)

        def puback(cmd: int, data: bytes) -> None:
            on_puback(cmd, data)  # frees the id
            self._settle(int.from_bytes(data[:2], "big"), data[2] if len(data) > 2 else 0)

        def connack(cmd: int, data: bytes) -> None:
            handler._connack_code = data[1] if len(data) > 1 else 0
            if handler._connack_code in _WRONG_VERSION:
                self._died(None)  # gmqtt would downgrade by its own reconnection, which is off: it would wait for ever
                return
            on_connack(cmd, data)

        def disconnect(cmd: int, data: bytes) -> None:
            # A lost socket arrives here too, as an empty packet.
            if data and data[0]:
                reason = _DISCONNECTED.get(data[0], f"code 0x{data[0]:02X}")
                self._died(self._problem("uplink-down", f"the broker ended the connection: {reason}", ""))
            on_disconnect(cmd, data)

        handler._handle_packet = packet
        handler._handler_cache.update({0x40: puback, 0x20: connack, 0xE0: disconnect})

    def _set_user_timeout(self) -> None:
        """Let the kernel give a half-open connection up: with unsent bytes gmqtt's close() waits for ever."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1500 * self._settings.keepalive_s))

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
        """Send with QoS 1; the future gives the PUBACK's reason code (0x00 or 0x10).

        Raises (through the future): Rejected, or LinkProblem when the connection closes first.
        """
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[int] = loop.create_future()
        if not self.running:
            acknowledged.set_exception(self.reason())
            return acknowledged
        if self._settings.version != "5":
            properties = {}
        try:
            self._client.publish(topic, payload, qos=1, retain=retain, **properties)
        except OverflowError:  # no packet id left: the broker acknowledges nothing
            self._died(self._problem("uplink-silent", "no packet id is left", ""))
            acknowledged.set_exception(self.reason())
            return acknowledged
        # publish() is synchronous and returns nothing; the id it took is the allocator's last one.
        mid = self._client._package_handler.id_generator._last_used_id
        self._acks[mid] = (acknowledged, len(payload), loop.time())
        self._in_flight_bytes += len(payload)
        return acknowledged

    def publish_unacknowledged(self, topic: str, payload: bytes, **properties: typing.Any) -> None:
        """Send with QoS 0."""
        if self.running:
            self._client.publish(topic, payload, qos=0, **(properties if self._settings.version == "5" else {}))

    def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 1; messages come to `on_message`."""
        self._client.subscribe(gmqtt.Subscription(topic, qos=1))

    async def wait_closed(self) -> None:
        """Return when the connection is gone; see `reason`."""
        await self._dead.wait()

    def reason(self) -> LinkProblem:
        """Return why the connection is gone."""
        return self._reason or self._problem("uplink-down", "the connection was lost", "")

    async def close(self) -> None:
        """Send DISCONNECT (which suppresses the will) and drop the connection at once."""
        if self.running:
            self._client._connection.send_disconnect()
            await asyncio.sleep(0)
            for _ in range(100):  # a second for the goodbye to leave; the transport tells nobody when it drained
                if not self._transport.get_write_buffer_size():
                    break
                await asyncio.sleep(0.01)
        self._died(None)
        self._abort()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _received(
        self, _client: object, topic: str, payload: bytes, _qos: int, properties: dict[str, typing.Any]
    ) -> int:
        if self._on_message is not None:
            self._on_message(Incoming(topic, bytes(payload), properties))
        return 0

    def _settle(self, mid: int, code: int) -> None:
        entry = self._acks.pop(mid, None)
        if entry is None:
            return
        acknowledged, size, _ = entry
        self._in_flight_bytes -= size
        if code == 0x10:
            self.no_subscribers_total += 1
        if not acknowledged.done():
            if code >= 0x80:
                acknowledged.set_exception(Rejected(code))
            else:
                acknowledged.set_result(code)
        self._room.set()

    def _schedule_watch(self) -> None:
        if not self._dead.is_set():
            self._watch = asyncio.get_running_loop().call_later(min(1.0, self._settings.keepalive_s / 4), self._look)

    def _look(self) -> None:
        """Abort a connection that is silent: gmqtt would not notice for minutes."""
        now_s = asyncio.get_running_loop().time()
        oldest_s = next(iter(self._acks.values()))[2] if self._acks else now_s
        if now_s - self._heard_s > 1.5 * self._settings.keepalive_s:
            self._died(self._problem("uplink-silent", f"nothing heard for {now_s - self._heard_s:.0f} s", ""))
        elif now_s - oldest_s > ACK_S:
            self._died(self._problem("uplink-silent", f"a message is unacknowledged for {now_s - oldest_s:.0f} s", ""))
        else:
            self._room.set()  # the transport's buffer may have drained
        self._schedule_watch()

    def _died(self, reason: LinkProblem | None) -> None:
        if self._reason is None and reason is not None:
            self._reason = reason
        if self._dead.is_set():
            return
        self._dead.set()
        if self._watch is not None:
            self._watch.cancel()
        for acknowledged, _, _ in self._acks.values():
            if not acknowledged.done():
                acknowledged.set_exception(self.reason())
        self._acks.clear()
        self._in_flight_bytes = 0
        self._room.set()
        self._abort()

    def _abort(self) -> None:
        """Kill the connection: never close() or disconnect() on a sick one, they wait for ever."""
        client = self._client
        if client is None:
            return
        client._is_active = False
        connection = client._connection
        if connection is not None:
            if connection._keep_connection_callback:
                connection._keep_connection_callback.cancel()
            connection._transport.abort()

    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    def _problem(self, code: str, message: str, hint: str) -> LinkProblem:
        return LinkProblem(code, f"{self._where()}: {message}", hint)


def _tls_hint(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}. Does tls.ca name the authority that signed the broker's certificate?"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "The broker does not speak TLS on this port; use mqtt:// or port 8883."
    return ""
