"""From a device's and its driver's configuration to compiled points; every mistake is found here, none at a read.

A finding names its item: the driver file ("driver:acme-pm3") or the device's table ("device:meter-1").
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from fluxedge.config.mistakes import Finding, unknown
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import DeviceCfg, DriverCfg, ModbusOptionsCfg, ModbusPointCfg, PointOverrideCfg
from fluxedge.model import Point
from fluxedge.protocols.modbus.address import Address, Area, parse
from fluxedge.protocols.modbus.plan import GAP_REGISTERS, Limits
from fluxedge.protocols.modbus.types import ORDERS, Layout, compile_point, is_number

MAIN = "main"  # the group of points that name none
_MOST_WRITTEN = 123  # registers in one FC16; MODBUS Application Protocol V1.1b3, 6.12
_SCALING = ("label", "unit", "scale", "offset", "precision", "low", "high")  # what a device can say differently


@dataclass(frozen=True, slots=True)
class CompiledPoint:
    """One point: what the file says, what the log keeps, where it lies."""

    cfg: ModbusPointCfg
    point: Point
    layout: Layout


@dataclass(frozen=True, slots=True)
class Compiled:
    """One device, compiled; only usable when there are no `findings`."""

    unit: int
    limits: Limits
    turnaround_s: float  # extra silence that the device wants before each request
    groups: dict[str, list[CompiledPoint]]  # "main" first, then in the driver file's order; none is empty
    periods_s: dict[str, float]
    findings: list[Finding]


def compile_device(device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str) -> Compiled:
    """Compile everything a protocol needs to know about one device."""
    return _Compiler(device_id, device, driver, framing).run()


class _Compiler:
    """One compilation: collects what it finds wrong instead of stopping at the first mistake."""

    def __init__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, framing: str) -> None:
        self.device, self.driver, self.framing = device, driver, framing
        self.device_item, self.driver_item = f"device:{device_id}", f"driver:{driver.id}"
        self.findings: list[Finding] = []
        self.options = self._merged_options()
        self.limits = self._limits()

    def run(self) -> Compiled:
        unit = self._unit()
        self._check_order()
        driver = self.driver
        groups: dict[str, list[CompiledPoint]] = {name: [] for name in dict.fromkeys((MAIN, *driver.groups))}
        for name, cfg in driver.points.items():
            if not isinstance(cfg, ModbusPointCfg):
                raise TypeError(f"{driver.id}: {name} is not a Modbus point")
            override = self.device.points.get(name, PointOverrideCfg())
            compiled = self._point(name, cfg, override)
            if cfg.group and cfg.group not in groups:
                self._point_mistake(name, "group", unknown("table in [groups]", cfg.group, driver.groups))
            elif compiled is not None and not override.drop:
                groups[cfg.group or MAIN].append(compiled)
        self._check_overrides()
        kept = {name: points for name, points in groups.items() if points}
        if not kept and not self.findings:
            self.findings.append(Finding(self.driver_item, ("points",), "there is no point to read"))
        return Compiled(unit, self.limits, float(self.options.turnaround_s), kept, self._periods_s(kept), self.findings)

    # --- options ------------------------------------------------------------------------------------------------------

    def _merged_options(self) -> ModbusOptionsCfg:
        """Return the driver's [options] with the device's laid over them."""
        options = self.driver.options
        merged = options if isinstance(options, ModbusOptionsCfg) else ModbusOptionsCfg()
        names = {info.encode_name: info.name for info in msgspec.structs.fields(ModbusOptionsCfg)}
        for key, value in self.device.options.items():
            if key not in names:
                words = unknown("option", key, names)
                self.findings.append(Finding(self.device_item, ("options", key), words))
                continue
            try:
                single = msgspec.convert({key: value}, ModbusOptionsCfg, dec_hook=_decode_seconds)
            except (msgspec.ValidationError, ValueError) as exc:
                self.findings.append(Finding(self.device_item, ("options", key), str(exc).split(" - at ")[0]))
                continue
            merged = msgspec.structs.replace(merged, **{names[key]: getattr(single, names[key])})
        return merged

    def _option_mistake(self, key: str, message: str, *below: int) -> None:
        item = self.device_item if key in self.device.options else self.driver_item
        self.findings.append(Finding(item, ("options", key, *below), message))

    def _limits(self) -> Limits:
        options = self.options
        barriers: set[tuple[Area, int]] = set()
        for i, text in enumerate(options.barriers):
            try:
                place = parse(text)
                if place.bit is not None:
                    raise ValueError(f"{text!r}: a barrier is an address, not a bit")
                barriers.add((place.area, place.number))
            except ValueError as exc:
                self._option_mistake("barriers", str(exc), i)
        cheapest = GAP_REGISTERS["tcp" if self.framing == "tcp" else "rtu"]
        return Limits(
            max_registers=options.max_registers,
            max_bits=options.max_bits,
            max_gap=cheapest if options.max_gap is None else options.max_gap,
            max_bit_gap=options.max_bit_gap,
            barriers=frozenset(barriers),
            single_requests=options.single_requests,
        )

    def _check_order(self) -> None:
        order = self.options.order
        if order and order not in ORDERS[4]:
            self._option_mistake("order", f"{order!r} is not an order of 32 bits: {', '.join(ORDERS[4])}")
            self.options = msgspec.structs.replace(self.options, order="")

    def _unit(self) -> int:
        given = (self.device.unit, self.options.unit, 1)
        unit = next(unit for unit in given if unit is not None)
        if unit == 0 and self.framing != "tcp":
            words = "on a serial line unit 0 is everybody, and nobody answers"
            self.findings.append(Finding(self.device_item, ("unit",), words, "Give the device's unit id, 1 to 247."))
        return unit

    # --- points -------------------------------------------------------------------------------------------------------

    def _point_mistake(self, name: str, key: str, message: str) -> None:
        self.findings.append(Finding(self.driver_item, ("points", name, key), message))

    def _point(self, name: str, cfg: ModbusPointCfg, override: PointOverrideCfg) -> CompiledPoint | None:
        """Return the compiled point; None when something is wrong with it."""
        found = len(self.findings)
        try:
            place = parse(cfg.at)
        except ValueError as exc:
            self._point_mistake(name, "at", str(exc))
            return None
        try:
            layout = compile_point(cfg, place, self.options.order, self.limits)
        except ValueError as exc:
            self._point_mistake(name, *exc.args)
            return None
        fields = {key: getattr(cfg, key) for key in _SCALING}
        fields |= {key: value for key in _SCALING if (value := getattr(override, key)) is not msgspec.UNSET}
        point = Point(
            name=override.rename if isinstance(override.rename, str) else name,
            wire=layout.wire,
            enum=self._numbered(name, "enum", cfg.enum),
            bits=self._numbered(name, "bits", cfg.bits),
            **fields,
        )
        for key, words in _contradictions(cfg, point, layout, place):
            if getattr(override, key, msgspec.UNSET) is msgspec.UNSET:
                self._point_mistake(name, key, words)
            else:
                self.findings.append(Finding(self.device_item, ("points", name, key), words))
        return CompiledPoint(cfg, point, layout) if len(self.findings) == found else None

    def _numbered(self, name: str, key: str, table: dict[str, str]) -> dict[int, str]:
        numbered: dict[int, str] = {}
        for number, text in table.items():
            try:
                numbered[int(number, 0)] = text
            except ValueError:
                self.findings.append(
                    Finding(self.driver_item, ("points", name, key, number), f"{number!r} is not an integer")
                )
        return numbered

    def _check_overrides(self) -> None:
        used: dict[str, str] = {}
        for name in self.driver.points:
            override = self.device.points.get(name, PointOverrideCfg())
            if override.drop:
                continue
            new = override.rename if isinstance(override.rename, str) else name
            if new in used:
                words = f"{new!r} is already the name of {used[new]}"
                culprit = name if isinstance(override.rename, str) else used[new]
                self.findings.append(Finding(self.device_item, ("points", culprit, "rename"), words))
            used[new] = name
        for name in self.device.points:
            if name not in self.driver.points:
                words = unknown(f"point in the driver {self.driver.id}", name, self.driver.points)
                self.findings.append(Finding(self.device_item, ("points", name), words))

    def _periods_s(self, groups: dict[str, list[CompiledPoint]]) -> dict[str, float]:
        device, driver = self.device, self.driver
        main_s = float(device.every_s if device.every_s is not None else driver.every_s)
        named_s = {name: float(cfg.every_s) for name, cfg in driver.groups.items()}
        if device.every_s is not None:
            named_s.pop(MAIN, None)
        return {name: named_s.get(name, main_s) for name in groups}


def _decode_seconds(kind: type, value: object) -> object:
    return Seconds.parse(value) if kind is Seconds else value


def _contradictions(cfg: ModbusPointCfg, point: Point, layout: Layout, place: Address) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong) for keys of a point that do not fit together."""
    if not is_number(layout):
        yield from _of_no_number(cfg, point, layout.type)
    elif point.enum or point.bits:
        key = "enum" if point.enum else "bits"
        if layout.wire in "fd":
            yield key, f"only an integer has {key}, not {layout.type}"
        if point.scale != 1.0 or point.offset != 0.0:
            yield "scale" if point.scale != 1.0 else "offset", f"a point with {key} is its integer; it is not scaled"
        if point.bits and not 0 <= min(point.bits) <= max(point.bits) < 8 * len(layout.pick):
            yield "bits", f"{layout.type} has the bits 0 to {8 * len(layout.pick) - 1}"
    if point.low is not None and point.high is not None and point.low > point.high:
        yield "low", f"{point.low:g} is above high ({point.high:g})"
    if point.scale == 0:
        yield "scale", "0 would make every value the offset"
    if cfg.min is not None and cfg.max is not None and cfg.min > cfg.max:
        yield "min", f"{cfg.min:g} is above max ({cfg.max:g})"
    if cfg.write is not False:
        if not place.area.writable:
            yield "write", f"{cfg.at} is an address of {place.area.title}, which can only be read"
        if cfg.write == "single" and layout.span.count > 1:
            yield "write", f'{layout.type} has {layout.span.count} registers, which go in one request: not "single"'
        if layout.span.count > _MOST_WRITTEN:
            yield "write", f"one request writes at most {_MOST_WRITTEN} registers"


def _of_no_number(cfg: ModbusPointCfg, point: Point, kind: str) -> Iterator[tuple[str, str]]:
    defaults: dict[str, typing.Any] = {"scale": 1.0, "offset": 0.0, "precision": None, "low": None, "high": None}
    for key, default in defaults.items():
        if getattr(point, key) != default:
            yield key, f"a {kind} has no {key}"
    for key, default in {"enum": {}, "bits": {}, "min": None, "max": None}.items():
        if getattr(cfg, key) != default:
            yield key, f"a {kind} has no {key}"
