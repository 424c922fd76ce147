"""What protocols without a wire share: there is no channel and nobody is asked (host, simulator)."""

from __future__ import annotations

import typing

from fluxedge.clock import Clock, SystemClock
from fluxedge.config.mistakes import Finding, path_text
from fluxedge.config.structs import DeviceCfg, DriverCfg
from fluxedge.problems import ConfigProblem, DeviceProblem
from fluxedge.spi import ByteLink


class Mistakes(typing.Protocol):
    """Return everything that is wrong with a device and its driver. Pure."""

    def __call__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str = "") -> list[Finding]: ...


class LocalProtocol:
    """A device of this machine; with reading and writing, which the kind adds, it implements spi.Protocol."""

    mistakes: typing.ClassVar[Mistakes]
    timeout_s = 0.0  # nobody is asked

    def __init__(self, device_id: str, device: DeviceCfg, driver: DriverCfg, clock: Clock) -> None:
        self._clock = clock
        self.partial: DeviceProblem | None = None  # what is not GOOD is in the round

    @classmethod
    def build(
        cls,
        device_id: str,
        device: DeviceCfg,
        driver: DriverCfg,
        *,
        framing: str = "",
        timeout_s: float = 0.0,
        clock: Clock | None = None,
    ) -> typing.Self:
        """Compile the device; framing and time-out mean nothing here.

        Raises:
            ConfigProblem: "config-invalid"; it names the first mistake, `mistakes` returns them all.
        """
        for finding in cls.mistakes(device_id, device, driver):
            raise ConfigProblem("config-invalid", f"{path_text(finding.path)}: {finding.message}", finding.hint)
        return cls(device_id, device, driver, clock or SystemClock())

    async def check_link(self, link: ByteLink | None, timeout_s: float | None = None) -> None:
        """What is not elsewhere is always there."""
