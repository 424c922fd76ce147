"""The backlog's budget: a token bucket in bytes a second that finds out how much the peer takes. Pure: time is given.

    bucket   a message may go when the bucket is not in debt; it then takes its bytes out, below zero where need be
    size     what a tenth of a second carries, 8 KiB at least and the configured size at most
    flight   bytes a second that arrive x shortest latency + one message: what the way holds without queueing, so that a
             live message waits behind about one message of the backlog
    rate     begins at 512 KiB/s and is judged every quarter of a second, by the latencies (sending to acknowledgement)
             of the backlog's own messages, which are of one size:

             | median latency of the step                | rate                                                |
             |-------------------------------------------|-----------------------------------------------------|
             | up to 2 x the shortest + 5 ms             | x 2 when at least half of it was used, else as it is |
             | up to 4 x the shortest + 20 ms            | as it is                                            |
             | above                                     | x 0.7                                               |
             | more than 5 % of the last 10 to 40        | x 0.5, at most once in 2 s                          |
             | messages of both streams above 2 s        |                                                     |
             | the peer throttles (0x93, 0x97)           | x 0.5                                               |

The shortest latency is that of the last 30 to 60 seconds: a way that became longer is believed after a while. So that
it is not that of our own queue, one message goes alone at the beginning of each period of 30 s. The rate never falls
below 16 KiB/s: a backlog never starves; with a configured ceiling below that, the ceiling holds.
"""

from __future__ import annotations

import math
from collections import deque

FIRST_RATE = 512 << 10  # bytes a second: 20,000 to 50,000 points
LEAST_RATE = 16 << 10
MOST_RATE = 1 << 30
STEP_S = 0.25
SLOW_S = 2.0
SAMPLES_LEAST, SAMPLES_MOST = 10, 40
SLOW_SHARE = 0.05
FINEST_S = 0.00005  # timers are no finer
FLOOR_S = 30.0  # the shortest latency is looked for in this and the period before
NEAR, NEAR_S = 2.0, 0.005
FAR, FAR_S = 4.0, 0.020
GAIN = 1.25  # over what arrives: otherwise it could never become more
SIZE_S = 0.1
SIZE_LEAST_BYTES = 8 << 10
FLIGHT_MOST_BYTES = 512 << 10  # half of what a session permits: the other half is for live messages


class Budget:
    """How many bytes of backlog may go now."""

    def __init__(self, ceiling: int | None = None, *, adaptive: bool = True) -> None:
        """`ceiling`: configured bytes a second, None = what the peer takes. Not adaptive: the ceiling only."""
        self._adaptive = adaptive
        self._most = float(ceiling) if ceiling else float(MOST_RATE)
        self._least = min(float(LEAST_RATE), self._most)
        self.rate = min(float(FIRST_RATE), self._most) if adaptive else self._most
        self._bounded = adaptive or bool(ceiling)
        self._tokens = 0.0
        self._filled_s = -math.inf
        self._recent: deque[float] = deque(maxlen=SAMPLES_MOST)  # latencies of both streams
        self._halved_s = -math.inf
        self._floors = [math.inf, math.inf]  # shortest latency of this period and of the one before
        self._period_s = -math.inf  # when this one began
        self._alone = True  # one message goes alone, to measure the way and not the queue
        self._step_s = -math.inf
        self._step: list[float] = []  # latencies of the backlog's messages in this step
        self._step_bytes = 0
        self._arriving = 0.0  # bytes a second that arrived in the best of the latest steps

    # --- the bucket ---------------------------------------------------------------------------------------------------

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds the next message may go; 0 = now."""
        self._fill(now_s)
        debt_s = -self._tokens / self.rate if self._bounded else 0.0
        return debt_s if debt_s > FINEST_S else 0.0

    def spend(self, now_s: float, size: int) -> None:
        """Take a message out of the bucket."""
        self._fill(now_s)
        self._tokens -= size

    def _fill(self, now_s: float) -> None:
        """Let the bucket hold what fits through in two milliseconds: more would be a burst."""
        if self._filled_s > -math.inf:
            gained = (now_s - self._filled_s) * self.rate
            self._tokens = min(self.rate / 500, self._tokens + gained)
        self._filled_s = now_s

    def message_bytes(self, most: int) -> int:
        """Return how large a message of the backlog shall be; `most` is the configured size."""
        rate = min(self.rate, GAIN * self._arriving) if self._arriving else self.rate
        return min(most, max(SIZE_LEAST_BYTES, int(rate * SIZE_S)))

    def flight_bytes(self, size: int) -> int:
        """Return how many bytes of backlog may be unacknowledged, this next message of `size` bytes included."""
        floor_s = min(self._floors)
        on_the_way = 0.0 if self._alone or floor_s == math.inf else min(self.rate, GAIN * self._arriving) * floor_s
        return max(size, min(FLIGHT_MOST_BYTES, int(on_the_way) + size))

    # --- adapting -----------------------------------------------------------------------------------------------------

    def answered(self, now_s: float, latency_s: float, size: int, *, historical: bool) -> None:
        """Note that a message was acknowledged `latency_s` after it was sent."""
        if not self._adaptive:
            return
        self._recent.append(latency_s)
        if historical:
            self._note_floor(now_s, latency_s)
            self._step.append(latency_s)
            self._step_bytes += size
        slow = sum([latency > SLOW_S for latency in self._recent])
        if slow > SLOW_SHARE * len(self._recent) and len(self._recent) >= SAMPLES_LEAST:
            if now_s - self._halved_s >= SLOW_S:
                self.throttled(now_s)
        elif self._step and now_s - self._step_s >= STEP_S:
            self._judge(now_s)

    def throttled(self, now_s: float) -> None:
        """Halve the rate: the peer said that it was too much."""
        if self._adaptive:
            self._set_rate(self.rate / 2)
            self._halved_s = now_s
            self._recent.clear()
            self._arriving /= 2
            self._begin_step(now_s)

    def _note_floor(self, now_s: float, latency_s: float) -> None:
        if now_s - self._period_s >= FLOOR_S:
            self._floors = [math.inf, self._floors[0]]
            self._period_s = now_s
            self._alone = True
        elif now_s - latency_s >= self._period_s:
            self._alone = False
        self._floors[0] = min(self._floors[0], latency_s)

    def _judge(self, now_s: float) -> None:
        if self._step_s > -math.inf:
            floor_s, median_s = min(self._floors), sorted(self._step)[len(self._step) // 2]
            arrived = self._step_bytes / (now_s - self._step_s)
            self._arriving = max(arrived, self._arriving * 0.9)
            used = arrived >= self.rate / 2
            if median_s > FAR * floor_s + FAR_S:
                self._set_rate(self.rate * 0.7)
            elif median_s <= NEAR * floor_s + NEAR_S and used:
                self._set_rate(self.rate * 2)
        self._begin_step(now_s)

    def _begin_step(self, now_s: float) -> None:
        self._step_s = now_s
        self._step.clear()
        self._step_bytes = 0

    def _set_rate(self, rate: float) -> None:
        self.rate = max(self._least, min(self._most, rate))
