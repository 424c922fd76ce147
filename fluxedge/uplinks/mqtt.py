"""The MQTT uplink: topics, properties, PUBACK codes. One session per connection; the forward loop owns the rest."""

from __future__ import annotations

import asyncio
import ssl
import typing
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import msgspec

from fluxedge import mqtt
from fluxedge.config.structs import UplinkCfg
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Refused
from fluxedge.spi import Message, UplinkCommand
from fluxedge.uplinks import formats

DEFAULT_PORT = {"mqtt": 1883, "mqtts": 8883}

# MQTT 5, 3.4.2.1: what a PUBACK's reason means for the records. Everything else >= 0x80 is "later".
_NEVER = {0x90: "topic name invalid", 0x99: "payload format invalid"}
_LATER = {
    0x80: ("uplink-throttled", "unspecified error"),
    0x83: ("uplink-throttled", "implementation specific error"),
    0x87: ("uplink-refused", "not authorised to publish"),
    0x97: ("uplink-throttled", "quota exceeded"),
}


class MqttUplink:
    """One connection to one broker of an uplink. Made anew for every attempt."""

    def __init__(
        self,
        uplink_id: str,
        cfg: UplinkCfg,
        url: str,
        gateway: str,
        password: str,
        tls: ssl.SSLContext | None,
        version: str,
        on_command: Callable[[UplinkCommand], None] | None,
    ) -> None:
        parts = urlsplit(url)
        self._cfg = cfg
        self._gateway = gateway
        self._on_command = on_command
        self._topics = {
            Lane.ROUNDS: cfg.topics.rounds.replace("{gateway}", gateway),
            Lane.EVENTS: cfg.topics.events.replace("{gateway}", gateway),
        }
        self.status_topic = cfg.topics.status.replace("{gateway}", gateway)
        self._command_topic = cfg.topics.command.replace("{gateway}", gateway)
        self._response_topic = cfg.topics.response.replace("{gateway}", gateway)
        settings = mqtt.Settings(
            host=parts.hostname or "",
            port=parts.port or DEFAULT_PORT[parts.scheme],
            client_id=cfg.client_id or f"{gateway}-{uplink_id}",
            keepalive_s=cfg.keepalive_s,
            window=cfg.window,
            version=version,
            username=cfg.username,
            password=password,
            tls=tls,
            will_topic=self.status_topic,
            will_payload=self._status("offline"),
        )
        self._session = mqtt.Session(settings, self._received)
        self.window = 1

    async def open(self) -> None:
        """Connect, say "online" on the status topic, listen for commands where the uplink permits any."""
        await self._session.open()
        self.window = self._session.window
        self.no_subscribers = lambda: self._session.no_subscribers_total
        online = self._session.publish(self.status_topic, self._status("online"), retain=True)
        online.add_done_callback(lambda future: future.cancelled() or future.exception())
        if self._cfg.commands:
            self._session.subscribe(self._command_topic)

    async def room(self) -> None:
        """Wait until a message may be sent."""
        await self._session.room()

    @property
    def full(self) -> bool:
        """Tell whether `room` would wait."""
        return not self._session.running or self._session.full

    @property
    def maximum_message_bytes(self) -> int:
        """Return what the broker takes in one packet; 0 = no limit known."""
        return self._session.maximum_packet_bytes

    def send(self, message: Message) -> asyncio.Future[None]:
        """Publish with QoS 1; done at the PUBACK."""
        properties: dict[str, typing.Any] = {
            "content_type": message.content_type,
            "user_property": [
                ("gateway", self._gateway),
                ("epoch", str(message.epoch)),
                ("lane", message.lane.label),
                ("seq", str(message.lo)),
                ("n", str(message.hi - message.lo + 1)),
            ],
        }
        if self._cfg.expiry_s is not None:
            properties["message_expiry_interval"] = max(1, round(self._cfg.expiry_s))
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future = self._session.publish(self._topics[message.lane], message.payload, **properties)
        future.add_done_callback(partial(_acknowledge, sent, message))
        return sent

    def respond(self, topic: str, payload: bytes, correlation: bytes) -> None:
        """Answer a command (QoS 1, not stored: the caller repeats with his key)."""
        properties: dict[str, typing.Any] = {"content_type": formats.JSON}
        if correlation:
            properties["correlation_data"] = correlation
        future = self._session.publish(topic or self._response_topic, payload, **properties)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def wait_closed(self) -> None:
        """Return never normally: raise why the connection is gone."""
        await self._session.wait_closed()
        raise self._session.reason()

    async def close(self) -> None:
        """Say "offline", then DISCONNECT, which suppresses the will."""
        if self._session.running:
            future = self._session.publish(self.status_topic, self._status("offline"), retain=True)
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._session.close()

    def _status(self, state: str) -> bytes:
        return msgspec.json.encode({"gateway": self._gateway, "state": state})

    def _received(self, incoming: mqtt.Incoming) -> None:
        if self._on_command is None or incoming.topic != self._command_topic:
            return
        reply_topic = (incoming.properties.get("response_topic") or [""])[0]
        correlation = (incoming.properties.get("correlation_data") or [b""])[0]
        self._on_command(UplinkCommand(incoming.payload, reply_topic, correlation))


def _acknowledge(sent: asyncio.Future[None], message: Message, future: asyncio.Future[int]) -> None:
    """Turn the PUBACK's reason code into what the forward loop knows: done, later, or never."""
    error = None if future.cancelled() else future.exception()
    if sent.done():
        return
    if future.cancelled():
        sent.cancel()
    elif isinstance(error, mqtt.Rejected) and error.code in _NEVER:
        sent.set_exception(Refused(dict.fromkeys(range(message.lo, message.hi + 1), _NEVER[error.code])))
    elif isinstance(error, mqtt.Rejected):
        code, text = _LATER.get(error.code, ("uplink-throttled", f"PUBACK code 0x{error.code:02X}"))
        sent.set_exception(LinkProblem(code, f"the broker refuses to take messages: {text}", "They stay in the log."))
    elif error is not None:
        sent.set_exception(error)
    else:
        sent.set_result(None)
