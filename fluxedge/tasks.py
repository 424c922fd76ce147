"""Tasks with an owner and a name. The only place that creates asyncio tasks (a test holds that)."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable, Coroutine

Failed = Callable[[str, BaseException], None]  # (task name, what escaped)


class TaskOwner:
    """Own a set of named tasks: none outlives `close`, and none dies unnoticed."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[typing.Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[typing.Any, typing.Any, typing.Any], name: str) -> asyncio.Task[typing.Any]:
        """Start `work`; what escapes from it is told to `failed`, once. After `close` it is cancelled at once."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if self._closed:
            task.cancel()
        return task

    def names(self) -> list[str]:
        """Return the names of the running tasks, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    async def stop(self, task: asyncio.Task[typing.Any]) -> None:
        """Cancel one task and wait for its end."""
        task.cancel()
        await asyncio.wait([task])

    async def close(self) -> None:
        """Cancel all tasks, those too that others start while they end, and wait for their end."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks))

    def _done(self, task: asyncio.Task[typing.Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)
