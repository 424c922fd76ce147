"""Waves are pure functions of time and seed."""

from __future__ import annotations

import pytest

from fluxedge.protocols.simulator.waves import NS, WAVES, Shape, constant, noise, ramp, sine, step

SHAPE = Shape(10.0, 20.0, 60 * NS, steps=(1.0, 2.0, 3.0), seed=b"1:p")


def test_a_ramp_goes_from_to_once_a_period() -> None:
    assert [ramp(SHAPE, t * NS) for t in (0, 30, 59, 60, 90)] == pytest.approx([10, 15, 19.8333, 10, 15], abs=1e-3)


def test_a_sine_swings_between_its_ends_once_a_period() -> None:
    assert [sine(SHAPE, t * NS) for t in (0, 15, 30, 45, 60)] == pytest.approx([15, 20, 15, 10, 15])


def test_steps_follow_each_other_one_a_period() -> None:
    assert [step(SHAPE, t * NS) for t in (0, 59, 60, 120, 180)] == [1, 1, 2, 3, 1]


def test_a_constant_stays() -> None:
    assert {constant(SHAPE, t * NS) for t in range(100)} == {10.0}


def test_noise_stays_inside_differs_and_comes_again_with_the_same_seed() -> None:
    drawn = [noise(SHAPE, t * NS) for t in range(1000)]
    assert all(10 <= value < 20 for value in drawn)
    assert len(set(drawn)) > 990
    assert sum(drawn) / len(drawn) == pytest.approx(15, abs=0.5)
    assert drawn == [noise(SHAPE, t * NS) for t in range(1000)]
    assert drawn != [noise(Shape(10.0, 20.0, 60 * NS, seed=b"2:p"), t * NS) for t in range(1000)]


@pytest.mark.parametrize("wave", WAVES.values(), ids=WAVES)
def test_a_clock_before_1970_does_no_harm(wave: object) -> None:
    assert -100 < wave(SHAPE, -5 * NS) < 100  # type: ignore[operator]
