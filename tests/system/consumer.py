"""An independent consumer: a paho client in a thread of its own that keeps a ledger of what arrives."""

from __future__ import annotations

import threading

import paho.mqtt.client as paho

from fluxedge.verify import Verifier


class Consumer:
    """Subscribe to a gateway's rounds and events with QoS 1 and verify seqs."""

    def __init__(self, port: int, topics: tuple[str, ...] = ("fluxedge/+/rounds", "fluxedge/+/events")) -> None:
        self.verifier = Verifier()
        self.payloads: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._lock:
            self.payloads.append((message.topic, message.payload))
            self.verifier.take(message.payload)

    def seen_upto(self, lane: str, epoch: int) -> int:
        """Return the highest seq of a lane that arrived."""
        with self._lock:
            return max(
                (ledger.last for (_, e, name), ledger in self.verifier.ledgers.items() if name == lane and e == epoch),
                default=0,
            )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        del self._client  # paho closes its pair of sockets when it is collected
