"""A client that is not ours: paho, in a thread of its own, keeping what arrives."""

from __future__ import annotations

import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Listener:
    """Subscribe to topics of a real broker with QoS 1; publish to it. Its calls block for a moment."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.messages.append(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    @property
    def payloads(self) -> list[tuple[str, bytes]]:
        """Return (topic, payload) of what arrived so far."""
        return [(message.topic, message.payload) for message in self.messages]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, **properties: object) -> None:
        """Publish with QoS 1 and wait for the acknowledgement; properties under paho's names."""
        named = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(named, name, value)
        self._client.publish(topic, payload, qos=1, retain=retain, properties=named).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # paho leaves its wake-up pair to the garbage collector
