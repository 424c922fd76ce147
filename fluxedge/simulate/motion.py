"""How a simulated point moves: a pure function of seconds, made from what the driver file says about the point."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

from fluxedge.columns import Value, unscale
from fluxedge.protocols.modbus.compile import CompiledPoint
from fluxedge.protocols.modbus.types import range_of

STEP_S = 20.0  # an enum, a bit or an input changes about so often

_TYPICAL: dict[str, tuple[float, float]] = {  # unit -> (middle, swing) of a small plant on 230 V
    "V": (230, 4), "A": (8, 3), "W": (1800, 700), "kW": (1.8, 0.7), "var": (250, 100), "kvar": (0.25, 0.1),
    "V.A": (1850, 700), "kV.A": (1.85, 0.7), "Hz": (50, 0.03), "Cel": (22, 4), "%": (45, 12), "deg": (8, 4),
    "1": (0.93, 0.05), "/min": (1450, 25), "kPa": (350, 20), "m3/h": (12, 3), "m/s": (1.2, 0.3), "MOhm": (2, 0.5),
    "min": (60, 0), "ms": (500, 0), "Bd": (9600, 0),
}  # fmt: skip
_COUNTERS: dict[str, tuple[float, float]] = {  # unit -> (start, growth a second); they never go back
    "kW.h": (12000, 0.0005), "kvar.h": (900, 0.0001), "m3": (4000, 0.0033), "h": (2500, 1 / 3600), "s": (86400, 1),
}  # fmt: skip

Motion = Callable[[float], Value]  # seconds since the start -> raw


def motion_of(compiled: CompiledPoint, rng: random.Random) -> Motion:
    """Return how a point moves; writable points stand still."""
    layout, point, phase_s = compiled.layout, compiled.point, rng.uniform(0, 600)
    still = compiled.cfg.write is not False
    if layout.wire == "?":
        return lambda t: not still and (t + phase_s) // STEP_S % 2 == 1
    if layout.wire == "s":
        text = f"{point.name.upper()}-{rng.randrange(10**6):06d}"[: len(layout.pick)]
        return lambda t: text
    if layout.wire == "y":
        body = rng.randbytes(len(layout.pick))
        return lambda t: body
    if point.enum:
        keys = sorted(point.enum)
        return lambda t: keys[0 if still else int((t + phase_s) // STEP_S) % len(keys)]
    if point.bits:
        bits = sorted(point.bits)
        return lambda t: 0 if still else 1 << bits[int((t + phase_s) // STEP_S) % len(bits)]
    wave = _wave(compiled, rng, phase_s)
    return lambda t: raw_of(compiled, wave(t))


def _wave(compiled: CompiledPoint, rng: random.Random, phase_s: float) -> Callable[[float], float]:
    """Return seconds -> engineering value, inside the point's validity or command limits."""
    cfg, point = compiled.cfg, compiled.point
    low, high = (cfg.min, cfg.max) if cfg.write is not False else (point.low, point.high)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    low, high = max(low, -math.inf if point.low is None else point.low), min(high, _most(compiled))
    if point.unit in _COUNTERS:
        start, growth = _COUNTERS[point.unit]
        start = min(start * rng.uniform(0.5, 1.5), high)
        return lambda t: min(start + growth * t, high)
    middle, swing = _TYPICAL.get(point.unit, (1.0, 0.0))
    middle += swing * rng.uniform(-1, 1)  # devices of one kind differ
    period_s = rng.uniform(60, 300)

    def wave(t: float) -> float:
        return min(max(middle + swing * math.sin(2 * math.pi * (t + phase_s) / period_s), low), high)

    return wave


def _most(compiled: CompiledPoint) -> float:
    """Return the largest engineering value that is valid and that the type holds."""
    raws = range_of(compiled.layout)
    most = math.inf if compiled.point.high is None else compiled.point.high
    if raws is None:
        return most
    ends = [raw * compiled.point.scale + compiled.point.offset for raw in raws]
    return min(most, max(ends))


def raw_of(compiled: CompiledPoint, value: Value) -> Value:
    """Return the raw of an engineering value (an enum also by its name).

    Raises:
        ValueError: the point's type cannot hold it.
    """
    layout, point = compiled.layout, compiled.point
    if layout.wire == "?":
        return bool(value)
    if layout.wire in "sy":
        size = len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else -1
        if not 0 <= size <= len(layout.pick) or isinstance(value, str) != (layout.wire == "s"):
            raise ValueError(f"{value!r} does not fit into {len(layout.pick)} bytes of {layout.type}")
        return value
    names = {name: number for number, name in point.enum.items()}
    number = names.get(value, value) if isinstance(value, str) else value
    if not isinstance(number, int | float):
        raise ValueError(f"{value!r} is not a number")
    raws = range_of(layout)
    if raws is None:
        if not math.isfinite(number):
            return float(number)
        raw = unscale(number, point.scale, point.offset, layout.wire)
        return float(struct.unpack(f">{layout.letter}", struct.pack(f">{layout.letter}", raw))[0])
    exact = isinstance(number, int) and point.scale == 1.0 and point.offset == 0.0
    whole = int(number) if exact else int(unscale(number, point.scale, point.offset, layout.wire))
    if not raws[0] <= whole <= raws[1]:
        raise ValueError(f"{value!r} would be the raw value {whole}; {layout.type} holds {raws[0]} to {raws[1]}")
    return whole
