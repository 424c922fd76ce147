"""Samples of the last minutes: how late the event loop wakes a sleeper, how fast the log grows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

EVERY_S = 0.05
WINDOW_S = 60.0
RATE_EVERY_S = 10.0
RATE_WINDOW_S = 600.0


class Lag:
    """How late the loop is: a sleeper of 50 ms notes by how much it overslept. Costs 20 wake-ups a second."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=int(WINDOW_S / EVERY_S))

    def add(self, late_s: float) -> None:
        """Note one sample."""
        self._late_s.append(max(0.0, late_s))

    @property
    def p99_s(self) -> float:
        """Return what 99 % of the samples of the last minute do not exceed."""
        ranked = sorted(self._late_s)
        return ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))] if ranked else 0.0

    @property
    def max_s(self) -> float:
        """Return the worst sample of the last minute."""
        return max(self._late_s, default=0.0)


class Rate:
    """A counter's growth per second over the last ten minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=int(RATE_WINDOW_S / RATE_EVERY_S) + 1)

    def add(self, at_s: float, total: float) -> None:
        """Note where the counter stands."""
        self._seen.append((at_s, total))

    @property
    def per_s(self) -> float:
        """Return the growth per second; 0 until two samples are there."""
        if len(self._seen) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


class Sampler:
    """Take the samples; its `run` is a task of its own."""

    def __init__(self, stored_bytes: Callable[[], int]) -> None:
        self.lag = Lag()
        self.log_bytes = Rate()
        self._stored_bytes = stored_bytes

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        rate_at_s = loop.time()
        while True:
            if loop.time() >= rate_at_s:
                # the first two come quickly, so that a rate is known soon after the start
                rate_at_s = loop.time() + (RATE_EVERY_S if self.log_bytes.per_s else 2.0)
                self.log_bytes.add(loop.time(), self._stored_bytes())
            due_s = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.lag.add(loop.time() - due_s)
