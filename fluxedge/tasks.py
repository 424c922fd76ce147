"""Tasks with an owner and a name. The only place that creates asyncio tasks (a test holds that)."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Awaitable, Callable, Coroutine

Failed = Callable[[str, BaseException], None]  # (task name, what escaped)
Broken = Callable[[str, Exception | None], None]  # the same of a side job; None: it works again
KEEP_S = 60.0  # until a side job that broke runs again


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

    def keep(
        self,
        run: Callable[[], Coroutine[typing.Any, typing.Any, None]],
        name: str,
        broken: Broken,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> asyncio.Task[typing.Any]:
        """Start a side job that the gateway can do without for a while: what escapes from it ends one run of it.

        It is told to `broken`, and the job runs again after KEEP_S; a run that lasted as long without is told as None.
        """
        return self.spawn(_kept(run, name, broken, sleep), name)

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


async def _kept(
    run: Callable[[], Coroutine[typing.Any, typing.Any, None]],
    name: str,
    broken: Broken,
    sleep: Callable[[float], Awaitable[object]],
) -> None:
    loop = asyncio.get_running_loop()
    proof: asyncio.TimerHandle | None = None
    while True:
        try:
            await run()
            return
        except Exception as error:  # a full table of open files must not cost more than one run
            broken(name, error)
        finally:
            if proof is not None:
                proof.cancel()
        await sleep(KEEP_S)
        proof = loop.call_later(KEEP_S, broken, name, None)
