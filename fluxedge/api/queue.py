"""GET queue: everything that waits for each uplink, what it has lost, and what its peer refused."""

from __future__ import annotations

import base64
import typing
from functools import partial

from aiohttp import web

from fluxedge.api import uplinks
from fluxedge.api.answers import GapAnswer, QuarantineAnswer, QueueAnswer, QueueLane, WaitingRange
from fluxedge.api.errors import ApiError
from fluxedge.api.handlers import no_such
from fluxedge.api.routes import Ask, Param, json_response
from fluxedge.api.view import GatewayView
from fluxedge.log import losses, quarantine
from fluxedge.log.quarantine import Kept
from fluxedge.model import Lane
from fluxedge.problems import Problem

SHOWN = 100  # ranges, gaps and rows of one uplink
LIMIT_MOST = 1000  # rows of the quarantine in one answer
UPLINK = Param("uplink", "only this uplink")
QUARANTINE = (
    UPLINK,
    Param("id", "only this row, with its payload", type=int),
    Param("after", "rows behind this id", type=int),
    Param("limit", f"at most so many rows; {quarantine.AT_ONCE} unless given, {LIMIT_MOST} at most", type=int),
)


async def get_queue(ask: Ask) -> web.StreamResponse:
    wanted = ask.query("uplink")
    known = await known_uplinks(ask.view)
    if wanted and wanted not in known:
        raise no_such("uplink", wanted, known)
    return json_response([await _answer(ask, name) for name in ([wanted] if wanted else known)])


async def get_quarantine(ask: Ask) -> web.StreamResponse:
    number, limit = whole(ask, "id"), whole(ask, "limit") or quarantine.AT_ONCE
    try:
        if number:
            found = await ask.view.log.look(partial(quarantine.find, number=number))
            if found is None:
                raise no_such_row(number)
            return json_response([row_answer(found[0], found[1])])
        job = partial(
            quarantine.page, uplink=ask.query("uplink"), after=whole(ask, "after"), limit=min(limit, LIMIT_MOST)
        )
        return json_response([row_answer(kept) for kept in await ask.view.log.look(job)])
    except Problem as problem:
        raise unreadable(problem) from problem


async def known_uplinks(view: GatewayView) -> list[str]:
    """Return every uplink that is configured, has cursors, or has rows in the quarantine.

    Raises:
        ApiError: "not-available": the log cannot be read.
    """
    try:
        kept = await view.log.look(quarantine.totals)
    except Problem as problem:
        raise unreadable(problem) from problem
    return sorted({*view.forwarders, *view.log.cursors.uplinks(), *kept})


def unreadable(problem: Problem) -> ApiError:
    """Return the error for a log that cannot be read or written."""
    return ApiError("not-available", problem.message, problem.hint)


def no_such_row(number: int) -> ApiError:
    """Return the error for a row of the quarantine that does not exist."""
    hint = "It may have been delivered or dropped; `fluxedge queue show` lists what is there."
    return ApiError("not-found", f"there is no row {number} in the quarantine", hint)


def whole(ask: Ask, name: str) -> int:
    """Return a parameter that is a whole number; 0 when it is not given.

    Raises:
        ApiError: "bad-request".
    """
    text = ask.query(name)
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**63:
        raise ApiError("bad-request", f'{name}: "{text}" is no whole number')
    return int(text)


def row_answer(kept: Kept, payload: bytes | None = None) -> QuarantineAnswer:
    """Return a row, with its payload where that is given."""
    text, encoded = (None, False) if payload is None else shown_payload(payload)
    return QuarantineAnswer(
        id=kept.id,
        uplink=kept.uplink,
        epoch=kept.epoch,
        lane=kept.lane.label,
        first=kept.lo,
        last=kept.hi,
        reason=kept.reason,
        at_us=kept.at_ms * 1000,
        tries=kept.tries,
        again=kept.again,
        content_type=kept.content_type,
        bytes=kept.payload_bytes,
        payload=text,
        base64=encoded,
    )


def shown_payload(payload: bytes) -> tuple[str, bool]:
    """Return a payload as text, and whether that is base64."""
    try:
        return payload.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode(), True


async def _answer(ask: Ask, name: str) -> QueueAnswer:
    view = ask.view
    forwarder = view.forwarders.get(name)
    state: typing.Literal["connected", "down", "not-configured"] = "not-configured"
    lanes = [lane for lane in Lane if view.log.cursors.known(name, lane)]
    if forwarder is not None:
        state = "connected" if forwarder.connected_since_ns else "down"
        lanes = [Lane[label.upper()] for label in view.config.uplinks[name].lanes]
    try:
        lost, gaps = await view.log.look(partial(losses.of_uplink, uplink=name, limit=SHOWN))
        rows = await view.log.look(partial(quarantine.page, uplink=name, limit=SHOWN))
        total = (await view.log.look(quarantine.totals)).get(name, quarantine.Total())
    except Problem as problem:
        raise unreadable(problem) from problem
    return QueueAnswer(
        id=name,
        state=state,
        lanes=[await _lane(view, name, lane) for lane in lanes],
        budget_bytes=forwarder.counters.budget_bytes if forwarder is not None else 0,
        gaps=[
            GapAnswer(
                id=gap.id,
                epoch=gap.epoch,
                lane=gap.lane.label,
                first=gap.lo,
                last=gap.hi,
                why=gap.why,
                at_us=at_ms * 1000,
                announced=said,
            )
            for gap, at_ms, said in gaps
        ],
        gap_records=lost,
        quarantine=[row_answer(kept) for kept in rows],
        quarantine_rows=total.rows,
        quarantine_records=total.records,
        quarantine_bytes=total.bytes,
        autonomy_h=uplinks.autonomy_h(view, ask.parts.sampler, name) if forwarder is not None else None,
    )


async def _lane(view: GatewayView, name: str, lane: Lane) -> QueueLane:
    waits = uplinks.waiting(view, name, lane)
    here = uplinks.part(view, lane, waits)
    ranges = [WaitingRange(epoch=epoch, first=lo, last=hi) for epoch, found in waits for lo, hi in found]
    return QueueLane(
        lane=lane.label,
        records=sum(found.last - found.first + 1 for found in ranges),
        live=_live(view, name, lane),
        bytes=here.bytes,
        oldest_us=await uplinks.oldest_us(view, name, lane),
        ranges=ranges[:SHOWN],
        ranges_count=len(ranges),
    )


def _live(view: GatewayView, name: str, lane: Lane) -> int:
    """Return how many of the records that wait were committed since the session began."""
    forwarder = view.forwarders.get(name)
    begun = forwarder.live_from if forwarder is not None else None
    if begun is None:
        return 0
    start, first = begun
    found = 0
    for epoch, ranges in uplinks.waiting(view, name, lane):
        since = first[lane] if epoch == start else 1
        if epoch >= start:
            found += sum(hi - lo + 1 for lo, hi in ranges.intersect(since, view.log.heads[lane]))
    return found
