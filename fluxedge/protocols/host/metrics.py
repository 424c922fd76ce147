"""What the machine can tell about itself: one function per metric, values in SI units as psutil gives them.

    Sample    one look at the machine; asks psutil at most once per kind, however many metrics need the answer
    METRICS   name -> (wire type, function of a Sample); None = this machine does not have it

Bytes written since boot are those of the whole block device (block_device.py); what begins with flash_ comes from the
gateway's own flash ledger and is about the device that holds the log, whatever `disk` names.
"""

from __future__ import annotations

import functools
import time
import typing
from collections.abc import Callable
from pathlib import Path

import psutil

from fluxedge.block_device import SYS, bytes_written, whole_device_of
from fluxedge.columns import Value
from fluxedge.spi import FlashView


class Machine:
    """What stays the same between two looks, and what a look is compared with."""

    def __init__(self, *, disk: str, interface: str, sys: Path = SYS) -> None:
        self.disk = disk
        self.interface = interface  # empty = all but the loopback
        self.process = psutil.Process()
        self.process.cpu_percent(None)  # psutil compares with the call before
        self.block = whole_device_of(disk, sys)
        self.flash: FlashView | None = None  # lent by the gateway
        self._cpu_before = psutil.cpu_times()._asdict()

    def cpu_percent(self) -> float | None:
        """Return how busy all processors were since the last call; None when no time has passed."""
        before, self._cpu_before = self._cpu_before, psutil.cpu_times()._asdict()
        return busy_percent(before, self._cpu_before)


def busy_percent(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Return the share of time between two readings of psutil.cpu_times that was not idle."""

    def total(times: dict[str, float]) -> float:
        twice = times.get("guest", 0.0) + times.get("guest_nice", 0.0)  # Linux counts them in user and nice as well
        return sum(times.values()) - twice

    passed = total(after) - total(before)
    if passed <= 0:
        return None
    idle = after["idle"] + after.get("iowait", 0.0) - before["idle"] - before.get("iowait", 0.0)
    return min(100.0, max(0.0, 100.0 * (1.0 - idle / passed)))


class Sample:
    """One look at the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @functools.cached_property
    def load(self) -> tuple[float, float, float]:
        return psutil.getloadavg()

    @functools.cached_property
    def memory(self) -> typing.Any:
        return psutil.virtual_memory()

    @functools.cached_property
    def swap(self) -> typing.Any:
        return psutil.swap_memory()

    @functools.cached_property
    def disk(self) -> typing.Any:
        return psutil.disk_usage(self.machine.disk)

    @functools.cached_property
    def network(self) -> dict[str, int]:
        """Counters of the interface, or of all but the loopback together; empty when it does not exist."""
        wanted = self.machine.interface
        found = psutil.net_io_counters(pernic=True, nowrap=False)  # the kernel's counters have 64 bits
        counters = [c._asdict() for name, c in found.items() if name == wanted or (not wanted and name != "lo")]
        return {key: sum(counter[key] for counter in counters) for key in counters[0]} if counters else {}

    def temperature(self) -> float | None:
        """Return the highest temperature of all sensors, Cel."""
        sensors = [entry.current for entries in psutil.sensors_temperatures().values() for entry in entries]
        return max((current for current in sensors if current is not None), default=None)

    def written(self) -> int | None:
        """Return the bytes written to the disk's block device since boot."""
        return None if self.machine.block is None else bytes_written(self.machine.block / "stat")


class Metric(typing.NamedTuple):
    """One row of METRICS."""

    wire: str  # model.Point.wire
    look: Callable[[Sample], Value | None]


def _flash(look: Callable[[FlashView], Value | None]) -> Callable[[Sample], Value | None]:
    return lambda sample: None if sample.machine.flash is None else look(sample.machine.flash)


METRICS: dict[str, Metric] = {
    "cpu_percent": Metric("d", lambda s: s.machine.cpu_percent()),
    "cpu_count": Metric("q", lambda s: psutil.cpu_count()),
    "load_1": Metric("d", lambda s: s.load[0]),  # processes running or waiting, mean of 1, 5, 15 minutes
    "load_5": Metric("d", lambda s: s.load[1]),
    "load_15": Metric("d", lambda s: s.load[2]),
    "memory_total": Metric("q", lambda s: s.memory.total),
    "memory_used": Metric("q", lambda s: s.memory.used),
    "memory_available": Metric("q", lambda s: s.memory.available),
    "memory_percent": Metric("d", lambda s: s.memory.percent),
    "swap_total": Metric("q", lambda s: s.swap.total),
    "swap_used": Metric("q", lambda s: s.swap.used),
    "swap_percent": Metric("d", lambda s: s.swap.percent),
    "disk_total": Metric("q", lambda s: s.disk.total),
    "disk_used": Metric("q", lambda s: s.disk.used),
    "disk_free": Metric("q", lambda s: s.disk.free),
    "disk_percent": Metric("d", lambda s: s.disk.percent),
    "disk_written": Metric("q", lambda s: s.written()),
    "temperature": Metric("d", lambda s: s.temperature()),
    "network_received": Metric("q", lambda s: s.network.get("bytes_recv")),
    "network_sent": Metric("q", lambda s: s.network.get("bytes_sent")),
    "network_packets_received": Metric("q", lambda s: s.network.get("packets_recv")),
    "network_packets_sent": Metric("q", lambda s: s.network.get("packets_sent")),
    "network_errors_received": Metric("q", lambda s: s.network.get("errin")),
    "network_errors_sent": Metric("q", lambda s: s.network.get("errout")),
    "uptime": Metric("q", lambda s: int(time.clock_gettime(time.CLOCK_BOOTTIME))),
    "boot_time": Metric("q", lambda s: int(psutil.boot_time())),
    "process_cpu_percent": Metric("d", lambda s: s.machine.process.cpu_percent(None)),  # of one processor
    "process_rss": Metric("q", lambda s: s.machine.process.memory_info().rss),
    "process_pss": Metric("q", lambda s: s.machine.process.memory_full_info().pss),
    "process_fds": Metric("q", lambda s: s.machine.process.num_fds()),
    "process_threads": Metric("q", lambda s: s.machine.process.num_threads()),
    "flash_written": Metric("q", _flash(lambda f: f.gateway_bytes)),
    "flash_lifetime_written": Metric("q", _flash(lambda f: f.lifetime_bytes)),
    "flash_bytes_per_point": Metric("d", _flash(lambda f: f.bytes_per_point)),
    "flash_bytes_per_day": Metric("d", _flash(lambda f: f.bytes_per_day)),
    "flash_device_bytes_per_day": Metric("d", _flash(lambda f: f.device_bytes_per_day)),
    "flash_used_percent": Metric("d", _flash(lambda f: f.used_percent)),
    "flash_life_days": Metric("d", _flash(lambda f: f.life_days)),
}


def look_at(metric: Metric, sample: Sample) -> Value | None:
    """Return a metric's value; None where the machine does not have it or does not permit it."""
    try:
        return metric.look(sample)
    except (OSError, psutil.Error):
        return None
