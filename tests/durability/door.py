"""A door between a gateway and its broker: it passes MQTT packets on, counts what was acknowledged, and misbehaves.

    gateway --PUBLISH--> door --> broker          a record is delivered when its PUBACK has left the broker
            <--PUBACK---      <--                 (MQTT 5, 3.3 and 3.4)

What a broker that is killed had acknowledged is gone for its subscribers, and is no loss of the gateway's: only here it
can be counted. Everything runs on the loop of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fluxedge.verify import Verifier

PUBLISH, PUBACK = 0x30, 0x40
HOLD_S = 0.05  # acknowledgements that are held back to be shuffled

Packet = tuple[int, bytes, bytes]  # first byte, body, the whole of it


def packets(buffer: bytearray) -> Iterator[Packet]:
    """Take whole packets out of a buffer."""
    while len(buffer) >= 2:
        size = shift = 0
        for at in range(1, min(5, len(buffer))):
            size |= (buffer[at] & 0x7F) << shift
            shift += 7
            if not buffer[at] & 0x80:
                break
        else:
            return
        end = at + 1 + size
        if len(buffer) < end:
            return
        raw = bytes(buffer[:end])
        del buffer[:end]
        yield raw[0], raw[at + 1 :], raw


def _variable(body: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number, at


def published(first: int, body: bytes) -> tuple[int, bytes]:
    """Return (packet id, payload) of an MQTT 5 PUBLISH; id 0 where its QoS is 0."""
    (length,) = struct.unpack_from("!H", body)
    at, mid = 2 + length, 0
    if first & 0x06:
        (mid,) = struct.unpack_from("!H", body, at)
        at += 2
    size, at = _variable(body, at)
    return mid, body[at + size :]


@dataclass
class Door:
    """The proxy. Its knobs may be turned while it runs."""

    broker_port: int
    rng: random.Random
    open: bool = True  # take connections; else they are reset
    frozen: bool = False  # pass nothing on, keep connections: half-open
    acks: bool = True  # pass acknowledgements on; else they are lost
    pause_s: float = 0.0  # before each piece of 2 KiB that is passed on: a slow link
    mangle: bool = False  # acknowledgements come twice and in any order
    verifier: Verifier = field(default_factory=Verifier)
    doubled: int = 0  # acknowledgements that were sent twice
    shuffled: int = 0  # that overtook another one
    accepted: int = 0  # connections of the gateway's, refused ones too
    _links: set[_Link] = field(default_factory=set)
    port: int = 0
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Door:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._links:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._server.wait_closed()

    async def listen(self) -> None:
        """Take connections; after `leave` on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def leave(self) -> None:
        """Be gone: connections are reset, new ones refused."""
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for link in self._links:
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if not self.open:
            writer.transport.abort()
            return
        try:
            far = await asyncio.open_connection("127.0.0.1", self.broker_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), far)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection of the gateway's."""

    def __init__(self, door: Door, near: Ends, far: Ends) -> None:
        self._door, self._near, self._far = door, near, far
        self._under_way: dict[int, bytes] = {}  # packet id -> payload
        self._held: list[bytes] = []  # acknowledgements

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._near[0], self._far[1], self._up))
                group.create_task(self._pump(self._far[0], self._near[1], self._down))
                group.create_task(self._release())
        except* (OSError, EOFError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, then: Callable[[Packet], bytes]
    ) -> None:
        buffer = bytearray()
        while data := await reader.read(2048):
            while self._door.frozen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if self._door.pause_s:
                await asyncio.sleep(self._door.pause_s)
            buffer += data
            passed = b"".join(then(packet) for packet in packets(buffer))
            writer.write(passed)
            await writer.drain()
        raise EOFError

    def _up(self, packet: Packet) -> bytes:
        first, body, raw = packet
        if first & 0xF0 == PUBLISH:
            mid, payload = published(first, body)
            if mid:
                self._under_way[mid] = payload
        return raw

    def _down(self, packet: Packet) -> bytes:
        first, body, raw = packet
        if first & 0xF0 != PUBACK:
            return raw
        (mid,) = struct.unpack_from("!H", body)
        refused = len(body) > 2 and body[2] >= 0x80
        if (payload := self._under_way.pop(mid, None)) is not None and not refused:
            self._door.verifier.take(payload)
        if not self._door.acks:
            return b""
        if not self._door.mangle:
            return raw
        self._held.append(raw)
        if self._door.rng.random() < 0.5:
            self._held.append(raw)
            self._door.doubled += 1
        return b""

    async def _release(self) -> None:
        """Send held acknowledgements in another order."""
        while True:
            await asyncio.sleep(HOLD_S)
            held, self._held = self._held, []
            if held:
                before = list(held)
                self._door.rng.shuffle(held)
                self._door.shuffled += sum(a is not b for a, b in zip(before, held, strict=True))
                with contextlib.suppress(OSError):
                    self._near[1].write(b"".join(held))
