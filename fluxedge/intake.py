"""Intake: the bounded queue before the pipeline, and the bucket that limits early commits."""

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


class UrgentBucket:
    """Permit a burst of early commits, then one per second."""

    def __init__(self) -> None:
        self._tokens = float(URGENT_BURST)
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Tell whether a commit may be forced now."""
        self._tokens = min(float(URGENT_BURST), self._tokens + (now_s - self._at_s) * URGENT_PER_S)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
