"""Configuration directories and simulated devices for tests of verbs that need no running gateway."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fluxedge.cli import driver_files
from fluxedge.config.load import Layout
from fluxedge.config.structs import DriverCfg
from fluxedge.simulate import DriverSimulator, Server, serve_tcp


class Folder:
    """A configuration directory and a state directory."""

    def __init__(self, parent: Path) -> None:
        self.etc = parent / "etc"
        self.state = parent / "state"
        self.etc.mkdir()
        self.state.mkdir()

    def write(self, name: str, text: str) -> None:
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options that name it."""
        return "--config", str(self.etc), "--state", str(self.state)


def shipped(name: str) -> DriverCfg:
    """Return a shipped driver."""
    return driver_files.need(Layout(Path("/nonexistent")), name)


def standing_still() -> float:
    return 0.0


def device(name: str, holes: int = 64) -> DriverSimulator:
    """Return a simulated device whose values stand still."""
    return DriverSimulator(shipped(name), 1, clock=standing_still, holes=holes)


@asynccontextmanager
async def served(**units: str) -> AsyncIterator[Server]:
    """Serve drivers by unit over Modbus TCP: served(u1="eastron-sdm120")."""
    server = await serve_tcp({int(unit[1:]): device(name) for unit, name in units.items()})
    try:
        yield server
    finally:
        await server.close()


async def until(happened: Callable[[], object]) -> None:
    """Return when something has happened; raises TimeoutError after ten seconds."""
    for _ in range(500):
        if happened():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


async def process(*words: str, **env: str) -> asyncio.subprocess.Process:
    """Start a verb as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fluxedge.cli.main", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **env},
    )  # fmt: skip
