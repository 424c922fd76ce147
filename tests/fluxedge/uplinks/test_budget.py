"""The backlog's budget finds what the peer takes, gives way when it is too much, never starves. Time is simulated."""

from __future__ import annotations

import heapq
import math

import pytest

from fluxedge.uplinks.budget import (
    FIRST_RATE,
    FLIGHT_MOST_BYTES,
    LEAST_RATE,
    SAMPLES_LEAST,
    SIZE_LEAST_BYTES,
    SLOW_S,
    STEP_S,
    Budget,
)

SIZE = 64 << 10


def steps(budget: Budget, latency_s: float, count: int = 8, *, start_s: float = 0.0, used: float = 1.0) -> float:
    """Acknowledge messages of constant latency for some steps, as fast as `used` of the rate; return the time then."""
    now_s, end_s = start_s, start_s + count * STEP_S
    while now_s < end_s:
        now_s += STEP_S / 10
        budget.answered(now_s, latency_s, int(budget.rate * used * STEP_S / 10), historical=True)
    return now_s


# --- the bucket -------------------------------------------------------------------------------------------------------


def test_the_first_message_goes_at_once_and_the_next_when_its_bytes_are_paid() -> None:
    budget = Budget()
    assert budget.wait_s(100.0) == 0.0
    budget.spend(100.0, SIZE)
    assert budget.wait_s(100.0) == pytest.approx(SIZE / FIRST_RATE)
    assert budget.wait_s(100.0 + SIZE / FIRST_RATE + 1e-6) == 0.0


def test_a_long_rest_saves_no_burst() -> None:
    budget = Budget()
    budget.spend(0.0, 1)
    assert budget.wait_s(3600.0) == 0.0
    budget.spend(3600.0, SIZE)
    assert budget.wait_s(3600.0) > SIZE / FIRST_RATE - 0.021


@pytest.mark.parametrize("rate", [1_000, 100_000, 5_000_000])
def test_a_configured_rate_is_kept_over_time(rate: int) -> None:
    budget = Budget(rate)
    now_s, sent = 0.0, 0
    while now_s < 600.0:
        now_s += budget.wait_s(now_s)
        budget.spend(now_s, SIZE)
        sent += SIZE
        budget.answered(now_s, 0.001, SIZE, historical=True)
        now_s += 0.0001
    assert sent / 600.0 <= rate * 1.01 + 2 * SIZE / 600.0
    if rate == 1_000:  # below what a budget falls to by itself
        assert sent / 600.0 >= rate * 0.9


def test_without_a_configured_rate_strict_order_waits_for_nothing() -> None:
    budget = Budget(adaptive=False)
    for _ in range(100):
        assert budget.wait_s(0.0) == 0.0
        budget.spend(0.0, 1 << 20)


def test_strict_order_keeps_a_configured_rate_whatever_the_latency() -> None:
    budget = Budget(1_000_000, adaptive=False)
    steps(budget, 5.0)
    budget.throttled(9.0)
    assert budget.rate == 1_000_000


# --- adapting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency_s", "factor"),
    [
        (0.001, "grows"),
        (0.006, "grows"),  # 2 x the shortest + 5 ms
        (0.010, "stays"),
        (0.020, "stays"),  # up to 4 x the shortest + 20 ms
        (0.050, "falls"),
        (1.900, "falls"),
    ],
)
def test_the_rate_follows_the_latency(latency_s: float, factor: str) -> None:
    budget = Budget()
    budget.answered(0.0, 0.001, SIZE, historical=True)  # the shortest
    steps(budget, latency_s, start_s=0.0)
    change = budget.rate / FIRST_RATE
    assert {"grows": change >= 16, "stays": change == 1.0, "falls": change < 0.3}[factor], change


def test_a_rate_that_is_not_used_does_not_grow() -> None:
    budget = Budget()
    steps(budget, 0.001, 40, used=0.2)
    assert budget.rate == FIRST_RATE


def test_half_a_minute_of_slowness_halves_and_halves() -> None:
    budget = Budget()
    end_s = steps(budget, 0.001, 20)
    before = budget.rate
    for n in range(SAMPLES_LEAST):
        budget.answered(end_s + n * 0.01, 2.5, SIZE, historical=False)  # live messages count here
    assert budget.rate == before / 2
    for n in range(100):  # one halving at most in two seconds
        budget.answered(end_s + 0.2 + n * 0.01, 2.5, SIZE, historical=False)
    assert budget.rate == before / 2
    budget.answered(end_s + SLOW_S + 0.2, 2.5, SIZE, historical=False)
    assert budget.rate == before / 4


def test_a_few_slow_answers_do_not_halve() -> None:
    budget = Budget()
    for n in range(200):
        budget.answered(n * 0.01, 2.5 if n % 41 == 40 else 0.01, SIZE, historical=False)
    assert budget.rate == FIRST_RATE


