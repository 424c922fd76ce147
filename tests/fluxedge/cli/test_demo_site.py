"""The demo's configuration is an ordinary one without mistakes, and names every wire that is simulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.cli import demo_site
from fluxedge.cli.demo_screen import SHOWN
from fluxedge.config.load import Layout
from fluxedge.config.structs import ModbusPointCfg


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "etc", tmp_path)


async def test_the_files_load_without_mistakes_and_warnings(layout: Layout) -> None:
    simulators = demo_site.Simulators(layout)
    await simulators.start()
    try:
        demo_site.write_files(layout.config_dir, simulators.names | {"mqtt_port": "1883", "mqtt_version": "5"})
        loaded = demo_site.load(layout)
    finally:
        await simulators.close()
    assert loaded.warnings == ()
    kinds = {channel.url.partition(":")[0] for channel in loaded.config.channels.values()}
    assert kinds == {"tcp", "serial"}
    points = demo_site.points_of(loaded)
    assert {(device, name) for device, names in SHOWN.items() for name in names} <= set(points)
    io = loaded.config.drivers[loaded.config.devices["io"].driver]
    writable = {p.at[:2] for p in io.points.values() if isinstance(p, ModbusPointCfg) and p.write}
    assert writable == {"co", "hr"}


def test_a_name_that_is_missing_is_noticed(layout: Layout) -> None:
    with pytest.raises(KeyError):
        demo_site.write_files(layout.config_dir, {})


def test_a_mistake_in_the_demos_files_is_not_overlooked(layout: Layout) -> None:
    layout.config_dir.mkdir()
    (layout.config_dir / "fluxedge.toml").write_text("[gatewy]\n")
    with pytest.raises(ValueError, match="gatewy"):
        demo_site.load(layout)
