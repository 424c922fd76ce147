"""The demo's devices and configuration: templates of demo_files/ filled in, and simulators for what they name."""

from __future__ import annotations

import string
import typing
from importlib import resources
from pathlib import Path

from fluxedge.apply import build, made_of
from fluxedge.cli import driver_files
from fluxedge.config.load import Layout, Loaded
from fluxedge.model import Point
from fluxedge.service import load_all
from fluxedge.simulate import DriverSimulator, Server, serve_pty, serve_tcp

FILES = ("fluxedge.toml", "devices/meters.toml", "devices/io.toml", "devices/inside.toml")
HOLES = 64  # addresses between two known ones that can be read along, as with most products


class Simulators:
    """The devices of the demo on their wires: two Modbus TCP servers, a serial line with two units."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._servers: list[Server] = []
        self.names: dict[str, str] = {}  # what the templates call their wires

    async def start(self) -> None:
        """Raises OSError: a wire cannot be opened."""
        meter = await self._keep(serve_tcp({1: self._device("siemens-pac2200", 1)}))
        io = await self._keep(serve_tcp({1: self._device("moxa-iologik-e1212", 1)}))
        line = await self._keep(serve_pty({1: self._device("eastron-sdm120", 1), 2: self._device("xy-md02", 2)}))
        self.names = {"meter_port": str(meter.port), "io_port": str(io.port), "line_path": line.path}

    async def close(self) -> None:
        """Unplug everything."""
        while self._servers:
            await self._servers.pop().close()

    async def _keep(self, opening: typing.Awaitable[Server]) -> Server:
        server = await opening
        self._servers.append(server)
        return server

    def _device(self, driver: str, seed: int) -> DriverSimulator:
        return DriverSimulator(driver_files.need(self._layout, driver), seed, holes=HOLES)


def write_files(folder: Path, names: dict[str, str]) -> None:
    """Write the configuration below `folder`; KeyError when a template's name is not among `names`."""
    templates = resources.files("fluxedge.cli") / "demo_files"
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(string.Template((templates / name).read_text()).substitute(names))


def load(layout: Layout) -> Loaded:
    """Return the demo's configuration as the gateway will load it.

    Raises:
        ValueError: it has mistakes; a defect of the demo.
    """
    loaded = load_all(layout)
    if loaded.mistakes:
        raise ValueError("\n".join(mistake.text() for mistake in loaded.mistakes))
    return loaded


def points_of(loaded: Loaded) -> dict[tuple[str, str], Point]:
    """Return (device, name) -> point."""
    made = made_of(loaded.config)
    return {
        (device, point.name): point
        for device in made
        for group in build(device, made[device]).groups
        for point in group.points
    }
