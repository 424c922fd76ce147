"""A loop whose time jumps to the next timer: hours pass in milliseconds, and every instant is exact."""

from __future__ import annotations

import asyncio
import functools
import selectors
import typing
from collections.abc import Callable, Coroutine

P = typing.ParamSpec("P")


class _Selector(selectors.SelectSelector):
    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen: everybody waits for somebody"
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def virtual(test: Callable[P, Coroutine[typing.Any, typing.Any, None]]) -> Callable[P, None]:
    """Run a test on a VirtualLoop; fail when it leaves a task behind."""

    async def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        await test(*args, **kwargs)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(checked(*args, **kwargs))

    return run


class VirtualClock:
    """Clocks that follow the loop; the wall clock can be stepped, and be mistrusted."""

    def __init__(self) -> None:
        self.step_ns = 1_800_000_000 * 10**9
        self.sure = True

    def wall_ns(self) -> int:
        return self.mono_ns() + self.step_ns

    def mono_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 10**9)

    def trusted(self) -> bool:
        return self.sure
