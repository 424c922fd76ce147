"""The protocols that exist: an explicit list, nothing registers itself."""

from __future__ import annotations

import typing

from fluxedge.config.mistakes import Finding
from fluxedge.config.structs import DeviceCfg, DriverCfg
from fluxedge.protocols import host, modbus, simulator
from fluxedge.spi import Protocol


class Build(typing.Protocol):
    """Compile one device; raises ConfigProblem for what `Mistakes` would have told."""

    def __call__(
        self, device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str, timeout_s: float
    ) -> Protocol: ...


class Mistakes(typing.Protocol):
    """Return everything that is wrong with a device and its driver. Pure."""

    def __call__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str) -> list[Finding]: ...


PROTOCOLS: dict[str, tuple[Build, Mistakes]] = {
    "modbus": (modbus.ModbusProtocol.build, modbus.compile_mistakes),
    "host": (host.HostProtocol.build, host.compile_mistakes),
    "simulator": (simulator.SimulatorProtocol.build, simulator.compile_mistakes),
}
