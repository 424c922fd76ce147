"""POST queue/retry and queue/drop: what an operator decides about records that wait or were refused.

A drop is announced: the records become gaps with why "dropped", which consumers get as events. The cursor, the gap and
the audit event are one commit; the answer comes when it is durable. Rows of the quarantine are deleted together with
the making of their gaps.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
from aiohttp import web

from fluxedge.api import queue, uplinks
from fluxedge.api.answers import DropRequest, QueueChange, RetryRequest, WaitingRange
from fluxedge.api.errors import ApiError
from fluxedge.api.handlers import no_such
from fluxedge.api.routes import Ask, json_response
from fluxedge.api.view import GatewayView
from fluxedge.log import LogFault, ages, quarantine
from fluxedge.log.quarantine import Kept
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import Gap
from fluxedge.model import Lane
from fluxedge.problems import Problem

MOST_IDS = quarantine.MOST_ROWS
SHOWN = 100  # ranges in an answer and in an audit event
DURABLE_S = 20.0  # how long the commit of a drop is waited for
T = typing.TypeVar("T")
Place = tuple[int, Lane]  # epoch, lane
Connection = typing.Any  # the log's; only the log's own row knows what it is
Do = Callable[[Callable[[Connection], list[typing.Any]]], Awaitable[list[typing.Any]]]  # Log.look or Log.write
Chosen = list[tuple[int, Lane, int, int]]  # epoch, lane, first, last


async def post_retry(ask: Ask) -> web.StreamResponse:
    request = await _decoded(ask, RetryRequest, '{"ids": [17]} or {"all": true, "uplink": "cloud"}')
    if bool(request.ids) is request.all or (request.ids and request.uplink):
        raise ApiError("bad-request", 'give either "ids", or "all" and perhaps "uplink"')
    if request.uplink and request.uplink not in (known := await queue.known_uplinks(ask.view)):
        raise no_such("uplink", request.uplink, known)
    numbers = _checked(request.ids) or await _all_rows(ask.view, request.uplink)
    found = await _in_turns(ask.view.log.write, numbers, quarantine.mark)
    if request.ids and not found:
        raise queue.no_such_row(request.ids[0])
    for name in {kept.uplink for kept in found}:
        if (forwarder := ask.view.forwarders.get(name)) is not None:
            forwarder.retry_quarantine()
    answer = _about_rows(found, numbers)
    if found:
        _audit(ask, "queue-retry", {"uplinks": sorted({kept.uplink for kept in found})}, answer)
    return json_response(answer)


async def post_drop(ask: Ask) -> web.StreamResponse:
    request = await _decoded(ask, DropRequest, '{"uplink": "cloud", "lane": "rounds"} or {"ids": [17]}')
    only_ids = msgspec.structs.replace(DropRequest(), ids=request.ids, dry=request.dry)
    if bool(request.ids) is bool(request.uplink) or (request.ids and request != only_ids):
        raise ApiError("bad-request", 'give either "ids" alone, or "uplink" and what of it')
    answer = await (_drop_rows(ask, request) if request.ids else _drop_records(ask, request))
    return json_response(answer)


async def _drop_rows(ask: Ask, request: DropRequest) -> QueueChange:
    view, numbers = ask.view, _checked(request.ids)
    if request.dry:
        found = await _in_turns(view.log.look, numbers, quarantine.some)
    else:
        found = await _give_up(view, numbers)
    if not found:
        raise queue.no_such_row(request.ids[0])
    answer = _about_rows(found, numbers)
    if not request.dry:
        await _durable(_audit(ask, "queue-drop", {"uplinks": sorted({kept.uplink for kept in found})}, answer))
    return answer


async def _give_up(view: GatewayView, numbers: list[int]) -> list[Kept]:
    now_ms = view.clock.wall_ns() // 10**6

    def drop(connection: Connection, numbers: list[int]) -> list[tuple[list[Kept], list[Gap]]]:
        return [quarantine.drop(connection, numbers, now_ms)]

    found: list[Kept] = []
    for kept, gaps in await _in_turns(view.log.write, numbers, drop):
        view.log.unannounced.extend(gaps)  # the commit of the audit event is followed by their announcement
        found += kept
    for name in {kept.uplink for kept in found}:
        if (forwarder := view.forwarders.get(name)) is not None:
            await forwarder.rows_gone()
    return found


async def _drop_records(ask: Ask, request: DropRequest) -> QueueChange:
    view, uplink = ask.view, request.uplink
    ends = await _ends(view, request)  # awaits; what follows does not, so that nothing moves meanwhile
    chosen: Chosen = []
    for (epoch, lane), end in ends.items():
        ranges = dict(uplinks.waiting(view, uplink, lane)).get(epoch, RangeSet())
        chosen += [(epoch, lane, lo, hi) for lo, hi in ranges.intersect(1, end)]
    ranges_shown = [WaitingRange(epoch=epoch, first=lo, last=hi) for epoch, _, lo, hi in chosen[:SHOWN]]
    count = sum(hi - lo + 1 for _, _, lo, hi in chosen)
    answer = QueueChange(records=count, rows=0, ranges=ranges_shown, missing=[])
    if request.dry or not chosen:
        return answer
    for epoch, lane, lo, hi in chosen:
        view.log.lose(uplink, epoch, lane, lo, hi, "dropped")
    lanes = {lane.label: sum(hi - lo + 1 for _, of, lo, hi in chosen if of is lane) for lane in Lane}
    told = {"uplink": uplink, "lanes": {label: n for label, n in lanes.items() if n}}
    await _durable(_audit(ask, "queue-drop", told, answer))
    return answer


async def _ends(view: GatewayView, request: DropRequest) -> dict[Place, int]:
    """Return the last seq that goes of each epoch and lane.

    Raises:
        ApiError: it asks for what does not exist, or is not clear.
    """
    known = await queue.known_uplinks(view)
    if request.uplink not in known:
        raise no_such("uplink", request.uplink, known)
    if request.upto < 0 or request.epoch < 0 or request.older_than_s < 0 or (request.upto and request.older_than_s):
        raise ApiError(
            "bad-request", "upto, epoch and older_than_s are not negative, and upto goes without older_than_s"
        )
    lanes = [Lane[request.lane.upper()]] if request.lane else list(Lane)
    places = [(epoch, lane) for lane in lanes for epoch, _ in uplinks.waiting(view, request.uplink, lane)]
    if request.epoch:
        epochs = sorted({epoch for epoch, _ in places})
        places = [place for place in places if place[0] == request.epoch]
        if not places:
            waiting = f"What waits is of epoch {', '.join(map(str, epochs))}." if epochs else "Nothing waits."
            raise ApiError("bad-request", f"epoch: nothing of {request.epoch} waits for {request.uplink}", waiting)
    if request.upto and len(places) > 1:
        choices = ", ".join(f"{lane.label} of epoch {epoch}" for epoch, lane in places)
        hint = f"Name lane and epoch; what waits is {choices}."
        raise ApiError("bad-request", f"upto: seq {request.upto} exists in several of them", hint)
    if not request.older_than_s:
        return dict.fromkeys(places, request.upto or 2**63 - 2)
    limit_ns = view.clock.wall_ns() - int(request.older_than_s * 10**9)
    try:
        return {
            (epoch, lane): await ages.last_older(
                [s for s in view.log.segments() if s.epoch == epoch and s.lane is lane], view.log.look, limit_ns
            )
            for epoch, lane in places
        }
    except Problem as problem:
        raise queue.unreadable(problem) from problem


async def _decoded(ask: Ask, shape: type[T], example: str) -> T:
    try:
        return msgspec.json.decode(await ask.http.read(), type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ApiError("bad-request", f"the body is not understood: {exc}", f"For instance {example}.") from exc


def _checked(numbers: Sequence[int]) -> list[int]:
    if len(numbers) > MOST_IDS or any(not 0 < number < 2**63 for number in numbers):
        raise ApiError("bad-request", f"ids: at most {MOST_IDS} of them, each a whole number above 0")
    return sorted(set(numbers))


async def _all_rows(view: GatewayView, uplink: str) -> list[int]:
    numbers: list[int] = []
    try:
        after = 0
        while found := await view.log.look(partial(quarantine.page, uplink=uplink, after=after)):
            numbers += [kept.id for kept in found]
            after = numbers[-1]
    except Problem as problem:
        raise queue.unreadable(problem) from problem
    return numbers


async def _in_turns(do: Do, numbers: list[int], job: Callable[..., list[T]]) -> list[T]:
    """Carry a job out for some rows at a time, so that the next commit does not wait for all of them."""
    done: list[T] = []
    try:
        for i in range(0, len(numbers), quarantine.AT_ONCE):
            done += await do(partial(job, numbers=numbers[i : i + quarantine.AT_ONCE]))
    except Problem as problem:
        raise queue.unreadable(problem) from problem
    return done


def _about_rows(found: list[Kept], numbers: list[int]) -> QueueChange:
    there = {kept.id for kept in found}
    return QueueChange(
        records=sum(kept.records for kept in found),
        rows=len(found),
        ranges=[WaitingRange(epoch=kept.epoch, first=kept.lo, last=kept.hi) for kept in found[:SHOWN]],
        missing=[number for number in numbers if number not in there],
    )


def _audit(ask: Ask, action: str, told: dict[str, typing.Any], answer: QueueChange) -> asyncio.Future[None]:
    data = {"action": action, "by": str(ask.principal), **told, "records": answer.records}
    if answer.rows:
        data["rows"] = answer.rows
    submitted = ask.view.pipeline.submit("audit", "gateway", data, urgent=True)
    return typing.cast("asyncio.Future[None]", submitted)


async def _durable(event: asyncio.Future[None]) -> None:
    """Wait until a drop is durable.

    Raises:
        ApiError: "not-available": it is not yet.
    """
    hint = "It holds while the gateway runs, and is written as soon as the disk takes it; `fluxedge status` says more."
    try:
        async with asyncio.timeout(DURABLE_S):
            await event
    except LogFault as fault:
        raise ApiError("not-available", f"the drop is not on the disk yet: {fault.message}", hint) from fault
    except TimeoutError as exc:
        raise ApiError("not-available", f"the drop is not on the disk after {DURABLE_S:g} s", hint) from exc
