"""A gateway's directories in a temporary place."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from fluxedge.config import last_good
from fluxedge.config.load import Compile, Layout, Loaded, load

METER = """
name = "Meter"
protocol = "modbus"
source = "none"
[options]
max_registers = 40
[groups.slow]
every = "60s"
[points]
u = { at = "30001", type = "float32", unit = "V", low = 0, high = 500 }
e = { at = "30073", type = "float32", group = "slow" }
"""
HOST = """
name = "This machine"
protocol = "host"
source = "none"
[points]
cpu = { metric = "cpu_percent" }
"""
WAVES = """
name = "Waves"
protocol = "simulator"
source = "none"
[points]
ramp = { wave = "ramp" }
"""


class Site:
    """Directories to write into, and the loader that reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "etc"
        self.state = folder / "state"
        self.shipped = folder / "shipped"
        for directory in (self.folder, self.state, self.shipped):
            directory.mkdir()
        for name, text in (("meter", METER), ("host", HOST), ("waves", WAVES)):
            (self.shipped / f"{name}.toml").write_text(text)
        self.layout = Layout(self.folder, self.state, (self.shipped,))

    def write(self, name: str, text: str | bytes) -> Path:
        """Write below the configuration directory; the first line break of a text is not part of it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).removeprefix("\n").encode())
        return path

    def load(self, compile: Compile | None = None) -> Loaded:
        return load(self.layout, compile)

    def apply(self) -> Loaded:
        """Load something that must be right, and remember it."""
        loaded = self.load()
        assert [mistake.text() for mistake in loaded.mistakes] == []
        last_good.remember(self.layout, loaded)
        return loaded

    def reload(self) -> Loaded:
        """Load and remember, right or not."""
        loaded = self.load()
        last_good.remember(self.layout, loaded)
        return loaded


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
