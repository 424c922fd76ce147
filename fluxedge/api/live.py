"""Live values by server-sent events. A client that is too slow loses rounds; it is told how many.

event: round      data: a LiveRound      the last round of each group first, then each one as it is read
event: dropped    data: {"rounds": n}    n rounds were not sent to this client
:                                        a comment after 15 s without a round
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase

import msgspec
from aiohttp import web

from fluxedge.api.answers import LiveDropped
from fluxedge.api.errors import ApiError
from fluxedge.api.values import live_round
from fluxedge.latest import Latest
from fluxedge.model import Group, Round

MOST_CLIENTS = 16
QUEUED_ROUNDS = 1000  # of one client; a second of W3
CHUNK = 50  # rounds encoded in one go: some milliseconds of the loop at most
QUIET_S = 15.0
STUCK_S = 30.0  # a client that takes nothing for this time is disconnected

_encode = msgspec.json.Encoder().encode


class LiveClient:
    """What waits for one client: the newest rounds, up to a bound; the oldest are dropped and counted."""

    def __init__(self, device: str, pattern: str) -> None:
        self._device = device
        self._pattern = pattern
        self._columns: dict[bytes, tuple[int, ...]] = {}  # group key -> columns that the client wants
        self._rounds: deque[Round] = deque()
        self.dropped = 0  # not told yet
        self.closing = False
        self.news = asyncio.Event()

    def columns(self, group: Group) -> tuple[int, ...]:
        """Return the columns of a group that the client wants."""
        found = self._columns.get(group.key)
        if found is None:
            wanted = not self._device or group.device == self._device
            found = tuple(
                i
                for i, name in enumerate(group.names)
                if wanted and (not self._pattern or fnmatchcase(f"{group.device}.{name}", self._pattern))
            )
            self._columns[group.key] = found
        return found

    def offer(self, round_: Round) -> bool:
        """Take a round in; tell whether another one had to go for it."""
        if not self.columns(round_.group):
            return False
        full = len(self._rounds) >= QUEUED_ROUNDS
        if full:
            self._rounds.popleft()
            self.dropped += 1
        self._rounds.append(round_)
        self.news.set()
        return full

    def take(self) -> Iterator[bytes]:
        """Iterate over what is to be sent now, oldest first."""
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            yield b"event: dropped\ndata: " + _encode(LiveDropped(rounds=dropped)) + b"\n\n"
        for _ in range(min(CHUNK, len(self._rounds))):
            yield self.encode(self._rounds.popleft())
        if not self._rounds:
            self.news.clear()

    def encode(self, round_: Round) -> bytes:
        """Return one round as an event."""
        return b"event: round\ndata: " + _encode(live_round(round_, self.columns(round_.group))) + b"\n\n"


class Live:
    """All live clients."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest
        self._clients: set[LiveClient] = set()
        self.dropped_total = 0

    def __len__(self) -> int:
        return len(self._clients)

    def _offer(self, round_: Round) -> None:
        for client in self._clients:
            self.dropped_total += client.offer(round_)

    def open(self, device: str, pattern: str) -> LiveClient:
        """Begin to listen.

        Raises:
            ApiError: "too-many".
        """
        if len(self._clients) >= MOST_CLIENTS:
            raise ApiError("too-many", f"{MOST_CLIENTS} clients watch already", "Close one of them.")
        if not self._clients:
            self._latest.listeners.append(self._offer)
        client = LiveClient(device, pattern)
        self._clients.add(client)
        return client

    def close(self, client: LiveClient) -> None:
        """Listen no longer."""
        self._clients.discard(client)
        if not self._clients and self._offer in self._latest.listeners:
            self._latest.listeners.remove(self._offer)

    def close_all(self) -> None:
        """Let every stream end; the API stops."""
        for client in self._clients:
            client.closing = True
            client.news.set()

    async def stream(self, request: web.Request, device: str, pattern: str) -> web.StreamResponse:
        """Serve one client until it or the API goes."""
        client = self.open(device, pattern)
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            with contextlib.suppress(ConnectionResetError, TimeoutError):  # the client went, or takes nothing
                await response.prepare(request)
                await self._send_present(client, response)
                while not client.closing:
                    await _send_news(client, response)
        finally:
            self.close(client)
        return response

    async def _send_present(self, client: LiveClient, response: web.StreamResponse) -> None:
        for round_ in self._latest.rounds():
            if client.columns(round_.group):
                await _write(response, client.encode(round_))


async def _send_news(client: LiveClient, response: web.StreamResponse) -> None:
    try:
        async with asyncio.timeout(QUIET_S):
            await client.news.wait()
    except TimeoutError:
        await _write(response, b":\n\n")
        return
    await _write(response, b"".join(client.take()))
    await asyncio.sleep(0)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STUCK_S):
        await response.write(data)
