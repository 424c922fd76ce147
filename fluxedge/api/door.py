"""A listener's door: how many connections it lets in, and how long they may do nothing.

An open connection costs a file descriptor. Without a bound anybody who may connect could take all of them, and with
them the gateway's own: its channels, its files.
"""

from __future__ import annotations

import asyncio
import logging
import typing
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from fluxedge.api.errors import Handler

_log = logging.getLogger("fluxedge")

MOST_UNIX, MOST_TCP = 128, 64  # apart: who fills the one door does not keep an operator from the other
FIRST_REQUEST_S = 10.0  # from the connection to the end of its first request's headers
IDLE_S = 75.0  # from an answer to the next request; longer than clients keep theirs
STUCK_S = 60.0  # a client that takes nothing of its answer; live streams and long answers give up sooner

Handlers = Callable[[], asyncio.Protocol]


@dataclass(slots=True)
class Door:
    """The connections of one listener."""

    name: str  # "unix" or "tcp"
    most: int
    first_request_s: float = FIRST_REQUEST_S
    stuck_s: float = STUCK_S
    open: int = 0
    refused_total: int = 0
    _crowded: bool = False

    def protocols(self, handlers: Handlers) -> Callable[[], Connection]:
        """Return what a listener makes its connections with; `handlers` makes what serves one."""
        return lambda: Connection(self, handlers)

    def enter(self) -> bool:
        """Count a connection in, or tell that there is no room."""
        if self.open < self.most:
            self.open += 1
            return True
        self.refused_total += 1
        if not self._crowded:
            _log.warning("api: %d connections are open (%s); further ones are closed at once", self.open, self.name)
        self._crowded = True
        return False

    def leave(self) -> None:
        """Count a connection out."""
        self.open -= 1
        if self.open <= self.most // 2:
            self._crowded = False


class Connection(asyncio.Protocol):
    """One connection: watches its beginning and its end, and passes everything on to its handler."""

    def __init__(self, door: Door, handlers: Handlers) -> None:
        self._door = door
        self._handlers = handlers
        self._handler: asyncio.Protocol | None = None  # None: it was not let in
        self._first: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        real = typing.cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        if not self._door.enter():
            real.abort()
            return
        self._transport = real
        self._handler = self._handlers()
        self._first = asyncio.get_running_loop().call_later(self._door.first_request_s, real.abort)
        self._handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handler is None:
            return
        self.asked()
        self._taken()
        self._door.leave()
        self._handler.connection_lost(exc)

    def asked(self) -> None:
        """Note that a request has come."""
        if self._first is not None:
            self._first.cancel()
            self._first = None

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        if self._handler is not None and self._transport is not None:
            self._stuck = asyncio.get_running_loop().call_later(self._door.stuck_s, self._transport.abort)
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._taken()
            self._handler.resume_writing()

    def _taken(self) -> None:
        """Note that the client takes its answer."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


@web.middleware
async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell a request's connection that it has one."""
    connection = request.transport.get_protocol() if request.transport is not None else None
    if isinstance(connection, Connection):
        connection.asked()
    return await handler(request)
