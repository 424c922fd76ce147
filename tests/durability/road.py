"""The gateway's road in a process of its own, to be killed: a JSON object with the fields of Road.

HOOK `on-send` lets a cursor pass a message when it is sent instead of when it is acknowledged, which loses records when
a broker dies: the harness must find it guilty.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import typing
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import uvloop

from fluxedge.app import Gateway
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import Config
from fluxedge.spi import Message
from fluxedge.uplinks.mqtt import MqttUplink
from tests.durability.orphan import die_with_parent
from tests.system.road import config

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Road:
    """What a road is to run on."""

    state: str
    modbus_port: int
    mqtt_port: int
    backlog_kib: int = 1 << 20
    free_space_kib: int = 0
    keepalive_s: float = 2.0
    order: str = "live-first"
    hook: str = ""

    def spawn(self, out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start it; what it has to say goes to a file."""
        command = [sys.executable, "-m", "tests.durability.road", json.dumps(asdict(self))]
        with out.open("ab") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=file, cwd=ROOT, env=os.environ | {"PYTHONFAULTHANDLER": "1"} | environment
            )

    def config(self) -> Config:
        """Return the configuration: ten devices at 50 rounds a second, one uplink."""
        wanted = config(self.modbus_port, self.mqtt_port)
        backlog = self.backlog_kib << 10
        sizes = {
            "backlog_bytes": Bytes(backlog),
            "segment_bytes": Bytes(backlog // 16),
            "free_space_bytes": Bytes(self.free_space_kib << 10),
        }
        log = msgspec.structs.replace(wanted.log, **sizes)
        changes: dict[str, typing.Any] = {"keepalive_s": Seconds(self.keepalive_s), "order": self.order}
        uplink = msgspec.structs.replace(wanted.uplinks["cloud"], **changes)
        return msgspec.structs.replace(wanted, log=log, uplinks={"cloud": uplink})


def acknowledge_on_send() -> None:
    """Let every message count as acknowledged when it is sent."""
    honest = MqttUplink.send

    def send(self: MqttUplink, message: Message) -> asyncio.Future[None]:
        sent = honest(self, message)
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    MqttUplink.send = send  # type: ignore[method-assign]


async def main() -> None:
    die_with_parent()
    road = Road(**json.loads(sys.argv[1]))
    if road.hook == "on-send":
        acknowledge_on_send()
    gateway = Gateway(road.config(), Path(road.state))
    await gateway.start()
    assert gateway.failed is not None
    raise await gateway.failed


if __name__ == "__main__":
    uvloop.run(main())
