"""What an uplink has carried since the start, and how long it took. Pure: time is given."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from fluxedge.model import Lane
from fluxedge.spi import Message

# Upper bounds in seconds: a broker in the house, one in the cloud, a commit interval, an outage.
DELIVERY_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0, 21600.0,
    86400.0,
)  # fmt: skip


class Histogram:
    """Counts of durations below fixed bounds, as OpenMetrics wants them."""

    def __init__(self, bounds_s: tuple[float, ...] = DELIVERY_BOUNDS_S) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)  # of each bucket by itself; the last is for what is above all bounds
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s

    @property
    def count(self) -> int:
        """Return how many were counted."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (upper bound, how many are not above it), the last with an infinite bound."""
        found, total = [], 0
        for bound_s, count in zip((*self.bounds_s, float("inf")), self.counts, strict=True):
            total += count
            found.append((bound_s, total))
        return found


@dataclass(slots=True)
class StreamCounters:
    """What went in one of an uplink's two streams."""

    messages: int = 0
    records: int = 0
    payload_bytes: int = 0
    delivery: Histogram = field(default_factory=Histogram)  # commit to acknowledgement; what see docs/metrics.md


@dataclass(slots=True)
class ForwardCounters:
    """What metrics and `status` show of an uplink."""

    messages: int = 0
    records: int = 0
    points: int = 0
    payload_bytes: int = 0
    sessions: int = 0
    refused: int = 0
    last_ack_ns: int = 0  # CLOCK_BOOTTIME
    ack_latency_ns: int = 0  # of the latest message: oldest record's stamp to PUBACK
    live: StreamCounters = field(default_factory=StreamCounters)
    backlog: StreamCounters = field(default_factory=StreamCounters)
    budget_bytes: int = 0  # a second, what the backlog may take at present; 0 while there is none

    def stream(self, historical: bool) -> StreamCounters:
        """Return the counters of the backlog or of the live stream."""
        return self.backlog if historical else self.live


class CommitTimes:
    """When the latest commits of each lane were made, to tell how long a live message took."""

    MOST = 4096  # commits a lane; a live stream that is further behind is measured from the oldest of them

    def __init__(self) -> None:
        self._heads: dict[Lane, deque[tuple[int, int, float]]] = {lane: deque(maxlen=self.MOST) for lane in Lane}

    def committed(self, epoch: int, heads: Mapping[Lane, int], now_s: float) -> None:
        """Note the heads after a commit."""
        for lane, head in heads.items():
            known = self._heads[lane]
            if not known or known[-1][:2] != (epoch, head):
                known.append((epoch, head, now_s))

    def of(self, message: Message) -> float | None:
        """Return when a message's first record was committed; None when it is not known."""
        known = self._heads[message.lane]
        while known and known[0][:2] < (message.epoch, message.lo):
            known.popleft()
        return known[0][2] if known and known[0][0] == message.epoch else None
