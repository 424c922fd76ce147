"""From a device's and its driver's configuration to compiled points; every mistake is found here, none at a read.

A finding names its item: the driver file ("driver:acme-pm3") or the device's table ("device:meter-1").
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
from msgspec import UNSET

from fluxedge.config.drivers import MAIN_GROUP, final_name, merged_options, merged_points
from fluxedge.config.mistakes import Finding
from fluxedge.config.points import column_fields, periods_s
from fluxedge.config.structs import DeviceCfg, DriverCfg, ModbusOptionsCfg, ModbusPointCfg, PointOverrideCfg
from fluxedge.model import Point
from fluxedge.protocols.modbus.address import Area, parse
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.plan import GAP_REGISTERS, Limits, Request, plan
from fluxedge.protocols.modbus.types import ORDERS, Layout, compile_point, is_number

_MOST_WRITTEN = 123  # registers in one FC16; MODBUS Application Protocol V1.1b3, 6.12


@dataclass(frozen=True, slots=True)
class CompiledPoint:
    """One point: what the file says, what the log keeps, where it lies."""

    cfg: ModbusPointCfg
    point: Point
    layout: Layout


@dataclass(frozen=True, slots=True)
class CompiledGroup:
    """Points that are read together, their plan and the decoding of its replies."""

    points: tuple[Point, ...]
    layouts: tuple[Layout, ...]
    requests: tuple[Request, ...]
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class Compiled:
    """One device, compiled; only usable when there are no `findings`. Devices of one kind share all but the unit."""

    groups: dict[str, CompiledGroup]  # "main" first, then in the driver file's order; none is empty
    points: dict[str, CompiledPoint]  # by the name that the device gives them
    limits: Limits
    turnaround_s: float  # extra silence that the device wants before each request
    findings: tuple[Finding, ...]
    unit: int = 1
    periods_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """What a compilation depends on; a driver is the same when it is the same object."""

    driver: DriverCfg
    framing: str
    options: ModbusOptionsCfg  # the device's over the driver's
    overrides: dict[str, PointOverrideCfg]

    def __hash__(self) -> int:
        return hash((id(self.driver), self.framing))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Source)
            and other.driver is self.driver
            and (other.framing, other.options, other.overrides) == (self.framing, self.options, self.overrides)
        )


def compile_device(device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str) -> Compiled:
    """Compile everything a protocol needs to know about one device.

    What every protocol shares (options that do not exist, overrides of unknown points, groups) the loader has checked.

    Raises:
        ValueError: the loader would have refused the device's options or overrides.
    """
    if not isinstance(driver.options, ModbusOptionsCfg):
        driver = msgspec.structs.replace(driver, options=ModbusOptionsCfg())
    options = typing.cast(ModbusOptionsCfg, merged_options(driver, device))
    shared = _compile(_Source(driver, framing, options, device.points))
    item = f"device:{device_id}"
    findings = [replace(finding, item=finding.item or item) for finding in shared.findings]
    unit = next(unit for unit in (device.unit, options.unit, 1) if unit is not None)
    if unit == 0 and framing != "tcp":
        words = "on a serial line unit 0 is everybody, and nobody answers"
        findings.append(Finding(item, ("unit",), words, "Give the device's unit id, 1 to 247."))
    every_s = {name: period_s for name, period_s in periods_s(driver, device).items() if name in shared.groups}
    return replace(shared, findings=tuple(findings), unit=unit, periods_s=every_s)


@functools.lru_cache(maxsize=64)  # a thousand devices are of a few kinds: 5 ms and 300 KB for 500 points, once
def _compile(source: _Source) -> Compiled:
    return _Compiler(source).run()


class _Compiler:
    """One compilation: collects what it finds wrong instead of stopping at the first mistake.

    A finding without an item is the device's, whichever it is.
    """

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.driver_item = f"driver:{source.driver.id}"
        self.findings: list[Finding] = []
        self.options = source.options
        self.limits = self._limits()

    def run(self) -> Compiled:
        self._check_order()
        driver, overrides = self.source.driver, self.source.overrides
        groups: dict[str, list[CompiledPoint]] = {name: [] for name in (MAIN_GROUP, *driver.groups)}
        merged = merged_points(driver, DeviceCfg(driver=driver.id, points=overrides))
        for name, cfg in driver.points.items():
            override = overrides.get(name)
            if override is not None and override.drop:
                continue
            final = final_name(name, override)
            point = self._point(name, final, typing.cast(ModbusPointCfg, merged[final]), override)
            if point is not None:
                groups[cfg.group or MAIN_GROUP].append(point)
        return Compiled(
            {name: self._group(points) for name, points in groups.items() if points},
            {point.point.name: point for points in groups.values() for point in points},
            self.limits,
            float(self.options.turnaround_s),
            tuple(self.findings),
        )

    def _group(self, points: list[CompiledPoint]) -> CompiledGroup:
        layouts = tuple(point.layout for point in points)
        requests = plan([layout.span for layout in layouts], self.limits)
        return CompiledGroup(tuple(point.point for point in points), layouts, requests, Decoder(layouts, requests))

    # --- options ------------------------------------------------------------------------------------------------------

    def _option_mistake(self, key: str, message: str, *below: int) -> None:
        option = getattr(self.source.options, key)
        item = self.driver_item if option == getattr(self.source.driver.options, key) else ""
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
        cheapest = GAP_REGISTERS["tcp" if self.source.framing == "tcp" else "rtu"]
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

    # --- points -------------------------------------------------------------------------------------------------------

    def _point_mistake(self, name: str, key: str, message: str) -> None:
        self.findings.append(Finding(self.driver_item, ("points", name, key), message))

    def _point(
        self, name: str, final: str, cfg: ModbusPointCfg, override: PointOverrideCfg | None
    ) -> CompiledPoint | None:
        """Return the compiled point; None when something is wrong with it."""
        found = len(self.findings)
        enum = self._numbered(name, "enum", cfg.enum)
        bits = self._numbered(name, "bits", cfg.bits)
        if cfg.min is not None and cfg.max is not None and cfg.min > cfg.max:
            self._point_mistake(name, "min", f"{cfg.min:g} is above max ({cfg.max:g})")
        try:
            place = parse(cfg.at)
        except ValueError as exc:
            self._point_mistake(name, "at", str(exc))
            return None
        if cfg.write is not False and not place.area.writable:
            words = f"{cfg.at} is an address of {place.area.title}, which can only be read"
            self._point_mistake(name, "write", words)
        try:
            layout = compile_point(cfg, place, self.options.order, self.limits)
        except ValueError as exc:
            for key, words in exc.args:
                self._point_mistake(name, key, words)
            return None
        point = Point(name=final, wire=layout.wire, enum=enum, bits=bits, **column_fields(cfg))
        for key, words in _contradictions(cfg, point, layout):
            if override is None or getattr(override, key, UNSET) is UNSET:
                self._point_mistake(name, key, words)
            else:
                self.findings.append(Finding("", ("points", name, key), words))
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


def _contradictions(cfg: ModbusPointCfg, point: Point, layout: Layout) -> Iterator[tuple[str, str]]:
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
    if cfg.write is not False:
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
