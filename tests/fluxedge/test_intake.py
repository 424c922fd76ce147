"""Intake: four rounds a channel, and a bucket of early commits."""

from __future__ import annotations

import asyncio

import pytest

from fluxedge.intake import URGENT_BURST, Bucket, RoundQueue, UrgentBucket
from tests.fluxedge.log.fake_clock import group_of, round_of

GROUP = group_of("H")


async def test_a_fifth_round_waits_and_is_counted_while_neighbours_go_on() -> None:
    queue = RoundQueue()
    for i in range(4):
        await queue.put("busy", round_of(GROUP, i))
    async with asyncio.TaskGroup() as tasks:
        fifth = tasks.create_task(queue.put("busy", round_of(GROUP, 4)))
        await asyncio.sleep(0)
        await asyncio.wait_for(queue.put("calm", round_of(GROUP, 100)), 1)
        assert not fifth.done()
        assert queue.waited == {"busy": 1}
        taken = [queue.take()]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fifth.done()
        while (round_ := queue.take()) is not None:
            taken.append(round_)
    assert [round_.values[0] for round_ in taken if round_] == [0, 1, 2, 3, 100, 4]
    assert len(queue) == 0


async def test_room_for_one_channel_does_not_let_another_one_in() -> None:
    queue = RoundQueue()
    for channel in ("a", "b"):
        for i in range(4):
            await queue.put(channel, round_of(GROUP, i))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(queue.put("b", round_of(GROUP, 9)))
        for _ in range(4):
            queue.take()  # all of a
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.take()
    assert waiting.done()


async def test_a_poller_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    queue = RoundQueue()
    for i in range(4):
        await queue.put("c", round_of(GROUP, i))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.put("c", round_of(GROUP, 9)), 0.01)
    for _ in range(4):
        queue.take()
    assert queue.take() is None
    await asyncio.wait_for(queue.put("c", round_of(GROUP, 1)), 1)


def test_the_bucket_gives_a_burst_and_then_one_a_second() -> None:
    bucket = UrgentBucket()
    assert sum(bucket.take(1000.0) for _ in range(100)) == URGENT_BURST
    assert not bucket.take(1000.9)
    assert bucket.take(1001.1)
    assert not bucket.take(1001.2)
    assert sum(bucket.take(9000.0) for _ in range(100)) == URGENT_BURST


def test_a_bucket_is_full_again_when_its_burst_has_come_back() -> None:
    bucket = Bucket(10, 5.0)
    assert bucket.full(1000.0)
    assert sum(bucket.take(1000.0) for _ in range(100)) == 10
    assert not bucket.full(1001.9)
    assert bucket.full(1002.1)
