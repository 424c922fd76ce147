"""The trial: everything that can be compiled, with mistakes or without, so that all of them are told at once.

A driver or device with mistakes takes part with what is left of it. It does not run, but the protocols look at it, and
what they find is told with the rest, unless it may only follow from what has been told already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from fluxedge.config.drivers import Remains
from fluxedge.config.mistakes import Finding, Findings
from fluxedge.config.sources import Item
from fluxedge.config.structs import WITHOUT_CHANNEL, ChannelCfg, Config, DeviceCfg, DriverCfg, PointOverrideCfg

ANY_CHANNEL = "@any"  # no file can give such an id
_SUFFIX = "@driver"  # of the device that stands for a driver which no device names
_ALONE = ("at", "metric")  # keys of a point that are right or wrong whatever its other keys say

Compile = Callable[[Config], Iterable[Finding]]
"""Find what only a protocol can find, in whatever could be put together; devices made of `units` are named singly."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is compiled to find mistakes."""

    config: Config
    partial: Mapping[str, frozenset[str]]  # driver -> points that lack some of their keys

    def findings(self, compile: Compile) -> list[Finding]:
        """Return what the protocols find, without what may only follow from known mistakes."""
        return [finding for finding in compile(self.config) if self._counts(finding)]

    def _counts(self, finding: Finding) -> bool:
        kind, _, id_ = finding.item.partition(":")
        if kind == "device" and id_.endswith(_SUFFIX):
            return False
        if len(finding.path) != 3 or finding.path[0] != "points" or finding.path[2] in _ALONE:
            return True  # of a point as a whole, or below one of its keys: what the key itself says
        driver = self.config.devices[id_].driver if kind == "device" and id_ in self.config.devices else id_
        return finding.path[1] not in self.partial.get(driver, ())


def trial(
    channels: dict[str, ChannelCfg],
    devices: dict[str, DeviceCfg],
    drivers: dict[str, DriverCfg],
    remains: dict[str, Remains],
) -> Trial:
    """Return the trial of these items; a driver that no device names is tried alone."""
    all_drivers = {name: left.driver for name, left in remains.items()} | drivers
    unnamed = all_drivers.keys() - {device.driver for device in devices.values() if device.enabled}
    alone = {
        f"{name}{_SUFFIX}": DeviceCfg(driver=name, channel=_channel(all_drivers[name], None))
        for name in sorted(unnamed)
    }
    wires = channels | {ANY_CHANNEL: ChannelCfg(url="tcp://127.0.0.1")}
    config = Config(channels=wires, devices=devices | alone, drivers=all_drivers)
    return Trial(config, {name: left.partial for name, left in remains.items()})


def left_of(item: Item, cfg: DeviceCfg, driver: DriverCfg, channel: str | None, findings: Findings) -> DeviceCfg:
    """Return what can be tried of a device with mistakes."""
    hurt = findings.keys_below(item.key, "points")
    points = {name: override for name, override in cfg.points.items() if name in driver.points}
    points |= {name: PointOverrideCfg(drop=True) for name in sorted(hurt & driver.points.keys())}
    wrong = findings.keys_below(item.key, "options")
    options = {key: value for key, value in cfg.options.items() if key not in wrong}
    if ("options",) in findings.paths(item.key):  # a rule across options
        options = {}
    return msgspec.structs.replace(cfg, points=points, options=options, channel=_channel(driver, channel), units="")


def _channel(driver: DriverCfg, channel: str | None) -> str:
    if driver.protocol in WITHOUT_CHANNEL:
        return ""
    return channel or ANY_CHANNEL
