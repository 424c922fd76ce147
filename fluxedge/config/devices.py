"""Devices: checked against driver and channel, and `units` made into one device per unit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from fluxedge.config.channels import Channels
from fluxedge.config.decode import decode, decode_rest
from fluxedge.config.drivers import Remains, check_overrides, merged_options
from fluxedge.config.mistakes import Findings, unknown
from fluxedge.config.sources import Item
from fluxedge.config.structs import WITHOUT_CHANNEL, DeviceCfg, DriverCfg, ModbusOptionsCfg
from fluxedge.config.trial import left_of

MAX_UNIT = 247  # MODBUS over Serial Line V1.02, 2.2: 1..247 are individual slaves, 0 is broadcast
DEFAULT_UNIT = 1
_RANGE = re.compile(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?")


def parse_units(text: str) -> list[int]:
    """Return the units of "1-32" or "1,3,5-8", in the order given.

    Raises:
        ValueError: it is not such a list; the text says why.
    """
    units: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f'"{text}" is not a list of units; write for example "1-32" or "1,3,5-8"')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"{part.strip()}: {first} is greater than {last}")
        if not 1 <= first <= last <= MAX_UNIT:
            raise ValueError(f"{part.strip()} is not in 1..{MAX_UNIT}")
        units += range(first, last + 1)
    twice = next((unit for unit in units if units.count(unit) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    return units


def unit_of(driver: DriverCfg, device: DeviceCfg) -> int:
    """Return the Modbus unit of a device: its own, else the product's, else 1."""
    if device.unit is not None:
        return device.unit
    options = merged_options(driver, device)
    product = options.unit if isinstance(options, ModbusOptionsCfg) else None
    return DEFAULT_UNIT if product is None else product


@dataclass(slots=True)
class Devices:
    """The devices of a configuration while it is put together."""

    findings: Findings
    channels: Channels
    drivers: dict[str, DriverCfg]
    remains: dict[str, Remains]  # what is left of the drivers with mistakes
    unusable_drivers: Collection[str]
    driver_names: Iterable[str]  # for suggestions
    cfgs: dict[str, DeviceCfg] = field(default_factory=dict)
    left: dict[str, DeviceCfg] = field(default_factory=dict)  # what can be tried of devices that cannot run
    origins: dict[str, str] = field(default_factory=dict)  # id of a device -> key of its item
    _units: dict[tuple[str, int], str] = field(default_factory=dict)  # (channel, unit) -> id of the device

    def add(self, item: Item) -> None:
        """Take a device in, or note everything that is wrong with it."""
        before = len(self.findings.errors)
        cfg = decode(DeviceCfg, item.table, self.findings.noting(item.key))
        if cfg is None:  # go on with what is right in it: all mistakes are told at once
            cfg = decode_rest(DeviceCfg, item.table)
        if cfg is None:
            return
        driver = self._driver(item, cfg)
        channel = self._channel(item, cfg, driver)
        units = self._unit_list(item, cfg, driver)
        if driver is None:
            return
        remains = self.remains.get(cfg.driver)
        check_overrides(item, driver, cfg, self.findings, remains.lost if remains else ())
        if remains is None and channel is not None and units is not None and len(self.findings.errors) == before:
            for id_, device in expand(item.id, msgspec.structs.replace(cfg, channel=channel), units):
                self._take(item, id_, device, driver)
        if remains is not None or channel is None or len(self.findings.errors) > before:
            self.left[item.id] = left_of(item, cfg, driver, channel, self.findings)

    def _driver(self, item: Item, cfg: DeviceCfg) -> DriverCfg | None:
        """Return the driver or what is left of it."""
        driver = self.drivers.get(cfg.driver)
        if driver is not None:
            return driver
        if cfg.driver in self.remains or cfg.driver in self.unusable_drivers:
            self.findings.blocked[item.key] = f"its driver {cfg.driver} cannot be used"
        else:
            hint = "`fluxedge drivers ls` lists them all."
            self.findings.error(item.key, ("driver",), unknown("driver", cfg.driver, self.driver_names), hint)
        return self.remains[cfg.driver].driver if cfg.driver in self.remains else None

    def _channel(self, item: Item, cfg: DeviceCfg, driver: DriverCfg | None) -> str | None:
        if driver is not None and driver.protocol in WITHOUT_CHANNEL:
            if cfg.channel:
                text = f"a device of the protocol {driver.protocol} has no channel"
                self.findings.error(item.key, ("channel",), text, "Remove the key.")
            return ""
        if cfg.channel:
            return self.channels.of(item, cfg.channel)
        if driver is not None and "channel" not in item.fields:
            text = f"a device of the protocol {driver.protocol} needs a channel"
            hint = 'Write channel = "NAME" or channel = "tcp://192.168.1.10:502".'
            self.findings.error(item.key, (), text, hint)
        return None

    def _unit_list(self, item: Item, cfg: DeviceCfg, driver: DriverCfg | None) -> list[int] | None:
        if driver is not None and driver.protocol != "modbus":
            for key, given in (("unit", cfg.unit is not None), ("units", bool(cfg.units))):
                if given:
                    text = f"a device of the protocol {driver.protocol} has no unit"
                    self.findings.error(item.key, (key,), text, "Remove the key.")
            return []
        if not cfg.units:
            return []
        try:
            return parse_units(cfg.units)
        except ValueError as exc:
            self.findings.error(item.key, ("units",), str(exc))
            return None

    def _take(self, item: Item, id_: str, cfg: DeviceCfg, driver: DriverCfg) -> None:
        if id_ in self.cfgs:
            text = f"{id_} is already the name of a device, see {self.origins[id_].replace(':', ' ')}"
            self.findings.error(item.key, ("units",) if cfg.unit and id_ != item.id else (), text)
            return
        if len(id_) > 64:
            self.findings.error(item.key, (), f'"{id_}" is longer than 64 characters')
            return
        if driver.protocol == "modbus" and cfg.enabled:
            unit = unit_of(driver, cfg)
            other = self._units.setdefault((cfg.channel, unit), id_)
            if other != id_:
                key = "units" if id_ != item.id else "unit"
                text = f"unit {unit} of the channel {cfg.channel} is already the device {other}"
                self.findings.error(item.key, (key,) if key in item.fields else (), text)
                return
        self.cfgs[id_] = cfg
        self.origins[id_] = item.key


def expand(id_: str, cfg: DeviceCfg, units: list[int]) -> Iterable[tuple[str, DeviceCfg]]:
    """Return one device per unit, named ID-UNIT; the device itself where no units are given."""
    if not units:
        return [(id_, cfg)]
    return [
        (
            f"{id_}-{unit}",
            msgspec.structs.replace(cfg, unit=unit, units="", label=f"{cfg.label} {unit}" if cfg.label else ""),
        )
        for unit in units
    ]
