"""How late the loop is, and how fast the log grows."""

from __future__ import annotations

import asyncio
import time

import pytest

from fluxedge.api.lag import Lag, Rate, Sampler


def test_the_99th_percentile_leaves_the_worst_hundredth_out() -> None:
    lag = Lag()
    for n in range(1, 201):
        lag.add(n / 1000)
    assert lag.p99_s == pytest.approx(0.199)
    assert lag.max_s == pytest.approx(0.2)


def test_only_the_last_minute_counts() -> None:
    lag = Lag()
    lag.add(9.0)
    for _ in range(1200):
        lag.add(0.001)
    assert lag.max_s == pytest.approx(0.001)


def test_nothing_sampled_is_no_lag() -> None:
    assert (Lag().p99_s, Lag().max_s) == (0.0, 0.0)


def test_a_rate_needs_two_samples_and_covers_its_window() -> None:
    rate = Rate()
    rate.add(0, 500)
    assert rate.per_s == 0
    rate.add(10, 1500)
    assert rate.per_s == 100


async def test_a_blocked_loop_is_noticed() -> None:
    sampler = Sampler(lambda: 0)
    task = asyncio.ensure_future(sampler.run())
    await asyncio.sleep(0.02)
    time.sleep(0.3)  # noqa: ASYNC251 - the defect that the gauge must see
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert sampler.lag.max_s >= 0.2
