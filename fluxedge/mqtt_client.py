"""gmqtt as a bare transport: a client for one connection attempt, its own reliability off, its packets taken by hooks.

The only module that imports gmqtt. What it does with private names is of gmqtt 0.8.0, which is pinned;
tests/fluxedge/test_mqtt.py fails when one of them moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gmqtt
from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.mqtt.protocol import MQTTProtocol
from gmqtt.storage import PersistentStorage

from fluxedge import mqtt_terms as terms
from fluxedge.mqtt_terms import Incoming, Settings, WrongVersion
from fluxedge.problems import LinkProblem

INBOUND_PACKET_BYTES = 256 << 10  # commands are small; gmqtt would collect a packet of 256 MiB in memory
_ALL_IDS = 65536  # gmqtt's allocator gives out 1 .. 65535

_SILENT = logging.getLogger("fluxedge.gmqtt")
_SILENT.setLevel(logging.CRITICAL + 1)  # it logs an ERROR at each loss that we asked for; problems are told by us
logging.getLogger("gmqtt").setLevel(logging.CRITICAL + 1)


class _NoStore(PersistentStorage):  # type: ignore[misc]  # gmqtt has no types
    """The log is the only store: gmqtt keeps nothing."""

    def push_message(self, mid: int, raw_package: bytes) -> None:
        pass


class _Protocol(MQTTProtocol):  # type: ignore[misc]  # gmqtt has no types
    """A protocol whose end is harmless at any time: gmqtt's own raises where it does not belong to a connection yet."""

    given_up = False
    reading: asyncio.Future[None] | None = None  # gmqtt's task, also after it was told to end

    def connection_made(self, transport: asyncio.Transport) -> None:
        if self.given_up:  # cancelled while the system connected; uvloop tells of it all the same
            transport.abort()
            return
        super().connection_made(transport)
        self.reading = self._read_loop_future

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is None:
            self.set_connection(_Nobody())
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Drop the connection, also one that is still being made."""
        self.given_up = True
        if self._transport is not None:
            self._transport.abort()
        if self.reading is not None and self._connection is None:
            self.reading.cancel()  # uvloop does not tell of the end of a connection whose making was cancelled


class _Nobody:
    """Stands for a connection that was given up, or reset, before gmqtt had made it."""

    def put_package(self, _package: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom the client tells, at once and on the loop; gmqtt swallows what they raise."""

    heard: Callable[[], None]  # a packet came
    acknowledged: Callable[[int, int], None]  # PUBACK: packet id, reason code
    granted: Callable[[int, int], None]  # SUBACK: packet id, worst reason code
    received: Callable[[Incoming], None]
    ended: Callable[[LinkProblem | None], None]  # None: the socket was closed without a DISCONNECT


