"""What each route does. A handler is called for permitted callers only."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from fluxedge.api import metrics, standing, uplinks, values
from fluxedge.api.answers import MistakeAnswer, ReloadAnswer
from fluxedge.api.errors import ApiError
from fluxedge.api.families import FAMILIES
from fluxedge.api.routes import JSON, OPENMETRICS, Ask, json_response
from fluxedge.api.view import GatewayView, ReloadOutcome
from fluxedge.config.effective import effective
from fluxedge.config.mistakes import closest

_encode = msgspec.json.Encoder().encode


async def get_version(ask: Ask) -> web.StreamResponse:
    return json_response(standing.version())


async def get_status(ask: Ask) -> web.StreamResponse:
    found = await uplinks.answers(ask.view, ask.parts.sampler)
    return json_response(standing.status(ask.view, ask.parts.sampler, found))


async def get_problems(ask: Ask) -> web.StreamResponse:
    return json_response(standing.problems(ask.view))


async def get_devices(ask: Ask) -> web.StreamResponse:
    return json_response(standing.devices(ask.view))


async def get_channels(ask: Ask) -> web.StreamResponse:
    return json_response(standing.channels(ask.view))


async def get_uplinks(ask: Ask) -> web.StreamResponse:
    return json_response(await uplinks.answers(ask.view, ask.parts.sampler))


async def get_config(ask: Ask) -> web.StreamResponse:
    return json_response(effective(ask.view.config))


async def get_points(ask: Ask) -> web.StreamResponse:
    """Send device by device: a hundred thousand points at once would hold the loop up."""
    device = ask.query("device")
    if device and device not in ask.view.config.devices:
        raise no_such("device", device, ask.view.config.devices)
    chunks = values.points(ask.view.protocols, ask.view.latest, device, ask.query("match"))

    async def pieces() -> AsyncIterator[bytes]:
        between = b"["
        for answers in chunks:
            if answers:
                yield between + _encode(answers)[1:-1]
                between = b","
            await asyncio.sleep(0)
        yield b"[]" if between == b"[" else b"]"

    return await stream(ask.http, JSON, pieces())


async def get_point(ask: Ask) -> web.StreamResponse:
    id_ = ask.http.match_info["id"]
    device, _, name = id_.partition(".")
    protocol = ask.view.protocols.get(device)
    for group in protocol.groups if protocol else ():
        for point in group.points:
            if point.name == name:
                return json_response(values.point_answer(group, point, ask.view.latest.reading(device, name)))
    raise no_such_point(ask.view, device, name)


async def get_live(ask: Ask) -> web.StreamResponse:
    return await ask.parts.live.stream(ask.http, ask.query("device"), ask.query("match"))


async def get_metrics(ask: Ask) -> web.StreamResponse:
    async def pieces() -> AsyncIterator[bytes]:
        sources = metrics.Sources(ask.view, ask.parts.sampler, ask.parts.live, ask.parts.doors)
        for family in FAMILIES:
            yield metrics.text(family, sources).encode()
            await asyncio.sleep(0)
        yield b"# EOF\n"

    return await stream(ask.http, f"{OPENMETRICS}; version=1.0.0; charset=utf-8", pieces())


async def post_command(ask: Ask) -> web.StreamResponse:
    """Answer 200 with what became of the command, refused ones included: the fate is in the answer's `state`."""
    try:
        request = msgspec.json.decode(await ask.http.read(), type=ask.parts.request_type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        hint = 'For instance {"device": "boiler", "point": "setpoint", "value": 60}.'
        raise ApiError("bad-request", f"this is no command: {exc}", hint) from exc
    result = await ask.view.commander.run(ask.principal, request)
    device, point = typing.cast(typing.Any, request).device, typing.cast(typing.Any, request).point
    if result.state == "refused" and not _is_point(ask.view, device, point):
        missing = no_such_point(ask.view, device, point).answer
        result = msgspec.structs.replace(result, message=missing.message, hint=missing.hint)
    return json_response(result)


async def post_reload(ask: Ask) -> web.StreamResponse:
    """Apply changed files; 422 with the same answer when something was refused."""
    if ask.view.reload is None:
        raise ApiError("not-available", "this gateway runs without a configuration directory")
    ask.view.pipeline.submit("audit", "gateway", {"action": "reload", "by": str(ask.principal)})
    outcome = typing.cast(ReloadOutcome, await ask.view.reload())
    answer = ReloadAnswer(
        started=list(outcome.started),
        stopped=list(outcome.stopped),
        restart_needed=list(outcome.restart_needed),
        mistakes=[MistakeAnswer(**mistake.to_json()) for mistake in outcome.mistakes],
        kept=dict(outcome.kept),
        left_out=dict(outcome.left_out),
    )
    return json_response(answer, 422 if answer.refused else 200)


async def stream(http: web.Request, kind: str, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send an answer piece by piece, as fast as the client takes it."""
    response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-store"})
    try:
        await response.prepare(http)
        async for piece in pieces:
            async with asyncio.timeout(30):  # a client that takes nothing is left
                await response.write(piece)
    except (ConnectionResetError, TimeoutError):
        if http.transport is not None:
            http.transport.abort()  # half an answer must not look like a whole one
    return response


def no_such(what: str, name: str, known: typing.Iterable[str]) -> ApiError:
    """Return the error for a name that does not exist, with what was probably meant."""
    meant = closest(name, known)
    return ApiError("not-found", f'there is no {what} "{name}"', f"Did you mean {meant}?" if meant else "")


def no_such_point(view: GatewayView, device: str, name: str) -> ApiError:
    """Return the error for a point that does not exist."""
    protocol = view.protocols.get(device)
    if protocol is None:
        cfg = view.config.devices.get(device)
        if cfg is not None and not cfg.enabled:
            return ApiError("not-found", f'device "{device}" is disabled', "Its device file says enabled = false.")
        return no_such("device", device, view.protocols)
    names = [point for group in protocol.groups for point in group.names]
    meant = closest(name, names)
    hint = f"Did you mean {device}.{meant}?" if meant else f"fluxedge points '{device}.*' lists its points."
    return ApiError("not-found", f'{device} has no point "{name}"', hint)


def _is_point(view: GatewayView, device: str, name: str) -> bool:
    protocol = view.protocols.get(device)
    return protocol is not None and any(name in group.names for group in protocol.groups)
