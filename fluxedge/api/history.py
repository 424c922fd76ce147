"""GET history and GET points/{id}/at: what points were, out of log and history, by the history reader's children."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import typing
from collections.abc import AsyncIterator, Callable, Iterable

from aiohttp import web

from fluxedge.api.answers import PointAtAnswer
from fluxedge.api.errors import ApiError
from fluxedge.api.handlers import no_such_point
from fluxedge.api.instants import instant_ns
from fluxedge.api.routes import JSON_LINES, Ask, Param, json_response
from fluxedge.log.history.asking import Busy
from fluxedge.log.history.query import AGGREGATES, Kind, Question, Refused
from fluxedge.problems import Problem

STUCK_S = 30.0
LOOK_S = 0.2  # how often it is looked whether the client is still there
MOST_POINTS = 50
MOST_BUCKETS = 10_000
MOST_ROWS = 100_000  # buckets of all points
LIMIT = 10_000  # samples of each point, unless more are asked for
MOST_DAYS = 3660
_DAY_NS = 86_400 * 10**9
_STAMP_MOST_NS = 2**62  # year 2116

PARAMS = (
    Param("points", f'the points, "device.point", separated by commas; at most {MOST_POINTS}'),
    Param("from", 'from this instant on: "24h" (ago; the default), "2026-03-01T12:00:00+08:00"'),
    Param("to", "before this instant; now unless given"),
    Param("buckets", f"so many stretches of time, at most {MOST_BUCKETS}; 0 (default) = the samples", type=int),
    Param("aggregates", f"what of each bucket, separated by commas: {', '.join(AGGREGATES)}; all unless given"),
    Param("limit", f"at most so many samples of each point; {LIMIT} unless given, 0 = all", type=int),
)
AT_PARAMS = (
    Param("id", "device.point", "path"),
    Param("t", 'the instant: "1h" (ago), "2026-03-01T12:00:00+08:00"; now unless given'),
)


def question(given: Callable[[str], str], now_ns: int) -> Question:
    """Return what the parameters of GET history ask.

    Raises:
        ValueError: one of them means nothing or too much; the text names it and says what would do.
    """
    points = _names(given("points"))
    if not points:
        raise ValueError("points: none is given; write points=boiler.flow_temp, several with commas")
    if len(points) > MOST_POINTS:
        raise ValueError(f"points: {len(points)} are too many; ask for at most {MOST_POINTS} at a time")
    for name in points:
        if not all(name.partition(".")):
            raise ValueError(f'points: "{name}" is no point; write DEVICE.POINT')
    from_ns, to_ns = instant("from", given("from") or "24h", now_ns), instant("to", given("to") or "0s", now_ns)
    if from_ns >= to_ns:
        raise ValueError(f'from: "{given("from") or "24h"}" is not before to, "{given("to") or "now"}"')
    if to_ns - from_ns > MOST_DAYS * _DAY_NS:
        raise ValueError(f"from: the range is longer than {MOST_DAYS} days; ask for a shorter one")
    count = _whole("buckets", given("buckets") or "0")
    if count > MOST_BUCKETS or count * len(points) > MOST_ROWS:
        most = min(MOST_BUCKETS, MOST_ROWS // len(points))
        raise ValueError(f'buckets: "{count}" are too many for {len(points)} points; ask for at most {most}')
    aggregates = _names(given("aggregates")) or AGGREGATES
    for aggregate in aggregates:
        if aggregate not in AGGREGATES:
            raise ValueError(f'aggregates: "{aggregate}" is none of {", ".join(AGGREGATES)}')
    limit = _whole("limit", given("limit") or str(LIMIT))
    kind: Kind = "buckets" if count else "raw"
    return Question(kind, points, from_ns, to_ns, now_ns, count, aggregates, 0 if count else limit)


def _names(text: str) -> tuple[str, ...]:
    """Return names, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f'{name}: "{text[:40]}" is no whole number from 0 on')
    return int(text)


def instant(name: str, text: str, now_ns: int) -> int:
    """Return the instant that a parameter names, UTC in ns.

    Raises:
        ValueError: it is none, or one so far away that no stamp holds it.
    """
    try:
        at_ns = instant_ns(text, now_ns)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"{name}: {exc}") from exc
    if not -_STAMP_MOST_NS < at_ns < _STAMP_MOST_NS:
        raise ValueError(f'{name}: "{text}" is not between the years 1824 and 2116')
    return at_ns


