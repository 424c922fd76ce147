"""GET log: records of the log, streamed while they are read; as JSON lines or as CSV."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web

from fluxedge.api.errors import ApiError
from fluxedge.api.history import note_damage
from fluxedge.api.instants import instant_ns
from fluxedge.api.routes import CSV, JSON_LINES, Ask, Param
from fluxedge.log import export, placing
from fluxedge.log.body import DamagedBody, Row
from fluxedge.log.placing import Places
from fluxedge.log.query import DamagedHistory, Query, query
from fluxedge.model import Lane, Record, Round
from fluxedge.problems import Problem

TURN_POINTS = 2000  # encoded before the loop gets its turn: about 2 ms
STUCK_S = 30.0
LIMIT = 1000  # records, unless more are asked for

PARAMS = (
    Param("lane", 'which lane: "rounds" or "events"; rounds unless given, events when kinds are asked for'),
    Param("since", 'from this instant on: "1h" (ago), "2026-03-01T12:00:00+08:00"'),
    Param("until", "before this instant"),
    Param("device", "only these devices, separated by commas"),
    Param("point", 'only these points of rounds, "device.point", separated by commas'),
    Param("kind", "only events of these kinds, separated by commas; not with the lane rounds"),
    Param("limit", f"at most so many records; {LIMIT} unless given, 0 = all", type=int),
    Param("order", '"oldest" first (default) or "newest" first'),
    Param("format", '"jsonl" (default) or "csv", a line per value'),
)


def wanted(given: Callable[[str], str], now_ns: int) -> Query:
    """Return the query that the parameters mean.

    Raises:
        ValueError: one of them means nothing; the text says which and what would.
    """
    points, kinds = _names(given("point")), _names(given("kind"))
    lane, order = given("lane") or ("events" if kinds else "rounds"), given("order") or "oldest"
    if lane not in ("rounds", "events"):
        raise ValueError(f'lane: "{lane}" is neither rounds nor events')
    if kinds and lane == "rounds":
        raise ValueError('kind: rounds have none; ask for the lane "events"')
    if points and lane == "events":
        raise ValueError('point: events have none; ask for the lane "rounds"')
    if order not in ("oldest", "newest"):
        raise ValueError(f'order: "{order}" is neither oldest nor newest')
    limit = given("limit") or str(LIMIT)
    if not limit.isdecimal():
        raise ValueError(f'limit: "{limit}" is no whole number')
    since, until = given("since"), given("until")
    return Query(
        lane=Lane[lane.upper()],
        since_ns=instant_ns(since, now_ns) if since else None,
        until_ns=instant_ns(until, now_ns) if until else None,
        devices=_names(given("device")),
        points=points,
        kinds=kinds,
        limit=int(limit),
        newest_first=order == "newest",
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


async def get_log(ask: Ask) -> web.StreamResponse:
    """Stream what matches; a client that goes, or takes nothing, ends it."""
    form = ask.query("format") or "jsonl"
    try:
        if form not in ("jsonl", "csv"):
            raise ValueError(f'format: "{form}" is neither jsonl nor csv')
        asked = wanted(ask.query, ask.view.clock.wall_ns())
    except ValueError as exc:
        raise ApiError("bad-request", str(exc)) from exc
    with ask.parts.readers.one():
        async with contextlib.aclosing(
            query(ask.view.log.path, asked, partial(_damaged, ask, asyncio.get_running_loop()))
        ) as found:
            try:
                places = await ask.view.log.look(placing.load)
                first = await anext(found, None)  # before the answer begins: what cannot be read is an error
            except Problem as problem:
                raise ApiError("not-available", problem.message, problem.hint) from problem
            return await _send(ask, form, asked.lane, _from(first, found), places)


async def _send(ask: Ask, form: str, lane: Lane, found: AsyncIterator[Record], places: Places) -> web.StreamResponse:
    kind = f"{CSV}; charset=utf-8" if form == "csv" else JSON_LINES
    response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-store"})
    await response.prepare(ask.http)
    outbox = _Outbox(response)
    try:
        if form == "csv":
            await export.export_csv(outbox.flushing(found), outbox.parts.append, lane, places)
        else:
            await export.export_jsonl(outbox.flushing(found), outbox.parts.append, places)
        await outbox.flush()
    except (ConnectionResetError, TimeoutError, Problem):
        if ask.http.transport is not None:
            ask.http.transport.abort()  # half an answer must not look like a whole one
    return response


async def _from(first: Record | None, rest: AsyncIterator[Record]) -> AsyncIterator[Record]:
    if first is not None:
        yield first
        async for record in rest:
            yield record


def _damaged(ask: Ask, loop: asyncio.AbstractEventLoop, row: Row, damage: DamagedBody) -> None:
    """Say that an answer lacks a row's records, or something of the history; called on the loop or on a thread."""
    if isinstance(damage, DamagedHistory):
        loop.call_soon_threadsafe(note_damage, ask, [str(damage)])
        return
    ask.view.problems.report("log", Problem("log-damaged", f"{damage}: {row.count} records cannot be read"))


class _Outbox:
    """What has been encoded and not been sent: sent between two records, so that memory holds one page."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.parts: list[str] = []
        self._response = response

    async def flushing(self, found: AsyncIterator[Record]) -> AsyncIterator[Record]:
        """Pass records on; send what was made of them, and let the loop have its turn."""
        points = 0
        async for record in found:
            yield record
            points += len(record.body.values) if isinstance(record.body, Round) else 1
            if points >= TURN_POINTS:
                points = 0
                await self.flush()
                await asyncio.sleep(0)

    async def flush(self) -> None:
        """Send what waits."""
        if self.parts:
            data = "".join(self.parts).encode()
            self.parts.clear()
            async with asyncio.timeout(STUCK_S):
                await self._response.write(data)
