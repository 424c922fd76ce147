"""One simulated point: its wave in its type, what it takes as a command, and what of it cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fluxedge.columns import Value, unscale
from fluxedge.config.points import column_fields
from fluxedge.config.structs import SimulatorPointCfg
from fluxedge.model import Point
from fluxedge.protocols.simulator.waves import NS, WAVES, Shape

WIRES = {"bool": "?", "int32": "i", "int64": "q", "float64": "d", "string": "s"}
_INT_RANGES = {"i": (-(2**31), 2**31 - 1), "q": (-(2**63), 2**63 - 1)}
_SCALING = {"scale": 1.0, "offset": 0.0, "precision": None, "low": None, "high": None}


class SimulatedPoint:
    """A point's column and its raw value over time."""

    def __init__(self, name: str, cfg: SimulatorPointCfg, seed: int) -> None:
        self.point = Point(name, WIRES[cfg.type], **column_fields(cfg))
        self._cfg = cfg
        self._wave = WAVES[cfg.wave]
        shape_seed = f"{seed}:{name}".encode()[:64]  # the longest key that blake2b takes
        self._shape = Shape(cfg.from_, cfg.to, round(cfg.period_s * NS), cfg.steps, shape_seed)

    def raw(self, at_ns: int) -> Value:
        """Return the raw value of the wave at an instant."""
        if self.point.wire == "s":
            return self._cfg.text
        value = self._wave(self._shape, at_ns)
        if self.point.wire == "?":
            return value >= (self._cfg.from_ + self._cfg.to) / 2 if self._cfg.wave != "step" else bool(value)
        return round(value) if self.point.wire in _INT_RANGES else value

    def encode(self, value: Value) -> Value:
        """Return the raw value for an engineering value.

        Raises:
            ValueError: it cannot be written; the text says why.
        """
        if not self._cfg.write:
            raise ValueError("it is not writable; its driver file does not say write = true")
        if self.point.wire == "s":
            if not isinstance(value, str):
                raise ValueError(f"{value!r} is not a text")
            return value
        if self.point.wire == "?":
            if value not in (0, 1) or not isinstance(value, int | float):
                raise ValueError(f"{value!r} is not true, false, 1 or 0")
            return bool(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number")
        return self._number(value)

    def _number(self, value: float) -> Value:
        if self._cfg.min is not None and value < self._cfg.min:
            raise ValueError(f"{value:g} is below the smallest value permitted, {self._cfg.min:g}")
        if self._cfg.max is not None and value > self._cfg.max:
            raise ValueError(f"{value:g} is above the largest value permitted, {self._cfg.max:g}")
        raw = unscale(value, self.point.scale, self.point.offset, self.point.wire)
        limits = _INT_RANGES.get(self.point.wire)
        if limits is not None and not limits[0] <= raw <= limits[1]:
            raise ValueError(f"{value:g} would be the raw value {raw}; {self._cfg.type} cannot hold it")
        return raw


def contradictions(cfg: SimulatorPointCfg) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong) for keys of a point that do not fit together."""
    if cfg.period_s * NS < 1:
        yield "period", "a wave needs a period above zero"
    if cfg.wave == "step" and not cfg.steps:
        yield "steps", 'wave = "step" needs the values that follow each other'
    if cfg.wave != "step" and cfg.steps:
        yield "steps", f'a {cfg.wave} has no steps; write wave = "step"'
    if cfg.type == "string" and cfg.wave != "constant":
        yield "wave", 'a text does not change by itself; write wave = "constant"'
    if cfg.type != "string" and cfg.text:
        yield "text", f'a {cfg.type} has no text; write type = "string"'
    if cfg.type in ("string", "bool"):
        for key, default in _SCALING.items() | {("min", None), ("max", None)}:
            if getattr(cfg, key) != default:
                yield key, f"a {cfg.type} has no {key}"
    if cfg.min is not None and cfg.max is not None and cfg.min > cfg.max:
        yield "min", f"{cfg.min:g} is above max ({cfg.max:g})"
    yield from _out_of_type(cfg)


def _out_of_type(cfg: SimulatorPointCfg) -> Iterator[tuple[str, str]]:
    limits = _INT_RANGES.get(WIRES[cfg.type])
    for key, values in (("from", [cfg.from_]), ("to", [cfg.to]), ("steps", cfg.steps)):
        for value in values:
            if not math.isfinite(value):
                yield key, f"{value} is not a finite number"
            elif limits is not None and not limits[0] <= value <= limits[1]:
                yield key, f"{value:g} does not fit into {cfg.type}"