async def get_history(ask: Ask) -> web.StreamResponse:
    """Stream the answer as the child gives it; a client that goes, or takes nothing, ends the work."""
    try:
        asked = question(ask.query, ask.view.clock.wall_ns())
    except ValueError as exc:
        raise ApiError("bad-request", str(exc)) from exc
    async with _asked(ask, asked) as lines:
        first = await anext(lines)  # before the answer begins: what cannot be answered is an error
        response = web.StreamResponse(headers={"Content-Type": JSON_LINES, "Cache-Control": "no-store"})
        await response.prepare(ask.http)
        try:
            await _write(response, first)
            piece = first
            async for piece in lines:
                await _write(response, piece)
            note_damage(ask, json.loads(piece.rstrip(b"\n").rpartition(b"\n")[2])["end"]["damaged"])
        except (ConnectionResetError, TimeoutError, Refused):
            if ask.http.transport is not None:
                ask.http.transport.abort()  # half an answer must not look like a whole one
    return response


async def get_at(ask: Ask) -> web.StreamResponse:
    """Answer what a point was at an instant."""
    name, now_ns = ask.http.match_info["id"], ask.view.clock.wall_ns()
    try:
        at_ns = instant("t", ask.query("t") or "0s", now_ns)
    except ValueError as exc:
        raise ApiError("bad-request", str(exc)) from exc
    async with _asked(ask, Question("at", (name,), at_ns, at_ns, now_ns)) as lines:
        head, *rows = [json.loads(line) for piece in [p async for p in lines] for line in piece.splitlines()]
    nothing: dict[str, typing.Any] = {"at_us": 0, "value": None, "quality": "", "epoch": 0, "seq": 0}
    note_damage(ask, rows[-1]["end"]["damaged"])
    row = rows[0] if "point" in rows[0] else nothing
    return json_response(
        PointAtAnswer(
            id=name,
            t_us=at_ns // 1000,
            at_us=row["at_us"],
            value=row["value"],
            unit=head["head"]["points"][0]["unit"],
            quality=row["quality"],
            epoch=row["epoch"],
            seq=row["seq"],
            damaged=rows[-1]["end"]["damaged"],
        )
    )


@contextlib.asynccontextmanager
async def _asked(ask: Ask, asked: Question) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the child's lines; what it refuses before the first one is an error of the API."""
    try:
        async with _while_there(ask.http), ask.parts.history.ask(asked) as lines:
            yield lines
    except Busy as exc:
        hint = "Try again in a moment."
        raise ApiError("too-many", "as many questions as may wait for the history", hint) from exc
    except Refused as refused:
        if refused.code != "not-found":
            raise ApiError(refused.code, str(refused)) from refused
        for name in asked.points:  # the answer that GET points/{id} gives, where the gateway does not know it either
            device, _, point = name.partition(".")
            protocol = ask.view.protocols.get(device)
            known = protocol is not None and any(point in group.names for group in protocol.groups)
            if f'"{name}"' in str(refused) and not known:
                raise no_such_point(ask.view, device, point) from refused
        raise ApiError("not-found", str(refused), "It will be there when it has been read and committed.") from refused


@contextlib.asynccontextmanager
async def _while_there(http: web.Request) -> AsyncIterator[None]:
    """End what is inside when the client goes: as long as nothing is written to it, aiohttp does not tell.

    Raises:
        ApiError: it went; nobody reads this.
    """
    loop = asyncio.get_running_loop()
    gone = False
    timer: asyncio.TimerHandle | None = None
    try:
        async with asyncio.timeout(None) as scope:

            def look() -> None:
                nonlocal gone, timer
                gone = http.transport is None or http.transport.is_closing()
                if gone:
                    scope.reschedule(loop.time())
                else:
                    timer = loop.call_later(LOOK_S, look)

            look()
            yield
    except TimeoutError as exc:
        if not gone:
            raise
        raise ApiError("not-available", "the client is gone") from exc
    finally:
        if timer is not None:
            timer.cancel()


def note_damage(ask: Ask, texts: Iterable[str]) -> None:
    """Say what an answer lacks: compaction looks at a day's file and makes it anew; of the log it is a problem."""
    for text in texts:
        day = re.search(r"(\d{4}-\d\d-\d\d)\.db", text)
        if day is None:
            ask.view.problems.report("log", Problem("log-damaged", f"{text}: its records cannot be read"))
        else:
            ask.view.compaction.suspect(day[1])


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STUCK_S):
        await response.write(data)
