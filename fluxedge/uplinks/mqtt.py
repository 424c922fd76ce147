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
from fluxedge.problems import Advice, LinkProblem, Problem, Refused
from fluxedge.spi import Message, UplinkCommand
from fluxedge.uplinks import formats

DEFAULT_PORT = {"mqtt": 1883, "mqtts": 8883}

ENVELOPE_BYTES = 128  # of a payload without any record, about
CLOSE_S = 1.0  # the broker may take this long to acknowledge "offline"

# MQTT 5, 3.4.2.1: what a PUBACK's reason means for the records. Everything else >= 0x80 is "later".
_NEVER = {0x90: "topic name invalid", 0x99: "payload format invalid"}
_LATER: dict[int, tuple[str, str, Advice]] = {
    0x80: ("uplink-throttled", "unspecified error", ""),
    0x83: ("uplink-throttled", "implementation specific error", ""),
    0x87: ("uplink-refused", "not authorised to publish", ""),
    0x95: ("uplink-throttled", "packet too large", "smaller-messages"),
    0x97: ("uplink-throttled", "quota exceeded", ""),
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
        settings = self._settings(url, cfg.client_id or f"{gateway}-{uplink_id}", password, tls, version)
        self._session = mqtt.Session(settings, self._received)
        self.greeted = asyncio.Event()
        self._subscribed: dict[Lane, bool] = {}  # whether anybody gets what is published
        self.condition: Callable[[str, Problem | None], None] = lambda _code, _problem: None
        # What a packet takes besides its payload, with the longest numbers.
        longest = Message(2**63, Lane.ROUNDS, 2**63, 2**64, b"", formats.JSON, historical=True, durable=False)
        topic = max(self._topics.values(), key=lambda topic: len(topic.encode()))
        self._overhead_bytes = mqtt.packet_bytes(topic, 0, self._properties(longest))

    def _settings(
        self, url: str, client_id: str, password: str, tls: ssl.SSLContext | None, version: str
    ) -> mqtt.Settings:
        parts = urlsplit(url)
        return mqtt.Settings(
            host=parts.hostname or "",
            port=parts.port or DEFAULT_PORT[parts.scheme],
            client_id=client_id,
            keepalive_s=self._cfg.keepalive_s,
            window=self._cfg.window,
            version=version,
            username=self._cfg.username,
            password=password,
            tls=tls,
            will_topic=self.status_topic,
            will_payload=self._status("offline"),
        )

    @property
    def window(self) -> int:
        """How many messages may be unacknowledged; valid after `open`."""
        return self._session.window

    @window.setter
    def window(self, window: int) -> None:
        self._session.window = window

    async def open(self) -> None:
        """Connect, say "online" on the status topic, listen for commands where the uplink permits any."""
        await self._session.open()
        limit, least = self._session.maximum_packet_bytes, self._overhead_bytes + ENVELOPE_BYTES
        if 0 < limit < least:  # else every record would go to the quarantine
            text = f"the broker takes packets of {limit} bytes at most; no record fits into less than {least}"
            raise LinkProblem("uplink-refused", text, "Raise the broker's maximum packet size. The records are kept.")
        online = self._session.publish(
            self.status_topic, self._status("online"), retain=True, content_type=formats.JSON
        )
        online.add_done_callback(self._answered)
        if self._cfg.commands:
            self._session.subscribe(self._command_topic).add_done_callback(self._listening)

    def _answered(self, online: asyncio.Future[int]) -> None:
        """Note that the broker answers, be it by a refusal: from now on messages may go."""
        error = None if online.cancelled() else online.exception()
        if not online.cancelled() and (error is None or isinstance(error, mqtt.Rejected)):
            self.greeted.set()

    def _listening(self, subscribed: asyncio.Future[None]) -> None:
        """Tell whether commands come; data goes on without."""
        error = None if subscribed.cancelled() else subscribed.exception()
        if isinstance(error, mqtt.Rejected):
            text = f"the broker refuses the subscription to {self._command_topic}: code 0x{error.code:02X}"
            hint = "Permit it in the broker's access list, or empty `commands`."
            self.condition("uplink-commands", Problem("uplink-commands", text, hint))
        elif error is None and not subscribed.cancelled():
            self.condition("uplink-commands", None)

    async def room(self) -> None:
        """Wait until a message may be sent."""
        await self._session.room()

    @property
    def full(self) -> bool:
        """Tell whether `room` would wait."""
        return not self._session.running or self._session.full

    @property
    def maximum_message_bytes(self) -> int:
        """Return what of a payload the broker takes in one packet; 0 = no limit known."""
        limit = self._session.maximum_packet_bytes
        return max(1, limit - self._overhead_bytes) if limit else 0

    def send(self, message: Message) -> asyncio.Future[None]:
        """Publish with QoS 1; done at the PUBACK."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        topic = self._topics[message.lane]
        future = self._session.publish(topic, message.payload, **self._properties(message))
        future.add_done_callback(partial(self._acknowledge, sent, message))
        return sent

    def _properties(self, message: Message) -> dict[str, typing.Any]:
        said = [
            ("gateway", self._gateway),
            ("epoch", str(message.epoch)),
            ("lane", message.lane.label),
            ("seq", str(message.lo)),
            ("n", str(message.hi - message.lo + 1)),
        ]
        if message.historical:
            said.append(("historical", "true"))
        if not message.durable:
            said.append(("durable", "false"))
        properties: dict[str, typing.Any] = {"content_type": message.content_type, "user_property": said}
        if self._cfg.expiry_s is not None:
            properties["message_expiry_interval"] = max(1, round(self._cfg.expiry_s))
        return properties

    def _acknowledge(self, sent: asyncio.Future[None], message: Message, future: asyncio.Future[int]) -> None:
        """Turn the PUBACK's reason code into what the forward loop knows: done, later, or never."""
        if sent.done():
            return
        if future.cancelled():
            sent.cancel()
            return
        error = future.exception()
        if error is None:
            subscribed = future.result() != mqtt.NO_SUBSCRIBERS
            if self._cfg.require_subscriber and not subscribed:
                sent.set_exception(self._unheard(message.lane))
                return
            self._heard(message.lane, subscribed)
            sent.set_result(None)
        elif isinstance(error, mqtt.Rejected) and error.code in _NEVER:
            sent.set_exception(Refused(dict.fromkeys(range(message.lo, message.hi + 1), _NEVER[error.code])))
        elif isinstance(error, mqtt.Rejected):
            code, text, advice = _LATER.get(error.code, ("uplink-throttled", f"PUBACK code 0x{error.code:02X}", ""))
            text = f"the broker refuses to take messages: {text}"
            sent.set_exception(LinkProblem(code, text, "They stay in the log.", advice=advice))
        else:
            sent.set_exception(error)

    def _unheard(self, lane: Lane) -> LinkProblem:
        text = f"nobody subscribes to {self._topics[lane]}, and `require_subscriber` is set: the records are kept"
        return LinkProblem("uplink-no-subscribers", text, "They go when somebody has subscribed.")

    def _heard(self, lane: Lane, subscribed: bool) -> None:
        """Tell when a lane begins to go to nobody, and when somebody listens again."""
        if self._subscribed.get(lane) is subscribed:
            return
        self._subscribed[lane] = subscribed
        unheard = ", ".join(self._topics[lane] for lane, somebody in sorted(self._subscribed.items()) if not somebody)
        if unheard:
            text = f"nobody subscribes to {unheard}; the broker acknowledges the messages and drops them"
            hint = "Subscribe with QoS 1 and a persistent session, or set `require_subscriber`: then they wait."
            self.condition("uplink-no-subscribers", Problem("uplink-no-subscribers", text, hint))
        else:
            self.condition("uplink-no-subscribers", None)

    def respond(self, topic: str, payload: bytes, correlation: bytes) -> None:
        """Answer a command (QoS 1, not stored: the caller repeats with his key)."""
        properties: dict[str, typing.Any] = {"content_type": formats.JSON}
        if correlation:
            properties["correlation_data"] = correlation
        self._session.publish(topic or self._response_topic, payload, **properties).add_done_callback(_ignore)

    async def wait_closed(self) -> None:
        """Return never normally: raise why the connection is gone."""
        await self._session.wait_closed()
        raise self._session.reason()

    async def close(self) -> None:
        """Say "offline", then DISCONNECT, which suppresses the will; drop the connection where nobody answers."""
        if self._session.running:
            goodbye = self._session.publish(
                self.status_topic, self._status("offline"), retain=True, content_type=formats.JSON
            )
            goodbye.add_done_callback(_ignore)
            await asyncio.wait([goodbye], timeout=CLOSE_S)
            if goodbye.done():
                await self._session.close()
        await self._session.abort()  # then the broker says "offline" for us, by the will

    def _status(self, state: str) -> bytes:
        return msgspec.json.encode({"gateway": self._gateway, "state": state})

    def _received(self, incoming: mqtt.Incoming) -> None:
        if self._on_command is None or incoming.topic != self._command_topic:
            return
        reply_topic = (incoming.properties.get("response_topic") or [""])[0]
        correlation = (incoming.properties.get("correlation_data") or [b""])[0]
        if not self._may_answer(reply_topic):
            reply_topic = ""
        self._on_command(UplinkCommand(incoming.payload, reply_topic, correlation, incoming.retained))

    def _may_answer(self, topic: str) -> bool:
        """Tell whether an answer may go to a topic that a caller names: never into the gateway's own streams.

        Publishing to a topic with a wildcard would be a protocol error, which costs the connection (MQTT 5, 3.3.2.1).
        """
        own = (*self._topics.values(), self.status_topic, self._command_topic)
        return topic not in own and not any(sign in topic for sign in "+#\0")


def _ignore(done: asyncio.Future[int]) -> None:
    """Look at an outcome that changes nothing: a lost connection is told by `wait_closed`."""
    if not done.cancelled():
        done.exception()
