"""The simulator protocol: rounds of an instant, points that hold what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.config.load import load
from fluxedge.config.sources import Layout
from fluxedge.config.structs import (
    DeviceCfg,
    DriverCfg,
    PointCfg,
    PointOverrideCfg,
    SimulatorOptionsCfg,
    SimulatorPointCfg,
)
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.simulator import SimulatorProtocol, compile_mistakes
from fluxedge.protocols.simulator.waves import WAVES


class StillClock:
    """A clock that stands."""

    now_ns = 15 * 10**9

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return 7

    def trusted(self) -> bool:
        return True


POINTS: dict[str, PointCfg] = {
    "level": SimulatorPointCfg(wave="ramp", precision=1),
    "noise": SimulatorPointCfg(wave="noise"),
    "setpoint": SimulatorPointCfg(wave="constant", from_=200.0, type="int32", scale=0.1, write=True, max=80.0),
    "name": SimulatorPointCfg(wave="constant", type="string", text="A", write=True),
}


def build(device: DeviceCfg | None = None, seed: int = 1, points: dict[str, PointCfg] = POINTS) -> SimulatorProtocol:
    options = SimulatorOptionsCfg(seed=seed)
    made = DriverCfg(id="sim", name="n", protocol="simulator", source="s", options=options, points=points)
    return SimulatorProtocol.build("d1", device or DeviceCfg(driver="sim"), made, clock=StillClock())


async def test_a_round_shows_the_waves_of_its_instant() -> None:
    protocol = build()
    read = await protocol.read(None, protocol.groups[0])
    assert (read.at_ns, read.arrived_mono_ns, read.quality) == (15 * 10**9, 7, b"")
    level, noise, setpoint, name = read.values
    assert (level, setpoint, name) == (25.0, 20.0, "A")
    assert 0 <= noise < 100  # type: ignore[operator]


async def test_equal_seeds_show_equal_noise_and_others_do_not() -> None:
    async def noise(seed: int) -> object:
        protocol = build(seed=seed)
        return (await protocol.read(None, protocol.groups[0])).values[1]

    assert await noise(1) == await noise(1) != await noise(2)


async def test_a_written_point_holds_its_value_and_tells_what_was_before() -> None:
    protocol = build()
    written = await protocol.write(None, "setpoint", 0)
    assert (written.sent, written.read_back, written.verified, written.before) == (0, 0.0, True, 20.0)
    await protocol.write(None, "name", "B")
    assert (await protocol.read(None, protocol.groups[0])).values[2:] == (0.0, "B")


@pytest.mark.parametrize(("point", "value"), [("nope", 1), ("level", 1.0), ("setpoint", 80.5), ("name", 3)])
async def test_a_command_that_cannot_be_is_refused_and_changes_nothing(point: str, value: float) -> None:
    protocol = build()
    before = (await protocol.read(None, protocol.groups[0])).raws
    with pytest.raises(ConfigProblem) as caught:
        await protocol.write(None, point, value)
    assert caught.value.code == "command-refused"
    assert point in caught.value.message
    assert (await protocol.read(None, protocol.groups[0])).raws == before


async def test_a_device_can_rename_drop_and_rescale() -> None:
    overrides = {"setpoint": PointOverrideCfg(rename="target", scale=1.0), "noise": PointOverrideCfg(drop=True)}
    protocol = build(DeviceCfg(driver="sim", points=overrides))
    assert protocol.groups[0].names == ("level", "target", "name")
    assert (await protocol.write(None, "target", 7)).sent == 7
    await protocol.check_link(None)
    assert protocol.describe() == ["main: 3 simulated points"]


def test_mistakes_name_who_said_it() -> None:
    points: dict[str, PointCfg] = {
        "text": SimulatorPointCfg(wave="sine", type="string"),
        "name": SimulatorPointCfg(wave="constant", type="string"),
    }
    device = DeviceCfg(driver="sim", points={"name": PointOverrideCfg(rename="n", scale=2.0)})
    made = DriverCfg(id="sim", name="n", protocol="simulator", source="s", options=SimulatorOptionsCfg(), points=points)
    findings = compile_mistakes("d1", device, made)
    assert [(finding.item, finding.path) for finding in findings] == [
        ("driver:sim", ("points", "text", "wave")),
        ("device:d1", ("points", "name", "scale")),
    ]
    with pytest.raises(ConfigProblem, match=r"points\.text\.wave"):
        SimulatorProtocol.build("d1", device, made)


async def test_the_shipped_driver_loads_and_reads(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "a.toml").write_text('[devices.d1]\ndriver = "simulator"\n')
    loaded = load(Layout(tmp_path))
    assert loaded.mistakes == ()
    driver_cfg = loaded.config.drivers["simulator"]
    assert compile_mistakes("d1", loaded.config.devices["d1"], driver_cfg) == []
    protocol = SimulatorProtocol.build("d1", loaded.config.devices["d1"], driver_cfg)
    read = await protocol.read(None, protocol.groups[0])
    assert read.quality == b""
    waves = {point.wave for point in driver_cfg.points.values() if isinstance(point, SimulatorPointCfg)}
    assert waves == set(WAVES), "one of each at least"
    assert (await protocol.write(None, "setpoint", 60.5)).verified
    assert (await protocol.write(None, "enable", True)).verified
