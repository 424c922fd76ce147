"""Commands on their way to one channel's wire: a bounded queue in which each one dies at its deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fluxedge.columns import Value
from fluxedge.problems import Problem
from fluxedge.spi import Written

QUEUED_COMMANDS = 100


def refused(why: str, hint: str = "") -> Problem:
    """Return the problem of a command that never was sent."""
    return Problem("command-refused", why, hint)


@dataclass(slots=True, eq=False)
class WriteOrder:
    """A command to one point of a device."""

    device: str
    point: str
    value: Value
    patient: bool  # waits while its device is offline
    done: asyncio.Future[Written]
    expiry: asyncio.TimerHandle | None = field(default=None)

    def begin(self) -> None:
        """Let it expire no more."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None

    def fail(self, problem: Problem) -> None:
        """Answer that it came to nothing; whoever asked may be gone."""
        self.begin()
        if not self.done.done():
            self.done.set_exception(problem)


class Orders:
    """The queue: first come, first served, except that a patient order for an offline device lets others pass."""

    def __init__(self) -> None:
        self._orders: deque[WriteOrder] = deque()

    def __len__(self) -> int:
        return len(self._orders)

    @property
    def full(self) -> bool:
        """Tell whether the queue takes no more."""
        return len(self._orders) >= QUEUED_COMMANDS

    def add(self, order: WriteOrder, deadline_s: float) -> None:
        """Take an order; it dies at `deadline_s` of the loop's time unless it was taken out before."""
        order.expiry = asyncio.get_running_loop().call_at(deadline_s, self._expire, order)
        self._orders.append(order)

    def take(self, can_go: Callable[[str], bool]) -> WriteOrder | None:
        """Take out the first order whose device `can_go`; who asked for it still waits."""
        for order in list(self._orders):
            if order.done.done():
                self._orders.remove(order)
                order.begin()
            elif can_go(order.device):
                self._orders.remove(order)
                order.begin()
                return order
        return None

    def refuse(self, why: str, which: Callable[[WriteOrder], bool]) -> None:
        """Answer those orders that they were never sent."""
        out = [order for order in self._orders if which(order)]
        for order in out:
            self._orders.remove(order)
            order.fail(refused(why))

    def _expire(self, order: WriteOrder) -> None:
        self._orders.remove(order)
        order.fail(refused("expired before it could be sent"))
