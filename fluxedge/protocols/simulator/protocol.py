"""Simulator: a device that exists only here. Its values are waves; a writable point holds what was written to it."""

from __future__ import annotations

import typing

import msgspec

from fluxedge.clock import Clock
from fluxedge.columns import Value
from fluxedge.config.drivers import final_name, merged_options, merged_points
from fluxedge.config.mistakes import Finding
from fluxedge.config.points import grouped_points, periods_s
from fluxedge.config.structs import DeviceCfg, DriverCfg, SimulatorOptionsCfg, SimulatorPointCfg
from fluxedge.model import Group, Round
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.local import LocalProtocol
from fluxedge.protocols.simulator.points import SimulatedPoint, contradictions
from fluxedge.spi import ByteLink, Written


def compile_mistakes(device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str = "") -> list[Finding]:
    """Return everything that is wrong with a device and its driver."""
    findings = []
    merged = merged_points(driver, device)
    for name in driver.points:
        override = device.points.get(name)
        point = merged.get(final_name(name, override))
        if not isinstance(point, SimulatorPointCfg):  # dropped
            continue
        for key, words in contradictions(point):
            said_by_device = getattr(override, key, msgspec.UNSET) is not msgspec.UNSET
            item = f"device:{device_id}" if said_by_device else f"driver:{driver.id}"
            findings.append(Finding(item, ("points", name, key), words))
    return findings


class SimulatorProtocol(LocalProtocol):
    """One simulated device; implements spi.Protocol."""

    kind = "simulator"
    mistakes = staticmethod(compile_mistakes)

    def __init__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, clock: Clock) -> None:
        super().__init__(device_id, device, driver, clock)
        options = typing.cast(SimulatorOptionsCfg, merged_options(driver, device))
        self._columns: dict[str, list[SimulatedPoint]] = {
            group: [
                SimulatedPoint(name, typing.cast(SimulatorPointCfg, cfg), options.seed) for name, cfg in cfgs.items()
            ]
            for group, cfgs in grouped_points(driver, device).items()
        }
        self._points = {p.point.name: p for points in self._columns.values() for p in points}
        self._written: dict[str, Value] = {}  # name -> raw
        self.groups = tuple(
            Group(device_id, name, tuple(p.point for p in points), device.label)
            for name, points in self._columns.items()
        )
        self.periods_s = {name: s for name, s in periods_s(driver, device).items() if name in self._columns}

    async def read(self, link: ByteLink | None, group: Group) -> Round:
        """Return the values of this instant."""
        at_ns = self._clock.wall_ns()
        raws = tuple(self._raw(point, at_ns) for point in self._columns[group.name])
        return group.round(raws, at_ns, self._clock.mono_ns())

    def encode(self, point: str, value: Value) -> Value:
        """Return the raw for an engineering value.

        Raises:
            ConfigProblem: "command-refused": no such point, not writable, wrong type, out of limits.
        """
        if point not in self._points:
            raise ConfigProblem("command-refused", f"there is no point {point!r}")
        try:
            return self._points[point].encode(value)
        except (ValueError, OverflowError) as exc:
            raise ConfigProblem("command-refused", f"{point}: {exc}") from exc

    async def write(self, link: ByteLink | None, point: str, value: Value) -> Written:
        """Hold a value from now on.

        Raises:
            ConfigProblem: "command-refused", as `encode`.
        """
        raw = self.encode(point, value)
        before = self._engineering(point)
        self._written[point] = raw
        return Written(raw, self._engineering(point), True, before)

    def describe(self) -> list[str]:
        """Return what is read, a line per group."""
        return [f"{group.name}: {len(group.points)} simulated points" for group in self.groups]

    def _raw(self, point: SimulatedPoint, at_ns: int) -> Value:
        written = self._written.get(point.point.name)
        return point.raw(at_ns) if written is None else written

    def _engineering(self, name: str) -> Value | None:
        point = self._points[name]
        at_ns = self._clock.wall_ns()
        return Group("", "", (point.point,)).round((self._raw(point, at_ns),), at_ns, 0).values[0]
