"""Tasks: none outlives its owner, none dies unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from fluxedge.tasks import KEEP_S, TaskOwner


@pytest.fixture
def failures() -> list[tuple[str, BaseException]]:
    return []


@pytest.fixture
def owner(failures: list[tuple[str, BaseException]]) -> TaskOwner:
    return TaskOwner(lambda name, error: failures.append((name, error)))


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_escapes_from_a_task_is_told_once(
    owner: TaskOwner, failures: list[tuple[str, BaseException]]
) -> None:
    error = KeyError("x")

    async def fail() -> None:
        raise error

    owner.spawn(fail(), "f")
    await asyncio.sleep(0.01)
    await owner.close()
    assert failures == [("f", error)]


async def test_a_stopped_task_is_no_failure_and_its_neighbours_go_on(
    owner: TaskOwner, failures: list[tuple[str, BaseException]]
) -> None:
    first, _ = owner.spawn(forever(), "first"), owner.spawn(forever(), "second")
    await owner.stop(first)
    assert owner.names() == ["second"]
    await owner.close()
    assert (owner.names(), failures) == ([], [])


async def test_stopping_waits_until_the_task_has_cleaned_up(owner: TaskOwner) -> None:
    cleaned = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    task = owner.spawn(work(), "w")
    await asyncio.sleep(0)
    await owner.stop(task)
    assert cleaned == [True]


async def test_closing_takes_along_what_ending_tasks_start(owner: TaskOwner) -> None:
    async def parent() -> None:
        try:
            await forever()
        finally:
            owner.spawn(forever(), "child")

    owner.spawn(parent(), "parent")
    await asyncio.sleep(0)
    await owner.close()
    assert owner.names() == []


async def test_what_is_spawned_after_closing_does_not_begin(owner: TaskOwner) -> None:
    began = []

    async def late() -> None:
        began.append(True)

    await owner.close()
    task = owner.spawn(late(), "late")
    await asyncio.wait([task])
    assert task.cancelled()
    assert began == []


async def test_a_side_job_that_breaks_is_told_and_runs_again(
    owner: TaskOwner, failures: list[tuple[str, BaseException]]
) -> None:
    told: list[tuple[str, Exception | None]] = []
    error = OSError(24, "Too many open files")
    runs = 0
    slept: list[float] = []

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise error

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    task = owner.keep(run, "job", lambda name, what: told.append((name, what)), sleep)
    await asyncio.wait([task])
    assert told == [("job", error), ("job", error)]
    assert (runs, slept, failures) == (3, [KEEP_S, KEEP_S], [])


async def test_a_side_job_that_lasts_after_it_broke_is_told_to_work(
    owner: TaskOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxedge.tasks.KEEP_S", 0.01)
    told: list[Exception | None] = []
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise KeyError("x")
        await forever()

    owner.keep(run, "job", lambda _name, what: told.append(what))
    await asyncio.sleep(0.1)
    await owner.close()
    assert [type(what) for what in told] == [KeyError, type(None)]
