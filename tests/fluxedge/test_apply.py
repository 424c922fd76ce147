"""Reload: whatever leads from one configuration to another ends where a fresh start would, and touches no more."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxedge import app
from fluxedge.app import Gateway
from fluxedge.apply import build, by_channel, channel_of, difference, findings, made_of, plan
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import (
    ChannelCfg,
    Config,
    DeviceCfg,
    DriverCfg,
    GatewayCfg,
    LogCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    PointOverrideCfg,
    SimulatorOptionsCfg,
    SimulatorPointCfg,
    UplinkCfg,
)
from fluxedge.problems import LinkProblem


class NoChannel:
    """A wire that cannot be opened: nothing real is touched, and the poller is never in a transaction."""

    framing = "tcp"

    def __init__(self, channel_id: str, cfg: ChannelCfg) -> None:
        self.id, self.cfg = channel_id, cfg

    async def open(self) -> typing.Any:
        raise LinkProblem("link-down", "there is no wire here")

    def is_open(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class NoUplink:
    window = 1

    def __init__(self, *_: object) -> None:
        pass

    async def open(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _nothing_real() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "open_channel", lambda name, cfg, clock: NoChannel(name, cfg))
        patch.setattr(app, "MqttUplink", NoUplink)
        yield


def simulator(version: int) -> DriverCfg:
    points = {"level": SimulatorPointCfg(wave="ramp"), f"p{version}": SimulatorPointCfg(wave="sine")}
    return DriverCfg(
        id="tank", name="Tank", protocol="simulator", source="s", points=points, options=SimulatorOptionsCfg()
    )


def meter(version: int) -> DriverCfg:
    points = {"u": ModbusPointCfg(at=f"hr:{version}", type="uint16")}
    return DriverCfg(id="meter", name="Meter", protocol="modbus", source="s", points=points, options=ModbusOptionsCfg())


DEVICES = st.builds(
    DeviceCfg,
    driver=st.sampled_from(["tank", "meter"]),
    channel=st.sampled_from(["c1", "c2", "d1"]),  # a channel may be called like a device
    label=st.sampled_from(["", "一号"]),
    unit=st.sampled_from([1, 2]),
    every_s=st.sampled_from([Seconds(0.05), Seconds(1.0)]),
    enabled=st.sampled_from([True, True, True, False]),
)
CHANNELS = st.builds(
    ChannelCfg,
    url=st.sampled_from(["tcp://10.0.0.1:502", "rtu+tcp://10.0.0.2:4001"]),
    label=st.sampled_from(["", "hall"]),
    timeout_s=st.sampled_from([Seconds(1.0), Seconds(2.0)]),
)
UPLINKS = st.builds(
    UplinkCfg,
    url=st.just("mqtt://10.0.0.3"),
    username=st.just("gw"),
    password=st.sampled_from(["secret-1", "secret-2"]),
    window=st.sampled_from([1, 64]),
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    channels = {name: draw(CHANNELS) for name in ("c1", "c2", "d1")}
    return Config(
        gateway=GatewayCfg(id="gw", label=draw(st.sampled_from(["", "roof"]))),
        log=LogCfg(commit_s=Seconds(0.05), free_space_bytes=Bytes(0)),
        channels=channels,
        devices=draw(st.dictionaries(st.sampled_from(["d1", "d2", "d3", "d4"]), DEVICES)),
        drivers={"tank": simulator(draw(st.integers(0, 1))), "meter": meter(draw(st.integers(0, 1)))},
        uplinks=draw(st.dictionaries(st.sampled_from(["cloud", "plant"]), UPLINKS)),
        secrets={name: draw(st.sampled_from(["a", "b"])) for name in ("secret-1", "secret-2")},
    )


def running(gateway: Gateway) -> dict[str, object]:
    """Return everything that runs, in comparable form."""
    assert not gateway.failed or not gateway.failed.done(), gateway.failed
    for poller in gateway.pollers.values():
        for name, device in poller.devices.items():
            assert device.protocol is gateway.protocols[name]
    assert {round_.group.device for round_ in gateway.latest.rounds()} <= set(gateway.protocols)
    return {
        "config": gateway.config,
        "protocols": {
            name: (type(protocol), protocol.groups, protocol.periods_s, protocol.timeout_s)
            for name, protocol in gateway.protocols.items()
        },
        "pollers": {
            name: (typing.cast(NoChannel, poller.channel).cfg if poller.channel else None, sorted(poller.devices))
            for name, poller in gateway.pollers.items()
        },
        "forwarders": sorted(gateway.forwarders),
        "tasks": gateway.owner.names(),
        "problems": sorted((s.item, s.code) for s in gateway.problems if s.item != "log"),
    }


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def started(config: Config, state: str) -> Gateway:
    gateway = Gateway(config, Path(state))
    await gateway.start()
    await settle()
    return gateway


async def reload_and_compare(a: Config, b: Config) -> None:
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        reloaded, fresh = await started(a, first), await started(b, second)
        try:
            protocols, pollers = dict(reloaded.protocols), dict(reloaded.pollers)
            forwarders, tasks = dict(reloaded.forwarders), dict(reloaded._tasks)
            steps = await reloaded.apply(b)
            await settle()
            assert running(reloaded) == running(fresh)
            assert steps.restart_needed == (("gateway",) if a.gateway != b.gateway else ())
            old, new = made_of(a), made_of(b)
            for name in old.keys() & new.keys():
                same = protocols[name] is reloaded.protocols[name]
                assert same == (old[name] == new[name])
            for name in by_channel(a, old).keys() & by_channel(b, new).keys():
                untouched = a.channels.get(name) == b.channels.get(name)
                assert (pollers[name] is reloaded.pollers[name]) == untouched
                assert (tasks[f"channel:{name}"] is reloaded._tasks[f"channel:{name}"]) == untouched
            for name in a.uplinks.keys() & b.uplinks.keys():
                secrets = a.secrets[a.uplinks[name].password] == b.secrets[b.uplinks[name].password]
                untouched = a.uplinks[name] == b.uplinks[name] and secrets
                assert (forwarders[name] is reloaded.forwarders[name]) == untouched
            assert bool(await reloaded.apply(b)) is False
        finally:
            await reloaded.stop()
            await fresh.stop()
            assert reloaded.owner.names() == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=configs(), b=configs())
def test_reload_from_a_to_b_leaves_the_same_as_a_fresh_start_with_b_and_never_stops_what_is_equal(
    a: Config, b: Config
) -> None:
    asyncio.run(reload_and_compare(a, b))


def config(**parts: typing.Any) -> Config:
    base: dict[str, typing.Any] = {
        "log": LogCfg(commit_s=Seconds(0.05), free_space_bytes=Bytes(0)),
        "channels": {"c1": ChannelCfg(url="tcp://10.0.0.1")},
        "drivers": {"tank": simulator(0), "meter": meter(0)},
        "devices": {"d1": DeviceCfg(driver="tank"), "d2": DeviceCfg(driver="meter", channel="c1")},
    }
    return Config(**base | parts)


def test_a_changed_item_is_stopped_and_started_and_an_equal_one_is_in_neither_list() -> None:
    found = difference({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 9, "d": 4})
    assert (found.stop, found.start) == (("b", "c"), ("b", "d"))


def test_a_driver_that_changes_changes_its_devices_and_no_others() -> None:
    steps = plan(config(), config(drivers={"tank": simulator(1), "meter": meter(0)}))
    assert (steps.devices.stop, steps.devices.start) == (("d1",), ("d1",))
    assert (steps.channels.stop, steps.uplinks.stop) == ((), ())


def test_a_secret_that_changes_changes_the_uplinks_that_name_it() -> None:
    uplinks = {"u": UplinkCfg(url="mqtt://b", username="x", password="s"), "v": UplinkCfg(url="mqtt://b")}
    old, new = (config(uplinks=uplinks, secrets={"s": secret}) for secret in "ab")
    assert plan(old, new).uplinks.start == ("u",)


def test_a_device_that_is_disabled_does_not_run_and_a_channel_without_devices_is_not_opened() -> None:
    without = config(devices={"d2": DeviceCfg(driver="meter", channel="c1", enabled=False)})
    assert made_of(without) == {}
    assert by_channel(without, made_of(without)) == {}


def test_a_device_without_a_channel_may_be_called_like_one() -> None:
    both = config(channels={"d1": ChannelCfg(url="tcp://10.0.0.1")}, devices={
        "d1": DeviceCfg(driver="tank"), "d2": DeviceCfg(driver="meter", channel="d1"),
    })  # fmt: skip
    assert channel_of(both, "d1") != channel_of(both, "d2") == "d1"
    assert sorted(by_channel(both, both.devices)["d1"]) == ["d2"]


def test_only_gateway_log_and_api_need_a_restart() -> None:
    assert plan(config(), config(gateway=GatewayCfg(label="x"))).restart_needed == ("gateway",)
    assert not plan(config(), config())


def test_the_compile_step_of_the_loader_finds_what_only_a_protocol_knows() -> None:
    assert findings(config()) == []
    wrong = {"d2": DeviceCfg(driver="meter", channel="c1", options={"max_registers": 1})}
    points = {"u": ModbusPointCfg(at="hr:0", type="float64")}
    driver = DriverCfg(
        id="meter", name="m", protocol="modbus", source="s", points=points, options=ModbusOptionsCfg(max_registers=1)
    )
    found = findings(config(devices=wrong, drivers={"meter": driver}))
    assert found
    assert found[0].item in ("driver:meter", "device:d2")


async def test_what_cannot_be_built_changes_nothing(tmp_path: Path) -> None:
    gateway = await started(config(), str(tmp_path))
    try:
        before = running(gateway)
        bad = DeviceCfg(driver="meter", channel="c1", points={"u": PointOverrideCfg(drop=True)}, unit=1)
        broken = {"meter": DriverCfg(
            id="meter", name="m", protocol="modbus", source="s", options=ModbusOptionsCfg(),
            points={"u": ModbusPointCfg(at="nowhere", type="uint16")},
        )}  # fmt: skip
        from fluxedge.problems import ConfigProblem

        with pytest.raises(ConfigProblem):
            await gateway.apply(config(drivers={"tank": simulator(1)} | broken, devices=config().devices | {"d3": bad}))
        await settle()
        assert running(gateway) == before
    finally:
        await gateway.stop()


async def test_a_round_that_comes_in_after_its_device_was_removed_does_not_bring_it_back(tmp_path: Path) -> None:
    gateway = await started(config(), str(tmp_path))
    try:
        async with asyncio.timeout(5):
            while gateway.latest.of("d1", "main") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        late = gateway.latest.of("d1", "main")
        assert late is not None
        await gateway.apply(config(devices={}))
        assert list(gateway.latest.rounds()) == []
        await gateway.pipeline.put("somewhere", late)
        await asyncio.sleep(0.05)
        assert list(gateway.latest.rounds()) == []
    finally:
        await gateway.stop()


def test_building_a_device_gives_its_protocol() -> None:
    assert build("d2", made_of(config())["d2"]).groups[0].names == ("u",)
