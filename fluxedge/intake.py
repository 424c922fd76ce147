"""Intake: the bounded queue before the pipeline, and the buckets that limit early commits and commands."""

from __future__ import annotations

import asyncio
from collections import deque

from fluxedge.model import Round

QUEUED_ROUNDS_PER_CHANNEL = 4
URGENT_BURST = 20
URGENT_PER_S = 1.0


class RoundQueue:
    """Rounds on their way to the pipeline, bounded per channel: a chatty channel waits, its neighbours do not."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[str, Round]] = deque()
        self._waiting: dict[str, int] = {}
        self._room = asyncio.Event()
        self.filled = asyncio.Event()
        self.waited: dict[str, int] = {}  # channel -> how often its poller had to wait, for metrics

    def full(self, channel: str) -> bool:
        """Tell whether `put` would wait."""
        return self._waiting.get(channel, 0) >= QUEUED_ROUNDS_PER_CHANNEL

    async def put(self, channel: str, round_: Round) -> None:
        """Queue a round; wait while the channel has four in the queue."""
        if self.full(channel):
            self.waited[channel] = self.waited.get(channel, 0) + 1
            while self.full(channel):
                self._room.clear()
                await self._room.wait()
        self._waiting[channel] = self._waiting.get(channel, 0) + 1
        self._rounds.append((channel, round_))
        self.filled.set()

    def take(self) -> Round | None:
        """Return the oldest round, None when there is none."""
        if not self._rounds:
            return None
        channel, round_ = self._rounds.popleft()
        self._waiting[channel] -= 1
        if not self._waiting[channel]:
            del self._waiting[channel]
        self._room.set()
        return round_

    def __len__(self) -> int:
        return len(self._rounds)


class Bucket:
    """Permit a burst, then so many per second."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = self._burst
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Tell whether it is permitted now, and count it."""
        self._fill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def full(self, now_s: float) -> bool:
        """Tell whether it is as if nothing had ever been taken."""
        self._fill(now_s)
        return self._tokens >= self._burst

    def _fill(self, now_s: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


class UrgentBucket(Bucket):
    """Permit a burst of early commits, then one per second."""

    def __init__(self) -> None:
        super().__init__(URGENT_BURST, URGENT_PER_S)
