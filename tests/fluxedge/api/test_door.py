"""The doors of the API: a bound each, and an end for connections that do nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fluxedge.api import door
from tests.fluxedge.api.running import Running, config, running

GET = b"GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:  # type: ignore[misc]
    async with running(tmp_path, config(listen="127.0.0.1:0")) as found:
        yield found


@contextlib.asynccontextmanager
async def clients(run: Running, count: int) -> AsyncIterator[list[Stream]]:
    """Connect over TCP; the connections are made one after the other."""
    made = [await asyncio.open_connection("127.0.0.1", run.api.tcp_port) for _ in range(count)]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ended(client: Stream) -> bool:
    """Tell whether the gateway has closed a connection; waits for a moment."""
    try:
        async with asyncio.timeout(5):
            return await client[0].read() == b""
    except ConnectionResetError:
        return True


async def answer(client: Stream) -> bytes:
    client[1].write(GET)
    async with asyncio.timeout(5):
        head = await client[0].readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await client[0].readexactly(length)
    return head.partition(b"\r\n")[0]


async def metric(run: Running, name: str) -> dict[str, str]:
    """Return door -> value."""
    lines = (await run.ask("GET", "/metrics")).body.decode().splitlines()
    parts = [line.split('"') for line in lines if line.startswith(f"{name}{{")]
    return {door_name: rest.removeprefix("} ") for _, door_name, rest in parts}


async def test_connections_beyond_the_bound_are_closed_at_once_and_counted(run: Running) -> None:
    run.api.tcp.most = 3
    async with clients(run, 5) as made:
        assert [await ended(client) for client in made[3:]] == [True, True]
        assert await metric(run, "fluxedge_api_connections") == {"unix": "1", "tcp": "3"}
        assert await metric(run, "fluxedge_api_refused_connections_total") == {"unix": "0", "tcp": "2"}
        assert await answer(made[0]) == b"HTTP/1.1 200 OK"


async def test_a_burst_of_connections_does_not_slip_in(run: Running) -> None:
    run.api.tcp.most = 3
    made = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", run.api.tcp_port) for _ in range(20)))
    await asyncio.sleep(0.1)
    assert (run.api.tcp.open, run.api.tcp.refused_total) == (3, 17)
    for _, writer in made:
        writer.close()


async def test_who_fills_the_tcp_door_keeps_nobody_from_the_socket_and_leaving_makes_room(run: Running) -> None:
    run.api.tcp.most = 2
    async with clients(run, 2):
        assert (await run.ask("GET", "/api/v1/version")).status == 200
    await run.until(lambda: not run.api.tcp.open)
    async with clients(run, 1) as made:
        assert await answer(made[0]) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("sent", [b"", GET[:-2]], ids=["nothing", "half a request"])
async def test_a_client_that_never_asks_is_disconnected(run: Running, sent: bytes) -> None:
    run.api.tcp.first_request_s = 0.2
    async with clients(run, 1) as made:
        made[0][1].write(sent)
        assert await ended(made[0])
    assert run.api.tcp.open == 0


async def test_a_client_that_has_asked_may_ask_again_later(run: Running) -> None:
    run.api.tcp.first_request_s = 0.2
    async with clients(run, 1) as made:
        assert await answer(made[0]) == b"HTTP/1.1 200 OK"
        await asyncio.sleep(0.4)
        assert await answer(made[0]) == b"HTTP/1.1 200 OK"


async def test_an_idle_connection_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxedge.api.server.IDLE_S", 0.3)
    async with running(tmp_path, config(listen="127.0.0.1:0")) as run, clients(run, 1) as made:
        assert await answer(made[0]) == b"HTTP/1.1 200 OK"
        assert await ended(made[0])


async def test_a_client_that_takes_nothing_of_its_answer_is_disconnected(run: Running) -> None:
    run.api.tcp.stuck_s = 0.3
    async with clients(run, 1) as made:
        reader, writer = made[0]
        writer.transport.pause_reading()
        writer.write(GET.replace(b"version", b"openapi.json") * 500)  # megabytes of answers
        await run.until(lambda: not run.api.tcp.open)
        reader.set_exception(ConnectionResetError())


def test_the_bounds_leave_room_below_the_soft_limit_of_a_shell() -> None:
    assert door.MOST_UNIX + door.MOST_TCP < 256
