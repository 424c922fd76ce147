"""What a configuration would do, in plain words: which channel is opened, which device is read how, what goes upstream.

channel bus-1        serial:///dev/ttyS0?baud=9600&parity=N&bits=8&stop=1
  meter-1            eastron-sdm630, unit 1, 48 points, every 1s; slow every 1m
    FC04, unit 1: registers 0–79 (30001–30080), 24 points
uplink cloud         mqtt://broker:1883, json: rounds, events → fluxedge/gw/…
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fluxedge.apply import build, by_channel, made_of
from fluxedge.cli.aligned import counted
from fluxedge.config.drivers import MAIN_GROUP
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import Config, DeviceCfg
from fluxedge.spi import Protocol

_INDENT = "  "


class DevicePlan(msgspec.Struct, frozen=True):
    """How one device is read."""

    id: str
    label: str
    driver: str
    unit: int | None  # None: the protocol has no units
    points: int
    every: dict[str, str]  # group -> period
    requests: list[str]
    wire: list[str]  # what each point is on the wire; empty where there is none


class ChannelPlan(msgspec.Struct, frozen=True):
    """A channel and what is read through it."""

    id: str
    url: str  # empty: a device of a protocol that needs no channel
    devices: list[DevicePlan]


class UplinkPlan(msgspec.Struct, frozen=True):
    """What is sent where."""

    id: str
    url: list[str]
    format: str
    topics: list[str]
    commands: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that would run."""

    channels: list[ChannelPlan]
    uplinks: list[UplinkPlan]
    disabled: list[str]
    alike: dict[str, str] = field(default_factory=dict)  # device -> an earlier one that is read the same way

    @property
    def devices(self) -> list[DevicePlan]:
        """Return the devices of all channels."""
        return [device for channel in self.channels for device in channel.devices]

    def counts(self) -> str:
        """Return "2 channels, 3 devices, 112 points, 1 uplink"."""
        devices = self.devices
        wires = sum(bool(channel.url) for channel in self.channels)
        points = sum(device.points for device in devices)
        words = [counted(wires, "channel"), counted(len(devices), "device"), counted(points, "point")]
        return ", ".join([*words, counted(len(self.uplinks), "uplink")])


def gateway_name(config: Config, state: Path) -> str:
    """Return the gateway's id; the template's word for it where it is made up at the first start only."""
    try:
        return config.gateway.id or (state / "gateway-id").read_text().strip()
    except OSError:
        return "{gateway}"


def plan_of(config: Config, gateway: str) -> Plan:
    """Return what a configuration without mistakes would do."""
    made = made_of(config)
    channels, alike = [], {}
    kinds: dict[tuple[object, ...], str] = {}
    for channel, names in by_channel(config, made).items():
        devices = []
        for name in names:
            device, driver, framing, _ = made[name]
            devices.append(_device_plan(name, device, build(name, made[name])))
            kind = (driver.id, framing, _same(device))
            first = kinds.setdefault(kind, name)
            if first != name:
                alike[name] = first
        cfg = config.channels.get(channel)
        channels.append(ChannelPlan(channel, cfg.url if cfg else "", devices))
    uplinks = [
        UplinkPlan(
            name, cfg.urls, cfg.format,
            [getattr(cfg.topics, lane).replace("{gateway}", gateway) for lane in cfg.lanes], list(cfg.commands),
        )
        for name, cfg in config.uplinks.items()
    ]  # fmt: skip
    disabled = [name for name, device in config.devices.items() if not device.enabled]
    return Plan(channels, uplinks, disabled, alike)


def _same(device: DeviceCfg) -> bytes:
    """Return what two devices have in common when they are read the same way."""
    nameless = msgspec.structs.replace(device, unit=None, label="", channel="")
    return msgspec.json.encode(nameless, enc_hook=str)


def _device_plan(name: str, device: DeviceCfg, protocol: Protocol) -> DevicePlan:
    words = getattr(protocol, "describe_points", None)  # of protocols with addresses
    return DevicePlan(
        id=name,
        label=device.label,
        driver=device.driver,
        unit=getattr(protocol, "unit", None),
        points=sum(len(group.points) for group in protocol.groups),
        every={group.name: str(Seconds(protocol.periods_s[group.name])) for group in protocol.groups},
        requests=protocol.describe(),
        wire=words() if words is not None else [],
    )


def lines(plan: Plan, *, points: bool) -> Iterator[str]:
    """Iterate over the plan as text; `points` adds what each point is on the wire."""
    for channel in plan.channels:
        if channel.url:
            yield f"channel {channel.id}: {channel.url}"
        for device in channel.devices:
            yield from _device_lines(device, plan.alike.get(device.id, ""), _INDENT if channel.url else "", points)
    if plan.disabled:
        yield f"disabled: {', '.join(plan.disabled)}"
    for uplink in plan.uplinks:
        yield f"uplink {uplink.id}: {' or '.join(uplink.url)}, {uplink.format} → {', '.join(uplink.topics)}"
        if uplink.commands:
            yield f"{_INDENT}may command {', '.join(uplink.commands)}"


def _device_lines(device: DevicePlan, alike: str, indent: str, points: bool) -> Iterator[str]:
    unit = "" if device.unit is None else f", unit {device.unit}"
    every = "; ".join(f"{group} every {every}" for group, every in device.every.items()).removeprefix(f"{MAIN_GROUP} ")
    label = f" ({device.label})" if device.label else ""
    yield f"{indent}device {device.id}{label}: {device.driver}{unit}, {counted(device.points, 'point')}, {every}"
    if alike and not points:
        yield f"{indent}{_INDENT}read like {alike}"
        return
    for request in device.requests:
        yield f"{indent}{_INDENT}{request}"
    if points:
        for words in device.wire:
            yield f"{indent}{_INDENT * 2}{words}"
