"""The demo's broker: a Mosquitto that is installed, else amqtt, an MQTT 3.1.1 broker from PyPI, in a child process.

`python -m fluxedge.cli.demo_broker PORT` is that child.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

MOSQUITTO_PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"  # beside PATH: Debian's users have no sbin in theirs


@dataclass(frozen=True, slots=True)
class BrokerKind:
    """Which broker the demo starts."""

    name: str
    version: str  # of MQTT, as an uplink's table has it
    command: tuple[str, ...]


def choose(folder: Path, port: int, wanted: str = "") -> BrokerKind | None:
    """Return how to start a broker on the loopback; None when there is none. `wanted` is a name, "" = any."""
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path=MOSQUITTO_PLACES)
    if binary is not None and wanted in ("", "mosquitto"):
        conf = folder / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n")
        return BrokerKind("Mosquitto", "5", (binary, "-c", str(conf)))
    if wanted in ("", "amqtt") and importlib.util.find_spec("amqtt") is not None:
        return BrokerKind("amqtt", "3.1.1", (sys.executable, "-m", "fluxedge.cli.demo_broker", str(port)))
    return None


async def serve(port: int) -> None:
    """Run amqtt until SIGTERM."""
    from amqtt.broker import Broker

    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker(config)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(int(sys.argv[1])))
