"""The live stream: rounds as they are read; a slow client loses rounds, is told, and hurts nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import types
import typing
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from fluxedge.api import handlers, live
from fluxedge.api.live import QUEUED_ROUNDS, Live, LiveClient
from fluxedge.latest import Latest
from fluxedge.model import Group, Point, Quality, Round
from tests.fluxedge.api.running import Running

GROUP = Group("meter", "main", (Point("u", "d"), Point("mode", "B", enum={1: "eco"})))
OTHER = Group("pump", "main", (Point("speed", "d"),))


def round_(n: int, group: Group = GROUP, quality: bytes = b"") -> Round:
    raws = (float(n), 1)[: len(group.points)]
    return group.round(raws, n, n, quality=quality)


def events(client: LiveClient) -> list[tuple[str, typing.Any]]:
    found = []
    while client.news.is_set():
        for text in client.take():
            event, data = text.decode().strip().split("\n")
            found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_slow_client_keeps_the_newest_rounds_and_is_told_how_many_it_lost() -> None:
    latest = Latest()
    hub = Live(latest)
    client = hub.open("", "")
    for n in range(QUEUED_ROUNDS + 7):
        latest.update(round_(n))
    first, *rest = events(client)
    assert first == ("dropped", {"rounds": 7})
    assert [data["values"]["u"] for _, data in rest] == [float(n) for n in range(7, QUEUED_ROUNDS + 7)]
    assert hub.dropped_total == 7
    assert events(client) == []


async def test_a_client_gets_only_what_it_asked_for() -> None:
    latest = Latest()
    hub = Live(latest)
    by_device, by_pattern = hub.open("pump", ""), hub.open("", "*.u")
    latest.update(round_(1))
    latest.update(round_(2, OTHER))
    assert [data["device"] for _, data in events(by_device)] == ["pump"]
    assert [data["values"] for _, data in events(by_pattern)] == [{"u": 1.0}]


async def test_quality_and_names_of_enums_travel() -> None:
    client = LiveClient("", "")
    client.offer(round_(1, quality=bytes([Quality.UNCERTAIN, Quality.GOOD])))
    ((_, data),) = events(client)
    assert data["quality"] == {"u": "UNCERTAIN"}
    assert data["text"] == {"mode": "eco"}


async def test_nothing_is_done_per_round_when_nobody_watches() -> None:
    latest = Latest()
    hub = Live(latest)
    client = hub.open("", "")
    assert len(latest.listeners) == 1
    hub.close(client)
    assert latest.listeners == []


@contextlib.asynccontextmanager
async def stream(run: Running, query: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
    connector = aiohttp.UnixConnector(str(run.socket))
    async with aiohttp.ClientSession(connector=connector) as http, http.get(f"http://x/api/v1/live{query}") as reply:
        yield reply


async def test_the_present_comes_first_then_each_round(run: Running) -> None:
    async with asyncio.timeout(10), stream(run, "?match=*.flow_temp") as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        lines = [await reply.content.readline() for _ in range(12)]
    data = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]
    assert [d["device"] for d in data[:2]] == ["boiler-1", "boiler-2"]
    assert all(d["values"] == {"flow_temp": 61.5} for d in data)


async def test_a_client_that_does_not_read_holds_nobody_up(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUEUED_ROUNDS", 4)
    reader, writer = await asyncio.open_unix_connection(str(run.socket), limit=1024)
    writer.write(b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    wide = Group("wide", "main", tuple(Point(f"p{i}", "s") for i in range(200)))
    big = wide.round(("x" * 100,) * 200, 1, 1)
    async with asyncio.timeout(20):
        while not run.api.live.dropped_total:
            run.gateway.latest.update(big)
            await asyncio.sleep(0)
    async with stream(run, "?match=boiler-1.pump") as reply:
        assert (await reply.content.readline()) == b"event: round\n"
    writer.close()
    async with asyncio.timeout(10):
        while len(run.api.live):
            run.gateway.latest.update(big)
            await asyncio.sleep(0)


async def test_only_so_many_may_watch(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_CLIENTS", 1)
    async with stream(run):
        reply = await run.ask("GET", "/api/v1/live")
    assert (reply.status, reply.json["code"]) == (503, "too-many")


async def test_a_client_that_leaves_before_the_headers_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_response: web.StreamResponse, _request: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    monkeypatch.setattr(web.StreamResponse, "prepare", gone)
    clients = live.Live(Latest())
    request = typing.cast(web.Request, types.SimpleNamespace(transport=None))
    assert not (await clients.stream(request, "", "")).prepared
    assert len(clients) == 0
    assert not (await handlers.stream(request, "text/plain", pieces())).prepared
