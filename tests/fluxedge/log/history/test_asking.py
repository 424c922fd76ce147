"""Children: started when asked, kept for a while, killed when in doubt, never more than may be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import typing
from collections.abc import AsyncIterator

import pytest

from fluxedge.log.history import asking
from fluxedge.log.history.asking import Busy, HistoryReaders
from fluxedge.log.history.query import Question, Refused
from fluxedge.tasks import TaskOwner
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import BASE_NS, HOUR, POINTS, fill, rounds

ASKED = Question("raw", ("b.temp",), BASE_NS - 9 * HOUR, BASE_NS + 9 * HOUR, BASE_NS + 9 * HOUR)


@pytest.fixture
async def readers(open_log: OpenLog) -> AsyncIterator[HistoryReaders]:  # type: ignore[misc]
    rng = random.Random(1)
    log = open_log()
    await fill(log, rounds(rng, 100), rng)
    failures: list[BaseException] = []
    owner = TaskOwner(lambda _, error: failures.append(error))
    found = HistoryReaders(log.path.parent, owner.spawn)
    yield found
    await found.close()
    await owner.close()
    assert failures == []


async def ask(readers: HistoryReaders, question: Question = ASKED) -> list[typing.Any]:
    async with readers.ask(question) as pieces:
        return [json.loads(line) async for piece in pieces for line in piece.splitlines()]


def pids(readers: HistoryReaders) -> set[int]:
    return {child._process.pid for child in readers._all}


async def test_one_child_answers_one_question_after_the_other(readers: HistoryReaders) -> None:
    first = await ask(readers)
    before = pids(readers)
    assert len(before) == 1
    assert await ask(readers) == first
    assert pids(readers) == before
    assert first[-1]["end"]["rows"] > 0


async def test_a_refusal_does_not_cost_the_child(readers: HistoryReaders) -> None:
    await ask(readers)
    before = pids(readers)
    with pytest.raises(Refused, match="nothing was ever recorded") as caught:
        await ask(readers, Question("raw", ("b.nix",), 0, 1, 1))
    assert caught.value.code == "not-found"
    await ask(readers)
    assert pids(readers) == before


async def test_leaving_early_kills_the_child(readers: HistoryReaders) -> None:
    async with readers.ask(Question("raw", POINTS, ASKED.from_ns, ASKED.to_ns, ASKED.now_ns)) as pieces:
        assert await anext(pieces)
        before = pids(readers)
    await ask(readers)
    assert before.isdisjoint(pids(readers))


async def test_a_child_that_is_killed_is_told_and_replaced(readers: HistoryReaders) -> None:
    await ask(readers)
    (child,) = readers._all
    child._process.send_signal(signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.05, child._process.kill)
    with pytest.raises(Refused, match="ended in the middle"):
        await ask(readers)
    assert (await ask(readers))[-1]["end"]["rows"]


async def test_a_child_that_says_nothing_is_killed(readers: HistoryReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    await ask(readers)
    monkeypatch.setattr(asking, "SILENT_S", 0.1)
    (child,) = readers._all
    child._process.send_signal(signal.SIGSTOP)
    with pytest.raises(Refused, match="said nothing"):
        await ask(readers)
    monkeypatch.undo()
    assert (await ask(readers))[-1]["end"]["rows"]
    assert child not in readers._all or child._process.returncode is not None


async def test_an_idle_child_ends(readers: HistoryReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "IDLE_S", 0.05)
    await ask(readers)
    (child,) = readers._all
    await asyncio.wait_for(child._process.wait(), 5)
    for _ in range(100):
        if not readers._all:
            break
        await asyncio.sleep(0.01)
    assert not readers._all


async def test_no_more_children_than_may_be_and_no_more_waiting(
    readers: HistoryReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WAITING", 0)
    with pytest.raises(Busy):
        await ask(readers)
    monkeypatch.setattr(asking, "WAITING", 1)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(asking.MOST):
            await stack.enter_async_context(readers.ask(ASKED))
        assert len(pids(readers)) == asking.MOST
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(ask(readers))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await ask(readers)
            await stack.aclose()
        assert waiting.result()[-1]["end"]["rows"]
