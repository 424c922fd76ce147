"""The data set "mix": what 20 devices of 50 points read in an hour, a round a second each. Fixed seed, no file.

Of a device's points 20 are int16 registers with a decimal scale that wander and are noisy, 10 float32 around a slow
sine with noise, 10 set-points that change every ten minutes or so, 5 counters of 32 bit, 5 bits. Each device has its
own phase within the second and a few milliseconds of jitter.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator

from fluxedge.columns import Value
from fluxedge.model import Group, Point, Round

DEVICES = 20
POINTS = 50
START_NS = 1_760_000_400 * 10**9  # a full hour, UTC
_FLOAT32 = struct.Struct("<f")


def groups() -> list[Group]:
    """Return one group a device."""
    points = [Point(f"register_{i}", "h", scale=0.1 if i % 2 else 0.01, unit="Cel") for i in range(20)]
    points += [Point(f"analog_{i}", "f", unit="V") for i in range(10)]
    points += [Point(f"setting_{i}", "h") for i in range(10)]
    points += [Point(f"counter_{i}", "I", unit="kW.h") for i in range(5)]
    points += [Point(f"state_{i}", "?") for i in range(5)]
    return [Group(f"device-{number}", "main", tuple(points)) for number in range(DEVICES)]


class _Device:
    """One device's values, a second after the other."""

    def __init__(self, group: Group, number: int) -> None:
        rng = self._rng = random.Random(7000 + number)
        self.group = group
        self._phase_ms = 7 * number
        self._walks = [rng.uniform(200, 3000) for _ in range(20)]
        self._phases = [rng.uniform(0, 2 * math.pi) for _ in range(10)]
        self._settings = [rng.randrange(200) for _ in range(10)]
        self._counters = [rng.randrange(100_000, 10_000_000) for _ in range(5)]
        self._states = [False] * 5

    def round(self, second: int) -> Round:
        """Return the round of this second; seconds come in order."""
        rng = self._rng
        self._walks = [walk + rng.gauss(0, 0.6) for walk in self._walks]
        registers = [max(-32768, min(32767, round(walk + rng.gauss(0, 1.5)))) for walk in self._walks]
        analogs = [_float32(230 + 5 * math.sin(second / 300 + phase) + rng.gauss(0, 0.4)) for phase in self._phases]
        self._settings = [
            setting + rng.randrange(-5, 6) if rng.random() < 1 / 600 else setting for setting in self._settings
        ]
        self._counters = [counter + rng.randrange(4) for counter in self._counters]
        self._states = [state ^ (rng.random() < 1 / 120) for state in self._states]
        raws: tuple[Value, ...] = (*registers, *analogs, *self._settings, *self._counters, *self._states)
        at_ms = second * 1000 + self._phase_ms + rng.randrange(4)
        return self.group.round(raws, START_NS + at_ms * 10**6, at_ms * 10**6)


def seconds(count: int) -> Iterator[list[Round]]:
    """Yield the rounds of one second after the other, those of all devices."""
    devices = [_Device(group, number) for number, group in enumerate(groups())]
    for second in range(count):
        yield [device.round(second) for device in devices]


def _float32(value: float) -> float:
    return float(_FLOAT32.unpack(_FLOAT32.pack(value))[0])
