"""MQTT session over gmqtt: one fresh client per connection attempt, none of its reliability used.

gmqtt is a fast transport whose own store, reconnection and acknowledgements lose messages. So here: a client is made
for one attempt and thrown away; nothing is stored or resumed in it; PUBACKs are taken at its packet handler, with their
reason code; the window, the bytes in flight, the watchdog and the end of a sick connection are ours.

    CONNECTING (connect_s) -> RUNNING -> closed for ever

A session starts no task of its own, and none of gmqtt's survives `close` or `abort`. How gmqtt is brought to that is in
mqtt_client.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import typing
from collections import deque
from collections.abc import Callable

from fluxedge import mqtt_terms as terms
from fluxedge.mqtt_client import Client, Hooks
from fluxedge.mqtt_terms import Incoming, Rejected, Settings, WrongVersion, packet_bytes
from fluxedge.problems import LinkProblem

__all__ = ["Incoming", "Rejected", "Session", "Settings", "WrongVersion", "packet_bytes"]

IN_FLIGHT_BYTES = 1 << 20
TRANSPORT_BYTES = 256 << 10
WAITING_MOST = 64  # answers and status that wait for the broker's receive maximum; records wait in the log
NO_SUBSCRIBERS = 0x10  # MQTT 5, 3.4.2.1


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
        self._client = Client(settings, Hooks(self._heard, self._settle, self._granted, self._received, self._ended))
        self._transport: asyncio.Transport | None = None  # set while RUNNING
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
        self._schedule_watch()
        try:
            with self._client.faults_told():
                await self._client.connect()
                if self._dead.is_set():
                    raise self.reason()
                self._begin()
        finally:
            if self._transport is None:
                await self.abort()

    def _begin(self) -> None:
        """Take the broker's limits over; from here on the session runs.

        Raises:
            LinkProblem: "uplink-refused": the broker cannot acknowledge.
        """
        client = self._client
        if client.limit("max_qos", 1) == 0:
            raise self._problem("uplink-refused", "the broker takes QoS 0 only, which it never acknowledges", "")
        self._receive_maximum = client.limit("receive_maximum", 65535) or 1
        # Two places are left for status and answers to commands, where the broker has them.
        self.window = max(1, min(self._settings.window, self._receive_maximum - 2))
        self.maximum_packet_bytes = client.limit("maximum_packet_size", 0)
        self._retain = client.limit("retain_available", 1) != 0
        self._transport = client.begin()

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
            or (self._transport is not None and self._transport.get_write_buffer_size() >= TRANSPORT_BYTES)
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
        mid = self._client.publish(topic, payload, retain=retain, properties=properties)
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
        self._subscribing[self._client.subscribe(topic)] = granted
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
            self._client.send_disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.close_s):
                    await self._dead.wait()
        await self.abort()

    async def abort(self) -> None:
        """Drop the connection without a word: the broker sends the will. Returns when gmqtt's task has ended."""
        self._died(None)
        self._client.kill()
        reading = self._client.reading
        if reading is not None and not reading.done():
            await asyncio.wait([reading], timeout=1.0)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _heard(self) -> None:
        self._heard_s = self._loop.time()

    def _received(self, incoming: Incoming) -> None:
        if self._on_message is not None:
            self._loop.call_soon(self._on_message, incoming)  # gmqtt would swallow what it raises

    def _granted(self, mid: int, worst: int) -> None:
        granted = self._subscribing.pop(mid, None)
        if granted is None or granted.done():
            return
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
        now_s, keepalive_s = self._loop.time(), self._client.keepalive_s
        silent_s = now_s - self._heard_s
        unacknowledged_s = now_s - next(iter(self._acks.values())).at_s if self._acks else 0.0
        if self._client.closing:  # gmqtt's own keep-alive gave up
            self._died(self._problem("uplink-silent", "nothing is heard any more", ""))
        elif self._transport is not None and silent_s > 1.5 * keepalive_s:
            self._died(self._problem("uplink-silent", f"nothing heard for {silent_s:.3g} s", ""))
        elif unacknowledged_s > self._settings.ack_s:
            text = f"a message is unacknowledged for {unacknowledged_s:.3g} s"
            self._died(self._problem("uplink-silent", text, ""))
        else:
            if self._transport is not None and now_s - max(self._heard_s, self._pinged_s) > keepalive_s / 2:
                self._pinged_s = now_s  # gmqtt pings as late as after 1.3 keep-alives
                self._client.ping()
            self._room.set()  # the transport's buffer may have drained
        self._schedule_watch()

    def _ended(self, reason: LinkProblem | None) -> None:
        self._died(reason or self._lost())

    def _lost(self) -> LinkProblem:
        """Say why the socket closed, as far as the transport told."""
        error = self._client.error
        if isinstance(error, ssl.SSLError):
            return terms.tls_failed(self._settings.where, error)
        if self._transport is None:
            return terms.hung_up(self._settings.where, tls=self._settings.tls is not None)
        return terms.lost(self._settings.where, error)

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
        self._client.kill()

    def _problem(self, code: str, message: str, hint: str) -> LinkProblem:
        return LinkProblem(code, f"{self._settings.where}: {message}", hint)
