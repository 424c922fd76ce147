"""Answers made from a gateway that is only described: what a running one shows is in test_handlers."""

from __future__ import annotations

import typing
from pathlib import Path
from types import SimpleNamespace

from fluxedge.api import standing
from fluxedge.api.lag import Sampler
from fluxedge.api.view import GatewayView
from fluxedge.channels.link import Tally
from fluxedge.config.structs import ChannelCfg, Config, DeviceCfg, DriverCfg
from fluxedge.model import Lane

DRIVERS = {"x": DriverCfg(id="x", name="X", protocol="modbus", source="none")}


def view(tally: Tally | None = None, rounds: int = 0, events: int = 0, **devices: DeviceCfg) -> GatewayView:
    """Return a gateway with one channel `bus`, which has no device, and devices that do not run."""
    channel = SimpleNamespace(tally=tally) if tally else None
    state = SimpleNamespace(state="open", since_ns=7_000, opens=2, busy_s=1.23456)
    return typing.cast(
        GatewayView,
        SimpleNamespace(
            config=Config(channels={"bus": ChannelCfg(url="tcp://a", label="总线")}, devices=devices, drivers=DRIVERS),
            pollers={"bus": SimpleNamespace(channel=channel, state=state, devices={})},
            pipeline=SimpleNamespace(dropped_rounds_total=rounds, dropped_events_total=events),
            protocols={},
            utc_of=lambda mono_ns: mono_ns + 10**9,
        ),
    )


def test_a_channel_tells_what_its_wire_carried_and_what_was_dropped() -> None:
    tally = Tally(timeouts=1, suspects=2, sent_bytes=3, received_bytes=4, dropped_bytes=5)
    (bus,) = standing.channels(view(tally))
    assert (bus.id, bus.label, bus.url, bus.state, bus.since_us, bus.busy_s) == (
        "bus",
        "总线",
        "tcp://a",
        "open",
        1_000_007,
        1.235,
    )
    assert (bus.timeouts, bus.suspects, bus.sent_bytes, bus.received_bytes, bus.dropped_bytes) == (1, 2, 3, 4, 5)


def test_a_poller_without_a_wire_is_no_open_channel() -> None:
    (bus,) = standing.channels(view())
    assert (bus.state, bus.timeouts, bus.received_bytes) == ("none", 0, 0)


def test_only_what_was_dropped_is_named() -> None:
    assert standing.dropped(view()) == {}
    assert standing.dropped(view(Tally(dropped_bytes=9), rounds=0, events=2)) == {"events": 2, "bytes": 9}
    assert standing.dropped(view(rounds=1)) == {"rounds": 1}


def test_a_device_that_does_not_run_waits_unless_it_is_disabled() -> None:
    cfg = DeviceCfg(driver="x", channel="bus")
    found = standing.devices(view(b=cfg, a=DeviceCfg(driver="x", channel="bus", enabled=False)))
    assert [(device.id, device.state, device.points, device.protocol) for device in found] == [
        ("a", "disabled", 0, "modbus"), ("b", "waiting", 0, "modbus"),
    ]  # fmt: skip


def test_a_disk_that_does_not_tell_its_room_costs_no_answer(tmp_path: Path) -> None:
    log = SimpleNamespace(
        path=tmp_path / "gone" / "log.db",
        segments=list,
        heads=dict.fromkeys(Lane, 0),
        epoch=1,
        used_bytes=0,
        memory_bytes=0,
        commits=0,
    )
    gateway = typing.cast(GatewayView, SimpleNamespace(log=log, config=Config()))
    sampler = typing.cast(Sampler, SimpleNamespace(log_bytes=SimpleNamespace(per_s=0.0)))
    assert standing.log(gateway, sampler).free_bytes == 0
