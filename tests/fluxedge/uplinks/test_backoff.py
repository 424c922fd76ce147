"""Pauses between attempts: bounded, growing, different for each gateway."""

from __future__ import annotations

import random

from fluxedge.uplinks.backoff import BACKOFF_FIRST_S, BACKOFF_MOST_S, Backoff


def test_pauses_are_decorrelated_jitter_within_bounds() -> None:
    for seed in range(50):
        backoff = Backoff(random.Random(seed))
        before = BACKOFF_FIRST_S
        for _ in range(40):
            pause = backoff.next_s()
            assert BACKOFF_FIRST_S <= pause <= min(BACKOFF_MOST_S, before * 3)
            before = pause


def test_pauses_grow_and_differ() -> None:
    def pauses(seed: int) -> list[float]:
        backoff = Backoff(random.Random(seed))
        return [backoff.next_s() for _ in range(30)]

    assert max(pauses(1)[10:]) > 20
    assert pauses(1) != pauses(2)  # a thousand gateways do not come back at once


def test_the_longest_pause_is_a_minute_and_a_reset_begins_short_again() -> None:
    backoff = Backoff(random.Random(1))
    assert backoff.longest_s() == 60.0
    backoff.reset()
    assert backoff.next_s() <= 3.0
