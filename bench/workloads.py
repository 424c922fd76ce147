"""The workloads, and the configuration files that make the gateway run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workload:
    """So many devices with so many points each, read every second: half float32, half int16 in tenths."""

    name: str
    devices: int
    points: int

    @property
    def floats(self) -> int:
        """Return how many points of a device are float32; they come first."""
        return self.points // 2

    @property
    def ints(self) -> int:
        """Return how many points of a device are int16 in tenths."""
        return self.points - self.floats

    @property
    def registers(self) -> int:
        """Return how many registers a device has."""
        return 2 * self.floats + self.ints

    @property
    def points_per_s(self) -> int:
        """Return the points that are read in a second."""
        return self.devices * self.points


WORKLOADS = (Workload("W1", 200, 500), Workload("W2", 500, 30), Workload("W3", 1000, 100))


def host(number: int) -> str:
    """Return the loopback address of a device; responder.c listens on them."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


def write_config(directory: Path, workload: Workload, modbus_port: int, mqtt_port: int) -> None:
    """Write the files of a gateway that polls `workload` and forwards to the broker."""
    points = [f'point_{i} = {{ at = "hr:{2 * i}", type = "float32" }}' for i in range(workload.floats)]
    for i in range(workload.ints):
        address = 2 * workload.floats + i
        points.append(f'point_{workload.floats + i} = {{ at = "hr:{address}", type = "int16", scale = 0.1 }}')
    driver = f'name = "Bench {workload.name}"\nprotocol = "modbus"\nsource = "bench/responder.c"\n\n[points]\n'
    devices = [
        f'[devices.m{i}]\ndriver = "bench"\nchannel = "tcp://{host(i)}:{modbus_port}"\nevery = "1s"\n'
        for i in range(workload.devices)
    ]
    _write(directory, "drivers/bench.toml", driver + "\n".join(points) + "\n")
    _write(directory, "devices/bench.toml", "\n".join(devices))
    _write(directory, "fluxedge.toml", _main(mqtt_port))


def write_idle_config(directory: Path, mqtt_port: int) -> None:
    """Write the files of a gateway that watches nothing but its own machine."""
    _write(directory, "devices/bench.toml", '[devices.machine]\ndriver = "host"\n')
    _write(directory, "fluxedge.toml", _main(mqtt_port))


def _main(mqtt_port: int) -> str:
    return f'[gateway]\nid = "bench"\n\n[uplinks.broker]\nurl = "mqtt://127.0.0.1:{mqtt_port}"\n'


def _write(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
