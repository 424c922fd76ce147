"""A real gateway with simulated devices and its API, for the tests of the API and of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import socket
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from fluxedge.api import ApiServer
from fluxedge.app import Gateway
from fluxedge.clock import Clock, SystemClock
from fluxedge.commands import Request, Result
from fluxedge.config.credentials import Secret
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import (
    ApiCfg,
    Config,
    DeviceCfg,
    DriverCfg,
    GatewayCfg,
    LogCfg,
    SimulatorOptionsCfg,
    SimulatorPointCfg,
    UplinkCfg,
)
from fluxedge.model import Lane

POINTS: dict[str, typing.Any] = {
    "flow_temp": SimulatorPointCfg(wave="constant", from_=61.5, unit="Cel", label="供水温度"),
    "setpoint": SimulatorPointCfg(wave="constant", from_=55.0, unit="Cel", write=True, min=20, max=80),
    "pump": SimulatorPointCfg(wave="constant", from_=1, to=1, type="bool", write=True),
    "name": SimulatorPointCfg(wave="constant", type="string", text="一号锅炉", write=True),
    "total": SimulatorPointCfg(wave="constant", type="int64", from_=float(2**60), to=float(2**60)),
}
DRIVER = DriverCfg(
    id="boiler",
    name="Simulated boiler",
    protocol="simulator",
    source="none",
    every_s=Seconds(0.05),
    options=SimulatorOptionsCfg(),
    points=POINTS,
)


def config(listen: str = "", uplinks: dict[str, UplinkCfg] | None = None) -> Config:
    """Return two boilers, one that is disabled, and a secret."""
    devices = {name: DeviceCfg(driver="boiler", label="锅炉") for name in ("boiler-1", "boiler-2")}
    devices["boiler-3"] = DeviceCfg(driver="boiler", enabled=False)
    return Config(
        gateway=GatewayCfg(id="gw-test", label="Heizhaus"),
        log=LogCfg(commit_s=Seconds(0.05)),
        api=ApiCfg(listen=listen),
        devices=devices,
        drivers={"boiler": DRIVER},
        uplinks=uplinks or {},
        secrets={"broker-password": Secret("hunter2")},
    )


class TrustedClock(SystemClock):
    """The clock of a machine that has been set."""

    def trusted(self) -> bool:
        return True


class Reply(typing.NamedTuple):
    """An HTTP answer."""

    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> typing.Any:
        """Return the body as data."""
        return json.loads(self.body)


@dataclass
class Running:
    """A gateway that runs, and its API."""

    gateway: Gateway
    api: ApiServer

    @property
    def socket(self) -> Path:
        """Return the unix socket's path."""
        return self.api.path

    async def ask(self, method: str, path: str, body: object = None) -> Reply:
        """Ask over the unix socket, from a thread."""
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: object) -> Reply:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.socket))
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=data)
            response = connection.getresponse()
            return Reply(response.status, response.getheader("Content-Type", ""), response.read())
        finally:
            connection.close()

    async def first_round(self) -> None:
        """Wait until both devices have been read and a commit has happened."""
        await self.until(lambda: len(list(self.gateway.latest.rounds())) == 2 and self.gateway.log.heads[Lane.ROUNDS])

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for something that comes with a commit."""
        async with asyncio.timeout(10):
            while not holds():
                committed = asyncio.Event()
                self.gateway.log.listeners.append(committed.set)
                await committed.wait()
                self.gateway.log.listeners.remove(committed.set)


@contextlib.asynccontextmanager
async def running(state: Path, cfg: Config | None = None, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Run a gateway with its API below a state directory."""
    cfg = cfg or config()
    gateway = Gateway(cfg, state, clock or TrustedClock(), rng=random.Random(1))
    api = ApiServer(gateway, state / "api.sock", cfg.api.listen, gateway.owner.spawn, Request, Result)
    try:
        await gateway.start()
        await api.start()
        yield Running(gateway, api)
    finally:
        await api.stop()
        await gateway.stop()
