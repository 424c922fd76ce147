"""Character times and the timer behind the silence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import pytest
import uvloop

from fluxedge.channels.gap import GapTimer, character_s, silence_s


@pytest.mark.parametrize(
    ("bits", "parity", "stop", "per_character"),
    [(8, "N", 1, 10), (8, "E", 1, 11), (8, "N", 2, 11), (7, "E", 1, 10), (7, "E", 2, 11), (8, "O", 2, 12)],
)  # fmt: skip
def test_a_character_is_start_data_parity_and_stop(bits: int, parity: str, stop: float, per_character: int) -> None:
    assert character_s(9600, bits=bits, parity=parity, stop=stop) == pytest.approx(per_character / 9600)


@pytest.mark.parametrize(
    ("baud", "gap_ms"), [(1200, 32.08), (2400, 16.04), (4800, 8.02), (9600, 4.01), (19200, 2.01)]
)  # fmt: skip
def test_the_gap_is_three_and_a_half_characters_up_to_19200_baud(baud: int, gap_ms: float) -> None:
    assert silence_s(baud, character_s(baud, parity="E")) * 1000 == pytest.approx(gap_ms, abs=0.006)


def test_above_19200_baud_the_gap_is_fixed() -> None:
    for baud in (38400, 115200):
        assert silence_s(baud, character_s(baud)) == 0.00175  # MODBUS over Serial Line V1.02, 2.5.1.1


def open_timers() -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            count += "timerfd" in os.readlink(entry)
    return count


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_timer_never_ends_early_and_gives_its_descriptor_back(factory: object) -> None:
    async def waits() -> list[float]:
        timer = GapTimer(asyncio.get_running_loop())
        late = []
        for wanted_s in (0.00175, 0.004, 0.0):
            at_s = time.monotonic() + wanted_s
            await timer.wait_until(at_s)
            late.append(time.monotonic() - at_s)
        await timer.wait_until(-1.0)  # past instants return at once instead of disarming the timer
        assert open_timers() == 1
        timer.close()
        timer.close()
        await timer.wait_until(time.monotonic() + 60)  # closed: returns at once
        return late

    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        late = runner.run(waits())
    assert min(late) >= 0
    assert open_timers() == 0


async def test_waking_ends_a_wait_now() -> None:
    loop = asyncio.get_running_loop()
    timer = GapTimer(loop)
    begun_s = time.monotonic()
    loop.call_soon(timer.wake)
    await timer.wait_until(begun_s + 60)
    assert time.monotonic() - begun_s < 10
    timer.close()


async def test_a_cancelled_wait_does_not_end_the_next_one() -> None:
    timer = GapTimer(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await timer.wait_until(time.monotonic() + 0.001)
    await asyncio.sleep(0.002)
    at_s = time.monotonic() + 0.005
    await timer.wait_until(at_s)
    assert time.monotonic() >= at_s
    timer.close()
