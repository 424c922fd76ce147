"""What the rows hold that were in a log when it was opened, summed up beside the work that goes on."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable
from sqlite3 import Connection

from fluxedge.log import segments
from fluxedge.log.segments import Segment
from fluxedge.problems import LinkProblem

Look = Callable[[Callable[[Connection], typing.Any]], Awaitable[typing.Any]]  # run a job on the reader's thread


async def sum_up(held: list[Segment], look: Look) -> LinkProblem | None:
    """Complete the sizes and stamps of segments that were loaded without; return what keeps it from one of them."""
    try:
        await _sum_up(held, look)
    except LinkProblem as problem:
        return problem
    return None


async def _sum_up(held: list[Segment], look: Look) -> None:
    for segment in [segment for segment in held if segment.unsummed]:
        after, size, low, high = segment.first - 1, 0, segment.from_ns, segment.to_ns
        while found := await look(lambda c: segments.some_sums(c, segment, after)):  # noqa: B023
            after, size = found[0], size + found[1]
            low, high = min(low, found[2]), max(high, found[3])
        segment.body_bytes += size
        segment.from_ns, segment.to_ns = min(segment.from_ns, low), max(segment.to_ns, high)
        segment.unsummed = 0
