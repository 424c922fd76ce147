"""What a measured program tells about itself: a line on its standard input is answered by one JSON line.

Floor and gateway carry the same probe, so what it costs is in both. Processor time, memory and bytes written are not
asked here: the bench reads those from /proc for every program alike.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import typing
from collections.abc import Callable

TICK_S = 0.01

Counters = dict[str, float]


def quantile(values: list[float], share: float) -> float:
    """Return the smallest of `values` that `share` of them do not exceed; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Probe:
    """Measure the loop's lag, collect latencies, answer questions."""

    def __init__(self, counters: Callable[[], Counters]) -> None:
        """`counters` returns running totals: at least points, acked_points and commits."""
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._latencies_ms: list[float] = []
        self._lags_ms: list[float] = []
        self._due_s = self._loop.time() + TICK_S
        self._loop.call_at(self._due_s, self._tick)
        self._loop.add_reader(sys.stdin.fileno(), self._answer)

    def acknowledged(self, age_ns: int) -> None:
        """Note how old the oldest round of a message was when it was acknowledged."""
        self._latencies_ms.append(age_ns / 1e6)

    def _tick(self) -> None:
        now_s = self._loop.time()
        self._lags_ms.append((now_s - self._due_s) * 1000)
        self._due_s = now_s + TICK_S
        self._loop.call_at(self._due_s, self._tick)

    def _answer(self) -> None:
        """Tell totals, and the distribution of what was measured since the last answer."""
        if not os.read(sys.stdin.fileno(), 4096):  # the bench is gone
            os._exit(0)
        told: dict[str, typing.Any] = dict(self._counters())
        for name, values in (("latency", self._latencies_ms), ("lag", self._lags_ms)):
            told |= {
                f"{name}_p50_ms": quantile(values, 0.5),
                f"{name}_p99_ms": quantile(values, 0.99),
                f"{name}_max_ms": max(values, default=0.0),
            }
            values.clear()
        os.write(sys.stdout.fileno(), json.dumps(told).encode() + b"\n")
