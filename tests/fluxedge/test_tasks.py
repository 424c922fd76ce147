"""Tasks: none outlives its owner, none dies unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from fluxedge.tasks import TaskOwner


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
