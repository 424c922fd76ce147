"""Host: the machine that fluxedge runs on, as an ordinary device. There is no channel and nothing to write."""

from __future__ import annotations

import typing

from fluxedge.clock import Clock
from fluxedge.columns import Value
from fluxedge.config.drivers import merged_options
from fluxedge.config.mistakes import Finding, unknown
from fluxedge.config.points import column_fields, grouped_points, periods_s
from fluxedge.config.structs import DeviceCfg, DriverCfg, HostOptionsCfg, HostPointCfg
from fluxedge.model import Group, Point, Quality, Round
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.host.metrics import METRICS, Machine, Metric, Sample, look_at
from fluxedge.protocols.local import LocalProtocol
from fluxedge.spi import ByteLink, FlashView, Written


def compile_mistakes(device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str = "") -> list[Finding]:
    """Return everything that is wrong with a device and its driver."""
    return [
        Finding(f"driver:{driver.id}", ("points", name, "metric"), unknown("metric", point.metric, METRICS))
        for name, point in driver.points.items()
        if isinstance(point, HostPointCfg) and point.metric not in METRICS
    ]


class HostProtocol(LocalProtocol):
    """The machine; implements spi.Protocol."""

    kind = "host"
    mistakes = staticmethod(compile_mistakes)

    def __init__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, clock: Clock) -> None:
        super().__init__(device_id, device, driver, clock)
        options = typing.cast(HostOptionsCfg, merged_options(driver, device))
        self._machine = Machine(disk=options.disk, interface=options.interface)
        self._metrics: dict[str, list[Metric]] = {}
        groups = []
        for name, cfgs in grouped_points(driver, device).items():
            points, metrics = [], []
            for point_name, cfg in cfgs.items():
                metric = METRICS[typing.cast(HostPointCfg, cfg).metric]
                points.append(Point(point_name, metric.wire, **column_fields(cfg)))
                metrics.append(metric)
            groups.append(Group(device_id, name, tuple(points), device.label))
            self._metrics[name] = metrics
        self.groups = tuple(groups)
        self.periods_s = {name: s for name, s in periods_s(driver, device).items() if name in self._metrics}

    def lend(self, flash: FlashView) -> None:
        """Take the gateway's flash ledger, which the metrics flash_* ask; without it they are BAD."""
        self._machine.flash = flash

    async def read(self, link: ByteLink | None, group: Group) -> Round:
        """Look at the machine; what it does not have is BAD. Takes 0.5 ms of the loop (measured, 20 metrics)."""
        sample = Sample(self._machine)
        raws = tuple(look_at(metric, sample) for metric in self._metrics[group.name])
        quality = bytes(Quality.BAD if raw is None else Quality.GOOD for raw in raws) if None in raws else b""
        return group.round(raws, self._clock.wall_ns(), self._clock.mono_ns(), quality=quality)

    def encode(self, point: str, value: Value) -> Value:
        """Raises ConfigProblem "command-refused": nothing of the machine can be written."""
        raise _refusal(point)

    async def write(self, link: ByteLink | None, point: str, value: Value) -> Written:
        """Raises ConfigProblem "command-refused": nothing of the machine can be written."""
        raise _refusal(point)

    def describe(self) -> list[str]:
        """Return what is read, a line per group."""
        return [f"{group.name}: {len(group.points)} metrics of this machine" for group in self.groups]


def _refusal(point: str) -> ConfigProblem:
    return ConfigProblem("command-refused", f"{point}: nothing of the machine can be written")
