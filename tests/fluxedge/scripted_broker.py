"""A broker that does what the test says: acts on packets, records everything, misbehaves on command.

    async with ScriptedBroker(acks=False, receive_maximum=20) as broker: ...

It speaks MQTT 5 and 3.1.1 as far as a publisher needs: CONNECT, PUBLISH (QoS 0 and 1), SUBSCRIBE, PINGREQ, DISCONNECT.
One asyncio.Protocol a connection, no tasks.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

# MQTT 5, 2.2.2.2: how a property's value is encoded
_BYTE, _TWO, _FOUR, _VARIABLE, _BLOB, _TEXT, _PAIR = range(7)
_PROPERTIES = {
    1: ("payload_format_id", _BYTE), 2: ("message_expiry_interval", _FOUR), 3: ("content_type", _TEXT),
    8: ("response_topic", _TEXT), 9: ("correlation_data", _BLOB), 11: ("subscription_identifier", _VARIABLE),
    17: ("session_expiry_interval", _FOUR), 24: ("will_delay_interval", _FOUR), 33: ("receive_maximum", _TWO),
    34: ("topic_alias_maximum", _TWO), 35: ("topic_alias", _TWO), 38: ("user_property", _PAIR),
    39: ("maximum_packet_size", _FOUR),
}  # fmt: skip

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = (
    0x10, 0x20, 0x30, 0x40, 0x80, 0x90, 0xC0, 0xD0, 0xE0,
)  # fmt: skip


class Bytes:
    """Take a packet apart from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        assert len(found) == count, "packet too short"
        self.at += count
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def blob(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return self.blob().decode()

    def variable(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def properties(self) -> dict[str, list[typing.Any]]:
        end = self.variable() + self.at
        found: dict[str, list[typing.Any]] = {}
        readers: dict[int, Callable[[], typing.Any]] = {
            _BYTE: lambda: self.number(1), _TWO: lambda: self.number(2), _FOUR: lambda: self.number(4),
            _VARIABLE: self.variable, _BLOB: self.blob, _TEXT: self.text, _PAIR: lambda: (self.text(), self.text()),
        }  # fmt: skip
        while self.at < end:
            name, kind = _PROPERTIES[self.number(1)]
            found.setdefault(name, []).append(readers[kind]())
        assert self.at == end
        return found


def variable(number: int) -> bytes:
    found = bytearray()
    while True:
        number, byte = divmod(number, 128)
        found.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(found)


def framed(first: int, body: bytes) -> bytes:
    return bytes([first]) + variable(len(body)) + body


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("!H", len(raw)) + raw


@dataclass
class Published:
    """A PUBLISH that arrived."""

    connection: int  # 0, 1, 2 ...
    mid: int  # 0 for QoS 0
    qos: int
    dup: bool
    retain: bool
    topic: str
    payload: bytes
    properties: dict[str, list[typing.Any]]
    packet_bytes: int


@dataclass
class Connected:
    """A CONNECT that arrived."""

    level: int  # 5 or 4 (3.1.1)
    client_id: str
    clean: bool
    keepalive_s: int
    username: bytes | None
    password: bytes | None
    will: tuple[str, bytes, int, bool] | None  # topic, payload, QoS, retain
    properties: dict[str, list[typing.Any]]


@dataclass
class Script:
    """The knobs. They may be turned while the broker runs."""

    connack_code: int | None = 0  # None = never answer CONNECT
    refuse_v5: int | None = None  # CONNACK code (1 or 0x84) for MQTT 5 clients only
    session_present: bool = False
    receive_maximum: int | None = None
    maximum_packet_size: int | None = None
    server_keep_alive: int | None = None
    retain_available: bool = True
    max_qos: int | None = None
    acks: bool = True
    puback_code: int = 0
    code_of: Callable[[Published], int] | None = None  # over puback_code
    ack_delay_s: float = 0.0
    suback_code: int = 1
    pings: bool = True  # answer PINGREQ
    on_publish: Callable[[Peer, Published], None] | None = None
    hang_up: bool = True  # close the socket after DISCONNECT


@dataclass
class ScriptedBroker(Script):
    """The server, and what it saw."""

    tls: ssl.SSLContext | None = None
    published: list[Published] = field(default_factory=list)
    connects: list[Connected] = field(default_factory=list)
    subscribed: list[tuple[str, int]] = field(default_factory=list)  # topic, options byte
    goodbyes: list[int] = field(default_factory=list)  # connections that ended with DISCONNECT
    peers: list[Peer] = field(default_factory=list)
    pings_seen: int = 0
    most_unacknowledged: int = 0
    _port: int = 0
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> ScriptedBroker:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self._port, ssl=self.tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            peer.drop()
        await asyncio.sleep(0)
        await self._server.wait_closed()
        await asyncio.sleep(0.01)

    @property
    def port(self) -> int:
        return self._port

    @property
    def peer(self) -> Peer:
        """Return the newest connection."""
        return self.peers[-1]

    def records(self, topic: str = "") -> list[Published]:
        """Return what was published, without status messages; of one topic where it is given."""
        return [p for p in self.published if (p.topic == topic if topic else not p.topic.endswith("status"))]

    async def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Wait until something is so."""
        await until(condition, timeout_s)


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until something is so that tells nobody when it becomes so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Peer(asyncio.Protocol):
    """One connection, seen from the broker."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker
        self._buffer = b""
        self.transport: asyncio.Transport
        self.level = 0
        self.unacknowledged: list[int] = []
        self.closed = False
        self.number = len(broker.peers)
        self._mid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = typing.cast(asyncio.Transport, transport)
        self._broker.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (packet := self._next()) is not None:
            self._take(*packet)

    def _next(self) -> tuple[int, bytes, int] | None:
        """Return (first byte, body, size) of the next whole packet."""
        buffer, size, shift = self._buffer, 0, 0
        for at in range(1, 5):
            if at >= len(buffer):
                return None
            size |= (buffer[at] & 0x7F) << shift
            shift += 7
            if not buffer[at] & 0x80:
                break
        end = at + 1 + size
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return buffer[0], buffer[at + 1 : end], end

    def _take(self, first: int, body: bytes, size: int) -> None:
        kind = first & 0xF0
        if kind == CONNECT:
            self._connect(Bytes(body))
        elif kind == PUBLISH:
            self._publish(first, Bytes(body), size)
        elif kind == SUBSCRIBE:
            self._subscribe(Bytes(body))
        elif kind == PINGREQ:
            self._broker.pings_seen += 1
            if self._broker.pings:
                self.transport.write(bytes([PINGRESP, 0]))
        elif kind == DISCONNECT:
            self._broker.goodbyes.append(self.number)
            if self._broker.hang_up:
                self.transport.close()

    def _connect(self, body: Bytes) -> None:
        script = self._broker
        assert body.text() == "MQTT"
        self.level = body.number(1)
        flags, keepalive_s = body.number(1), body.number(2)
        properties = body.properties() if self.level == 5 else {}
        client_id = body.text()
        will = None
        if flags & 4:
            if self.level == 5:
                body.properties()
            will = body.text(), body.blob(), flags >> 3 & 3, bool(flags & 0x20)
        username = body.blob() if flags & 0x80 else None
        password = body.blob() if flags & 0x40 else None
        assert not body.rest(), "the lengths in CONNECT are wrong"
        script.connects.append(
            Connected(self.level, client_id, bool(flags & 2), keepalive_s, username, password, will, properties)
        )
        code = script.refuse_v5 if script.refuse_v5 is not None and self.level == 5 else script.connack_code
        if code is None:
            return
        present = int(script.session_present and code == 0)
        # A server that does not know version 5 answers in its own words: two bytes.
        old_words = self.level != 5 or code == 1
        limits = b"" if old_words else variable(len(self._limits())) + self._limits()
        self.transport.write(framed(CONNACK, bytes([present, code]) + limits))
        if code:
            self.transport.close()

    def _limits(self) -> bytes:
        script, found = self._broker, b""
        if script.receive_maximum is not None:
            found += b"\x21" + struct.pack("!H", script.receive_maximum)
        if script.maximum_packet_size is not None:
            found += b"\x27" + struct.pack("!I", script.maximum_packet_size)
        if script.server_keep_alive is not None:
            found += b"\x13" + struct.pack("!H", script.server_keep_alive)
        if not script.retain_available:
            found += b"\x25\x00"
        if script.max_qos is not None:
            found += bytes([0x24, script.max_qos])
        return found

    def _publish(self, first: int, body: Bytes, size: int) -> None:
        script = self._broker
        topic, qos = body.text(), first >> 1 & 3
        mid = body.number(2) if qos else 0
        properties = body.properties() if self.level == 5 else {}
        published = Published(
            self.number, mid, qos, bool(first & 8), bool(first & 1), topic, body.rest(), properties, size
        )
        script.published.append(published)
        if qos:
            self.unacknowledged.append(mid)
            script.most_unacknowledged = max(script.most_unacknowledged, len(self.unacknowledged))
        if script.on_publish is not None:
            script.on_publish(self, published)
        if qos and script.acks and not self.closed:
            code = script.code_of(published) if script.code_of is not None else script.puback_code
            if script.ack_delay_s:
                asyncio.get_running_loop().call_later(script.ack_delay_s, self.acknowledge, mid, code)
            else:
                self.acknowledge(mid, code)

    def acknowledge(self, mid: int, code: int = 0) -> None:
        """Send a PUBACK."""
        if mid in self.unacknowledged:
            self.unacknowledged.remove(mid)
        tail = bytes([code, 0]) if self.level == 5 else b""
        if not self.transport.is_closing():
            self.transport.write(framed(PUBACK, struct.pack("!H", mid) + tail))

    def _subscribe(self, body: Bytes) -> None:
        mid = body.number(2)
        if self.level == 5:
            body.properties()
        self._broker.subscribed.append((body.text(), body.number(1)))
        tail = b"\x00" if self.level == 5 else b""
        self.transport.write(framed(SUBACK, struct.pack("!H", mid) + tail + bytes([self._broker.suback_code])))

    # --- misbehaviour -------------------------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, properties: bytes = b"", *, retain: bool = False, qos: int = 1) -> None:
        """Publish to the client; `properties` are encoded."""
        self._mid += 1
        body = _text(topic) + (struct.pack("!H", self._mid) if qos else b"")
        body += variable(len(properties)) + properties if self.level == 5 else b""
        self.transport.write(framed(PUBLISH | qos << 1 | int(retain), body + payload))

    def write(self, raw: bytes) -> None:
        """Send any bytes."""
        self.transport.write(raw)

    def disconnect(self, reason: int) -> None:
        """Send DISCONNECT with a reason, then close."""
        self.transport.write(framed(DISCONNECT, bytes([reason, 0])))
        self.transport.close()

    def drop(self) -> None:
        """Reset the connection."""
        self.transport.abort()

    def stall(self) -> None:
        """Read nothing any more, and answer nothing: half-open."""
        self.transport.pause_reading()
