"""Waves: values as pure functions of time and seed, so that two runs, or two gateways, see the same.

ramp      from ... to in one period, then again from `from`
sine      between from and to, one oscillation a period, `from` + half way up at time 0
noise     uniform between from and to, drawn anew for every instant
step      the values of `steps` in turn, one after each period
constant  `from`
"""

from __future__ import annotations

import hashlib
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NS = 10**9


@dataclass(frozen=True, slots=True)
class Shape:
    """The parameters of one wave."""

    low: float  # `from` of the driver file
    high: float  # `to`
    period_ns: int
    steps: Sequence[float] = ()
    seed: bytes = b""


def _phase(shape: Shape, at_ns: int) -> float:
    return (at_ns % shape.period_ns) / shape.period_ns


def ramp(shape: Shape, at_ns: int) -> float:
    """Return the value at an instant, ns since 1970-01-01."""
    return shape.low + (shape.high - shape.low) * _phase(shape, at_ns)


def sine(shape: Shape, at_ns: int) -> float:
    """Return the value at an instant, ns since 1970-01-01."""
    middle, half = (shape.low + shape.high) / 2, (shape.high - shape.low) / 2
    return middle + half * math.sin(2 * math.pi * _phase(shape, at_ns))


def noise(shape: Shape, at_ns: int) -> float:
    """Return the value at an instant, ns since 1970-01-01."""
    digest = hashlib.blake2b(at_ns.to_bytes(16, "big", signed=True), key=shape.seed, digest_size=8).digest()
    return shape.low + (shape.high - shape.low) * int.from_bytes(digest, "big") / 2**64


def step(shape: Shape, at_ns: int) -> float:
    """Return the value at an instant, ns since 1970-01-01."""
    return shape.steps[at_ns // shape.period_ns % len(shape.steps)]


def constant(shape: Shape, at_ns: int) -> float:
    """Return the value, which is the same at every instant."""
    return shape.low


Wave = typing.Literal["ramp", "sine", "noise", "step", "constant"]
WAVES: dict[Wave, Callable[[Shape, int], float]] = {
    "ramp": ramp,
    "sine": sine,
    "noise": noise,
    "step": step,
    "constant": constant,
}
