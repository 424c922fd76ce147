"""From (old, new) configuration to starts and stops, and from a configuration to running objects.

Never "what changed" field by field: items are frozen, equal ones are left alone, different ones are stopped and
started. A device change does not close its channel: the device set of the channel's poller is swapped.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fluxedge.config.mistakes import Finding
from fluxedge.config.structs import WITHOUT_CHANNEL, Config, DeviceCfg, DriverCfg
from fluxedge.config.urls import parse_channel_url
from fluxedge.protocols import PROTOCOLS
from fluxedge.spi import Protocol

T = typing.TypeVar("T")
Built = tuple[DeviceCfg, DriverCfg, str, float]  # what a device's protocol object is made of


@dataclass(frozen=True, slots=True)
class Difference(typing.Generic[T]):
    """What to do with the items of one kind."""

    stop: tuple[str, ...]
    start: tuple[str, ...]  # a changed item is in both


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a reload does."""

    channels: Difference[object]
    devices: Difference[object]
    uplinks: Difference[object]
    restart_needed: tuple[str, ...] = field(default=())  # tables whose change needs a restart

    @classmethod
    def nothing(cls) -> Plan:
        """Return the plan that changes nothing."""
        empty: Difference[object] = Difference((), ())
        return cls(empty, empty, empty)

    @property
    def started(self) -> list[str]:
        """Return what is started: "device:m1"."""
        return [f"{kind}:{name}" for kind, part in self._parts() for name in part.start]

    @property
    def stopped(self) -> list[str]:
        """Return what is stopped: "device:m1"."""
        return [f"{kind}:{name}" for kind, part in self._parts() for name in part.stop]

    def _parts(self) -> tuple[tuple[str, Difference[object]], ...]:
        return ("channel", self.channels), ("device", self.devices), ("uplink", self.uplinks)

    def __bool__(self) -> bool:
        parts = (self.channels, self.devices, self.uplinks)
        return any(part.stop or part.start for part in parts) or bool(self.restart_needed)


def difference(old: Mapping[str, T], new: Mapping[str, T]) -> Difference[T]:
    """Return what to stop and to start; items that are equal in both are in neither."""
    stop = tuple(name for name, item in old.items() if new.get(name) != item)
    start = tuple(name for name, item in new.items() if old.get(name) != item)
    return Difference(stop, start)


def plan(old: Config, new: Config) -> Plan:
    """Return what leads from `old` to `new`."""
    return Plan(
        channels=difference(old.channels, new.channels),
        devices=difference(made_of(old), made_of(new)),
        uplinks=difference(_uplinks(old), _uplinks(new)),
        restart_needed=tuple(name for name in ("gateway", "log", "api") if getattr(old, name) != getattr(new, name)),
    )


def _uplinks(config: Config) -> dict[str, tuple[object, ...]]:
    """An uplink is its table and the secrets that it names."""
    found = {}
    for name, cfg in config.uplinks.items():
        names = [cfg.password] + ([cfg.tls.ca, cfg.tls.certificate, cfg.tls.key] if cfg.tls else [])
        found[name] = (cfg, *(config.secrets.get(secret, "") for secret in names))
    return found


def made_of(config: Config) -> dict[str, Built]:
    """Return for every device that runs what its protocol object is made of."""
    found: dict[str, Built] = {}
    for name, device in config.devices.items():
        driver = config.drivers[device.driver]
        if not device.enabled:
            continue
        if driver.protocol in WITHOUT_CHANNEL:
            found[name] = (device, driver, "", 0.0)
            continue
        channel = config.channels[device.channel]
        found[name] = (device, driver, parse_channel_url(channel.url).framing, float(channel.timeout_s))
    return found


def build(device_id: str, made: Built) -> Protocol:
    """Compile one device.

    Raises:
        ConfigProblem: the loader's compile step has told the user all of it before.
    """
    device, driver, framing, timeout_s = made
    compile_device, _ = PROTOCOLS[driver.protocol]
    return compile_device(device_id, device, driver, framing=framing, timeout_s=timeout_s)


def by_channel(config: Config, devices: Iterable[str]) -> dict[str, list[str]]:
    """Return channel id -> devices on it; channels without any are not opened."""
    found: dict[str, list[str]] = {name: [] for name in config.channels}
    for name in devices:
        found.setdefault(channel_of(config, name), []).append(name)
    return {channel: names for channel, names in found.items() if names}


def channel_of(config: Config, device: str) -> str:
    """Return the id of the channel that a device is on; of a protocol without channel, one of its own.

    "@" stands in no id that a file can give, so that a channel may be called like a device.
    """
    cfg = config.devices[device]
    without = config.drivers[cfg.driver].protocol in WITHOUT_CHANNEL
    return f"{device}@gateway" if without else cfg.channel


def findings(config: Config) -> list[Finding]:
    """Return what only the protocols can find: the loader's compile step. Pure; a second at a thousand devices."""
    found: list[Finding] = []
    for name, made in made_of(config).items():
        device, driver, framing, _ = made
        _, mistakes = PROTOCOLS[driver.protocol]
        found += mistakes(name, device, driver, framing=framing)
    return found
