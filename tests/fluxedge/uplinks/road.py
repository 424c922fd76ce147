"""A log and a forwarder with real MQTT uplinks."""

from __future__ import annotations

import asyncio
import random
import typing
from pathlib import Path

from fluxedge.clock import SystemClock
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import LogCfg, UplinkCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Group, Lane, Point
from fluxedge.problems import ProblemBook
from fluxedge.uplinks.delivery import Terms
from fluxedge.uplinks.forward import Forwarder
from fluxedge.uplinks.mqtt import MqttUplink

GROUP = Group("m", "main", (Point("n", "H"),))


class Road:
    """A log and a forwarder with real MQTT uplinks."""

    def __init__(self, state_dir: Path, ports: list[int], **cfg: typing.Any) -> None:
        self.clock = SystemClock()
        self.log = Log(state_dir, LogCfg(), self.clock)
        self.problems = ProblemBook(self.clock.wall_ns)
        cfg.setdefault("message_bytes", Bytes(4096))
        self.cfg = UplinkCfg(url=[f"mqtt://127.0.0.1:{port}" for port in ports], **cfg)
        self.log.begin_uplink("cloud", list(Lane), "oldest")

        def connect(number: int, old_version: bool) -> MqttUplink:
            url = self.cfg.urls[number % len(ports)]
            return MqttUplink("cloud", self.cfg, url, "gw", "", None, "3.1.1" if old_version else "5", None)

        self.pauses: list[float] = []

        async def sleep(pause_s: float) -> None:
            self.pauses.append(pause_s)
            await asyncio.sleep(0.01)

        terms = Terms.of("cloud", "gw", self.cfg)
        self.forwarder = Forwarder(
            terms, connect, self.log, self.problems, self.clock, random.Random(1), brokers=len(ports), sleep=sleep
        )
        self.task = asyncio.create_task(self.forwarder.run())

    async def commit(self, count: int = 1) -> None:
        batch = Batch()
        for number in range(count):
            self.log.add_round(batch, GROUP.round((number,), self.clock.wall_ns(), self.clock.mono_ns()))
        await self.log.commit(batch)

    @property
    def delivered(self) -> int:
        return self.forwarder.counters.records

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.log.close()
