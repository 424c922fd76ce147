"""Pauses between attempts to connect: decorrelated jitter, so that a thousand gateways do not come back at once."""

from __future__ import annotations

import random

BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0


class Backoff:
    """Decorrelated jitter: pause = min(most, random(first, 3 x the pause before))."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Return how long to pause now."""
        self._last_s = min(BACKOFF_MOST_S, self._rng.uniform(BACKOFF_FIRST_S, self._last_s * 3))
        return self._last_s

    def longest_s(self) -> float:
        """Return the longest pause, and go on from there."""
        self._last_s = BACKOFF_MOST_S
        return self._last_s

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._last_s = BACKOFF_FIRST_S