def test_throttling_halves_at_once_and_never_below_the_least() -> None:
    budget = Budget()
    budget.throttled(1.0)
    assert budget.rate == FIRST_RATE / 2
    for n in range(50):
        budget.throttled(2.0 + n)
    assert budget.rate == LEAST_RATE
    assert budget.wait_s(100.0) == 0.0  # a message may go all the same


def test_a_way_that_became_longer_is_believed_after_a_while() -> None:
    budget = Budget()
    end_s = steps(budget, 0.001, 8)
    end_s = steps(budget, 0.3, 40, start_s=end_s)  # another route
    fallen = budget.rate
    steps(budget, 0.3, 400, start_s=end_s)
    assert budget.rate > fallen * 4


def test_one_message_is_in_flight_until_the_way_is_known() -> None:
    budget = Budget()
    assert budget.flight_bytes(SIZE) == SIZE
    budget.answered(0.0, 0.1, SIZE, historical=True)
    assert budget.flight_bytes(SIZE) == SIZE


@pytest.mark.parametrize("latency_s", [0.001, 0.1])
def test_what_is_in_flight_fills_the_way_and_no_queue(latency_s: float) -> None:
    budget = Budget(1 << 20)
    steps(budget, latency_s)
    on_the_way = budget.flight_bytes(SIZE) - SIZE
    assert 0.9 * latency_s * budget.rate <= on_the_way <= latency_s * budget.rate


@pytest.mark.parametrize(("rate", "size"), [(1_000, SIZE_LEAST_BYTES), (200_000, 20_000), (100_000_000, SIZE)])
def test_a_message_is_what_a_tenth_of_a_second_carries(rate: int, size: int) -> None:
    budget = Budget(rate)
    steps(budget, 0.001, 40)
    assert budget.message_bytes(SIZE) == size
    assert budget.message_bytes(4096) == 4096


def test_what_is_in_flight_is_bounded_however_fast_and_long_the_way_is() -> None:
    budget = Budget()
    steps(budget, 0.2, 60)
    assert budget.flight_bytes(SIZE) == FLIGHT_MOST_BYTES
    assert budget.flight_bytes(1 << 20) == 1 << 20  # one message always


class Link:
    """A way with a capacity and a delay: a queue in front of it is what live messages would wait in."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self._bytes_per_s, self._delay_s = bytes_per_s, delay_s
        self._free_s = 0.0

    def answer_s(self, now_s: float, size: int) -> float:
        """Return when a message that is sent now is acknowledged."""
        self._free_s = max(now_s, self._free_s) + size / self._bytes_per_s
        return self._free_s + self._delay_s

    def queue_s(self, now_s: float) -> float:
        return max(0.0, self._free_s - now_s)


def replay(link: Link, budget: Budget, seconds: float) -> tuple[float, float]:
    """Send a backlog as the loop does; return bytes a second and the longest queue, both of the second half."""
    now_s, flight, carried, queue_s = 0.0, 0, 0, 0.0
    answers: list[tuple[float, float, int]] = []  # when, sent when, size
    while now_s < seconds:
        while answers and answers[0][0] <= now_s:
            at_s, sent_s, size = heapq.heappop(answers)
            flight -= size
            budget.answered(at_s, at_s - sent_s, size, historical=True)
            carried += size * (at_s > seconds / 2)
        size = budget.message_bytes(SIZE)
        wait_s = budget.wait_s(now_s)
        if flight and flight + size > budget.flight_bytes(size):
            wait_s = math.inf
        elif not wait_s:
            budget.spend(now_s, size)
            heapq.heappush(answers, (link.answer_s(now_s, size), now_s, size))
            flight += size
            if now_s > seconds / 2:
                queue_s = max(queue_s, link.queue_s(now_s))
            continue
        now_s = min(now_s + wait_s, answers[0][0] if answers else math.inf)
    return carried / (seconds / 2), queue_s


@pytest.mark.parametrize(
    ("bytes_per_s", "delay_s", "share"),
    [
        (100e6, 0.0005, 0.8),  # a broker in the house
        (12.5e6, 0.02, 0.5),
        (1.25e6, 0.05, 0.5),  # 10 Mbit/s
        (60e3, 0.2, 0.5),  # a bad radio link
    ],
)
def test_a_replay_uses_the_way_and_makes_a_live_message_wait_for_few_of_its_own(
    bytes_per_s: float, delay_s: float, share: float
) -> None:
    budget = Budget()
    rate, queue_s = replay(Link(bytes_per_s, delay_s), budget, 120.0)
    assert rate >= share * bytes_per_s, rate / bytes_per_s
    assert queue_s <= max(2 * budget.message_bytes(SIZE) / bytes_per_s, 0.5)
