"""GET queue/export: what waits for an uplink and what its peer refused, as JSON lines, streamed.

{"record": {...}}        a record that waits, as `GET log` shows it
{"quarantine": {...}}    a row of the quarantine with its payload, as `GET queue/quarantine?id=` shows it
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial

import msgspec
from aiohttp import web

from fluxedge.api import queue, uplinks
from fluxedge.api.errors import ApiError
from fluxedge.api.handlers import no_such, stream
from fluxedge.api.routes import JSON_LINES, Ask, Param
from fluxedge.log import export, placing, quarantine
from fluxedge.log.body import DamagedBody, Row
from fluxedge.log.placing import Places
from fluxedge.log.query import Query, pages
from fluxedge.model import Lane, Record, Round
from fluxedge.problems import Problem

TURN_POINTS = 2000  # encoded before the loop gets its turn: about 2 ms
WHAT = ("all", "records", "quarantine")
PARAMS = (
    Param("uplink", "of this uplink; not needed for the quarantine of all"),
    Param("what", '"records" that wait, "quarantine", or "all" (default)'),
)

_encode = msgspec.json.Encoder().encode


async def get_export(ask: Ask) -> web.StreamResponse:
    what, uplink = ask.query("what") or "all", ask.query("uplink")
    if what not in WHAT:
        raise ApiError("bad-request", f'what: "{what}" is none of {", ".join(WHAT)}')
    if not uplink and what != "quarantine":
        raise ApiError("bad-request", "uplink: say whose records", "what=quarantine exports that of every uplink.")
    if uplink and uplink not in (known := await queue.known_uplinks(ask.view)):
        raise no_such("uplink", uplink, known)
    with ask.parts.readers.one():
        try:
            places = await ask.view.log.look(placing.load)
        except Problem as problem:
            raise queue.unreadable(problem) from problem
        async with contextlib.aclosing(_lines(ask, uplink, what, places)) as lines:
            return await stream(ask.http, JSON_LINES, _until_trouble(ask, lines))


async def _until_trouble(ask: Ask, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass on; half an answer must not look like a whole one."""
    try:
        async for piece in lines:
            yield piece
    except Problem as problem:
        raise ConnectionResetError(problem.message) from problem


async def _lines(ask: Ask, uplink: str, what: str, places: Places) -> AsyncGenerator[bytes, None]:
    if what != "records":
        async for piece in _kept(ask, uplink):
            yield piece
    if what == "quarantine":
        return
    for lane in Lane:
        for epoch, ranges in uplinks.waiting(ask.view, uplink, lane):
            for lo, hi in list(ranges):
                wanted = Query(lane=lane, epoch=epoch, first=lo, last=hi)
                async with contextlib.aclosing(pages(ask.view.log.path, wanted, partial(_damaged, ask))) as found:
                    async for page in found:
                        for piece in _pieces(page, places):
                            yield piece
                            await asyncio.sleep(0)


async def _kept(ask: Ask, uplink: str) -> AsyncIterator[bytes]:
    after = 0
    while rows := await ask.view.log.look(partial(quarantine.page, uplink=uplink, after=after)):
        for kept in rows:
            after = kept.id
            found = await ask.view.log.look(partial(quarantine.find, number=kept.id))
            if found is not None:  # it may have been delivered in the meantime
                yield _encode({"quarantine": queue.row_answer(*found)}) + b"\n"


def _pieces(page: list[Record], places: Places) -> Iterator[bytes]:
    """Return the lines of a page, cut so that each piece costs about a turn of the loop."""
    lines: list[bytes] = []
    points = 0
    for record in page:
        lines.append(_encode({"record": export.as_object(record, places)}) + b"\n")
        points += len(record.body.values) if isinstance(record.body, Round) else 1
        if points >= TURN_POINTS:
            yield b"".join(lines)
            lines, points = [], 0
    yield b"".join(lines)


def _damaged(ask: Ask, row: Row, damage: DamagedBody) -> None:
    """Say that an answer lacks a row's records."""
    ask.view.problems.report("log", Problem("log-damaged", f"{damage}: {row.count} records cannot be read"))
