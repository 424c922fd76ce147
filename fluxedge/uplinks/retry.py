"""Records of the quarantine that an operator wants to be sent once more: taken from the table, and noted there.

    row, again = 1 --> sent as it was stored, in the backlog's budget --> acknowledged: the row goes
                                                                     \\-> refused: tries + 1, again = 0

The outcome is a write of its own. Where it cannot be written the row stays as it is, and is sent again after the next
start: a duplicate, nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from fluxedge.clock import Clock
from fluxedge.log import Log, quarantine
from fluxedge.log.damage import LogFault
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message


class Retries:
    """One uplink's rows to be sent once more. Lives over sessions."""

    def __init__(self, log: Log, uplink: str, clock: Clock, gone: Callable[[], Awaitable[None]]) -> None:
        """`gone` is awaited when rows were acknowledged and are not there any more."""
        self._log = log
        self._uplink = uplink
        self._clock = clock
        self._gone = gone
        self._wanted = True  # there may be rows behind `_after`
        self._after = 0
        self._under_way: set[int] = set()
        self._outcomes: dict[int, str] = {}  # row -> why it was refused; "" = acknowledged. Not written yet

    def look_again(self) -> None:
        """Look for rows from the first on: some were marked, or a session ended with rows under way."""
        self._wanted = True
        self._after = 0

    def session_ended(self) -> None:
        """Let rows that were under way be sent again."""
        self._under_way.clear()
        self.look_again()

    async def next(self) -> tuple[int, Message] | None:
        """Return the next row and its message; None when there is none, or the table cannot be read at present."""
        while self._wanted:
            found = await self._marked(self._after)
            if not found:
                self._wanted = False
                break
            (kept, payload), *_ = found
            self._after = kept.id
            if kept.id in self._under_way or kept.id in self._outcomes:
                continue
            self._under_way.add(kept.id)
            message = Message(kept.epoch, kept.lane, kept.lo, kept.hi, payload, kept.content_type, historical=True)
            return kept.id, message
        return None

    async def message(self, row: int) -> Message | None:
        """Return the message of one row that is still to be sent; None when there is no such row any more."""
        found = await self._marked(row - 1)
        if not found or found[0][0].id != row or row in self._outcomes:
            return None
        kept, payload = found[0]
        self._under_way.add(row)
        return Message(kept.epoch, kept.lane, kept.lo, kept.hi, payload, kept.content_type, historical=True)

    async def _marked(self, after: int) -> list[tuple[quarantine.Kept, bytes]]:
        """Return the first marked row behind the id `after`. What is live must not stop for a table that is damaged."""
        try:
            return await self._log.look(partial(quarantine.wanted, uplink=self._uplink, after=after, limit=1))
        except LinkProblem:
            return []

    def settled(self, row: int, refused: str = "") -> None:
        """Note what became of a row; `write` makes it last."""
        self._under_way.discard(row)
        self._outcomes[row] = refused

    async def write(self) -> None:
        """Write what became of rows; what cannot be written now is kept for the next time."""
        outcomes = list(self._outcomes.items())
        for row, refused in outcomes:
            now_ms = self._clock.wall_ns() // 10**6
            job = partial(quarantine.refused, number=row, reason=refused, at_ms=now_ms)
            try:
                await self._log.write(job if refused else partial(quarantine.delivered, number=row))
            except LogFault:
                return
            del self._outcomes[row]
        if not all(refused for _, refused in outcomes):
            await self._gone()