class Client:
    """A gmqtt client. Connected at most once; whoever owns it decides when it is dead, and then calls `kill`."""

    def __init__(self, settings: Settings, hooks: Hooks) -> None:
        self._settings = settings
        self._hooks = hooks
        self._protocol: _Protocol | None = None
        will = None
        if settings.will_topic:
            will = gmqtt.Message(settings.will_topic, settings.will_payload, qos=1, retain=True)
        limits = {"maximum_packet_size": INBOUND_PACKET_BYTES} if settings.version == "5" else {}
        self._client = client = gmqtt.Client(
            settings.client_id.encode(),  # its length field counts characters of a str, not bytes
            clean_session=True,
            persistent_storage=_NoStore(),
            will_message=will,
            logger=_SILENT,
            **limits,
        )
        client.set_config({"reconnect_retries": -2})  # 0 still reconnects once, -1 means unlimited
        client._wait_qos_queue_drained = _nothing_waits  # it starts two tasks for a store that is always empty
        client._create_connection = self._made
        if settings.username or settings.password:
            client.set_auth_credentials(settings.username, settings.password or None)
        client.on_message = self._received
        client.on_subscribe = self._subscribed
        self._hook(client._package_handler)

    def _hook(self, handler: typing.Any) -> None:
        """Take every packet, PUBACK, CONNACK and DISCONNECT at gmqtt's packet handler, before connecting."""
        handle, take_connack = handler._handle_packet, handler._handle_connack_packet
        free_id, hooks, settings = handler.id_generator.free_id, self._hooks, self._settings

        def packet(cmd: int, data: bytes) -> None:
            hooks.heard()
            handle(cmd, data)

        def puback(_cmd: int, data: bytes) -> None:
            mid = int.from_bytes(data[:2], "big")
            free_id(mid)
            hooks.acknowledged(mid, data[2] if len(data) > 2 else 0)

        def connack(cmd: int, data: bytes) -> None:
            if data[1:2] and data[1] in terms.WRONG_VERSION and settings.version == "5":
                # gmqtt would downgrade by its own reconnection, which is off, and then wait for ever
                hooks.ended(WrongVersion(settings.where))
                return
            take_connack(cmd, data)

        def disconnect(_cmd: int, data: bytes) -> None:
            # A lost socket arrives here too, as an empty packet. gmqtt's own handler only starts a reconnection.
            hooks.ended(terms.ended(settings.where, data[0]) if data and data[0] else None)

        handler._handle_packet = packet
        handler._handler_cache.update({0x40: puback, 0x20: connack, 0xE0: disconnect})

    def _received(
        self, _client: object, topic: str, payload: bytes, _qos: int, properties: dict[str, typing.Any]
    ) -> None:
        if isinstance(topic, str):
            self._hooks.received(Incoming(topic, bytes(payload), bool(properties.get("retain")), properties))

    def _subscribed(self, _client: object, mid: int, granted_qos: tuple[int, ...], _properties: object) -> None:
        self._hooks.granted(mid, max(granted_qos, default=0))

    # --- connecting ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def faults_told(self) -> Iterator[None]:
        """Turn what gmqtt, TLS and the operating system raise while connecting into what it means.

        Raises:
            LinkProblem: "uplink-down", "uplink-refused", "uplink-throttled" or "uplink-tls", with what is in the way.
        """
        settings = self._settings
        try:
            yield
        except MQTTConnectError as exc:
            raise terms.refused(settings.where, exc._code) from exc
        except ssl.SSLError as exc:
            raise terms.tls_failed(settings.where, exc) from exc
        except OSError as exc:
            if isinstance(exc, TimeoutError) and exc.errno is None:  # ours; the system's has a number
                text = f"{settings.where}: no answer to CONNECT within {settings.connect_s:g} s"
                hint = "Is it an MQTT broker, and does a firewall let it through?"
                raise LinkProblem("uplink-down", text, hint) from exc
            if isinstance(exc, ConnectionResetError | ConnectionAbortedError):
                raise terms.hung_up(settings.where, tls=settings.tls is not None) from exc
            raise terms.unreachable(settings.where, exc) from exc

    async def connect(self) -> None:
        """Connect within `connect_s`; raises what `faults_told` knows. Also returns when it was killed meanwhile."""
        settings = self._settings
        async with asyncio.timeout(settings.connect_s):
            await self._client.connect(
                settings.host,
                settings.port,
                ssl=settings.tls or False,
                keepalive=round(settings.keepalive_s),
                version=MQTTv50 if settings.version == "5" else MQTTv311,
            )

    async def _made(
        self, host: str, port: int, ssl: ssl.SSLContext | bool, clean_session: bool, keepalive: int
    ) -> MQTTConnection:
        """Return a new connection as gmqtt makes it."""
        handler, state = self._client._package_handler, self._client._connection_state

        def factory() -> _Protocol:
            self._protocol = _Protocol(connection_state=state, id_generator=handler.id_generator)
            return self._protocol

        transport, protocol = await asyncio.get_running_loop().create_connection(factory, host, port, ssl=ssl or None)
        if protocol._connection is not None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return MQTTConnection(transport, protocol, clean_session, keepalive, package_handler=handler, logger=_SILENT)

    def begin(self) -> asyncio.Transport:
        """Make what was connected ours; return its transport."""
        # gmqtt takes receive_maximum for a bound of ids, of which SUBSCRIBE needs one too: with 2 it would have none.
        self._client._package_handler.id_generator._max = _ALL_IDS
        transport: asyncio.Transport = self._client._connection._transport
        # Let the kernel give a half-open connection up: with unsent bytes gmqtt's close() waits for ever.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1500 * self.keepalive_s))
        return transport

    def limit(self, name: str, default: int) -> int:
        """Return a number that the broker gave as a property of its CONNACK."""
        value: int = (self._client._package_handler._connack_properties.get(name) or [default])[0]
        return value

    @property
    def keepalive_s(self) -> float:
        """Return the keep-alive in force: the broker may have named another."""
        connection = self._client._connection
        return float(connection._keepalive) if connection is not None else self._settings.keepalive_s

    # --- connected ----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, *, retain: bool, properties: dict[str, typing.Any]) -> int:
        """Send with QoS 1; return the packet id."""
        self._client.publish(topic, payload, qos=1, retain=retain, **properties)
        # publish() is synchronous and returns nothing; the id it took is the allocator's last one.
        mid: int = self._client._package_handler.id_generator._last_used_id
        return mid

    def subscribe(self, topic: str) -> int:
        """Send SUBSCRIBE with QoS 1; return the packet id.

        MQTT 5, 3.8.3.1: neither what we publish ourselves, nor what is already retained; what is published as retained
        later comes with its flag. 3.1.1 has no such options, and its brokers take the flag away.
        """
        options: dict[str, typing.Any] = {}
        if self._settings.version == "5":
            options = {"no_local": True, "retain_as_published": True, "retain_handling_options": 2}
        mid: int = self._client.subscribe(gmqtt.Subscription(topic, qos=1, **options))
        return mid

    def ping(self) -> None:
        """Send PINGREQ."""
        self._client._connection._send_ping_request()

    def send_disconnect(self) -> None:
        """Send DISCONNECT."""
        self._client._connection.send_disconnect()

    @property
    def closing(self) -> bool:
        """Tell whether gmqtt began to close the connection, which may take it for ever."""
        connection = self._client._connection
        return connection is not None and bool(connection.is_closing())

    @property
    def error(self) -> Exception | None:
        """Return why the socket closed, as far as the transport told."""
        error: Exception | None = self._client._connection._protocol._hard_reader.exception()
        return error

    @property
    def reading(self) -> asyncio.Future[None] | None:
        """Return gmqtt's task; it ends soon after `kill`."""
        return self._protocol.reading if self._protocol is not None else None

    def kill(self) -> None:
        """Kill the connection: never close() or disconnect() on a sick one, they wait for ever."""
        client = self._client
        client._is_active = False
        client._connack_received.set()  # connect() waits for nothing else
        connection = client._connection
        if connection is not None and connection._keep_connection_callback:
            connection._keep_connection_callback.cancel()
        if self._protocol is not None:
            self._protocol.give_up()


async def _nothing_waits() -> None:
    return
