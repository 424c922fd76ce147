"""The HTTP server: guards every route, listens on the unix socket and, on request, on TCP."""

from __future__ import annotations

import asyncio
import socket
import typing
from pathlib import Path

import msgspec
from aiohttp import web

from fluxedge.api import sockets
from fluxedge.api.door import IDLE_S, MOST_TCP, MOST_UNIX, Door, note_request
from fluxedge.api.errors import ApiError, plain_errors
from fluxedge.api.lag import Sampler
from fluxedge.api.live import Live
from fluxedge.api.principals import Doorkeeper
from fluxedge.api.readers import Readers
from fluxedge.api.routes import Ask, Parts, Route
from fluxedge.api.table import ROUTES
from fluxedge.api.view import GatewayView
from fluxedge.log.history.asking import HistoryReaders
from fluxedge.permissions import Principal, authorise
from fluxedge.problems import ConfigProblem, LinkProblem, Problem
from fluxedge.spi import Spawn

MOST_BODY_BYTES = 64 << 10
STOP_S = 2.0  # requests that run may finish
ITEM = "api"


class ApiServer:
    """The way in for the command line, scripts and browsers."""

    def __init__(
        self,
        view: GatewayView,
        path: Path,
        listen: str,
        spawn: Spawn,
        request_type: type[msgspec.Struct],
        result_type: type[msgspec.Struct],
    ) -> None:
        """`path` is the unix socket's; `listen` is ADDRESS:PORT or empty; the types are those of commands."""
        self._view = view
        self.path = path
        self._listen = listen
        self._spawn = spawn
        self.live = Live(view.latest)
        self.sampler = Sampler(lambda: view.log.stored_bytes)
        self.unix, self.tcp = Door("unix", MOST_UNIX), Door("tcp", MOST_TCP)
        doors = (self.unix, self.tcp)
        self.history = HistoryReaders(view.log.path.parent, spawn)
        self.parts = Parts(view, self.sampler, self.live, Readers(), self.history, doors, request_type, result_type)
        self.doorkeeper = Doorkeeper()
        self.tcp_port = 0  # where TCP listens; 0 = it does not
        self._loopback_only = False
        self._inode = 0
        self._bound: list[tuple[Door, socket.socket]] = []  # not served yet
        self._no_tcp: Problem | None = None
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []
        self._sampling: asyncio.Task[typing.Any] | None = None

    def bind(self) -> None:
        """Take the addresses, before channels and uplinks take open files.

        Raises:
            LinkProblem: "api-unavailable": the unix socket cannot be opened; another gateway may run there.
        """
        self._bound.append((self.unix, sockets.open_unix(self.path)))
        self._inode = self.path.lstat().st_ino
        try:
            if self._listen:
                tcp = sockets.open_tcp(self._listen)
                self.tcp_port = tcp.getsockname()[1]
                self._loopback_only = sockets.is_loopback_name(sockets.parse_listen(self._listen)[0])
                self._bound.append((self.tcp, tcp))
        except (ConfigProblem, LinkProblem) as problem:
            self._no_tcp = problem

    async def start(self) -> None:
        """Listen; binds first where that has not been done. Without the TCP address it goes on, with a problem.

        Raises as `bind`.
        """
        if not self._bound:
            self.bind()
        if self._no_tcp is not None:
            self._view.problems.report(ITEM, self._no_tcp)
        app = web.Application(middlewares=[note_request, plain_errors], client_max_size=MOST_BODY_BYTES)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._guarded(route))
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=STOP_S, handle_signals=False, keepalive_timeout=IDLE_S
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        handlers = typing.cast("typing.Callable[[], asyncio.Protocol]", self._runner.server)
        while self._bound:
            door, sock = self._bound[-1]
            serve = loop.create_unix_server if door is self.unix else loop.create_server
            self._servers.append(await serve(door.protocols(handlers), sock=sock))
            self._bound.pop()
        self._sampling = self._spawn(self.sampler.run(), "api-sampler")

    async def stop(self) -> None:
        """Close the doors, let running requests finish for a moment, remove the socket."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait([self._sampling])
            self._sampling = None
        for server in self._servers:
            server.close()
        self._servers.clear()
        for _, sock in self._bound:
            sock.close()
        self._bound.clear()
        self.live.close_all()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self.history.close()
        sockets.remove_unix(self.path, self._inode)

    def _guarded(self, route: Route) -> typing.Callable[[web.Request], typing.Awaitable[web.StreamResponse]]:
        """Return the handler of a route with the guard in front of it."""

        async def handle(http: web.Request) -> web.StreamResponse:
            try:
                principal = self.identify(http)
                try:
                    authorise(principal, route.action)
                except Problem as problem:
                    raise ApiError("not-permitted", problem.message, problem.hint) from problem
                return await route.handler(Ask(http, principal, self.parts))
            except ApiError as error:
                return error.response()

        return handle

    def identify(self, http: web.Request) -> Principal:
        """Return who asks.

        Raises:
            ApiError: "not-permitted": the connection is gone, or a browser was led here under a foreign name.
        """
        peer = http.transport.get_extra_info("socket") if http.transport else None
        if peer is None:
            raise ApiError("not-permitted", "the connection is gone")
        if peer.family == socket.AF_UNIX:
            try:
                return self.doorkeeper.of_peer(peer)
            except OSError as exc:
                raise ApiError("not-permitted", f"the caller cannot be identified: {exc.strerror}") from exc
        if self._loopback_only and not sockets.is_loopback_name(http.host):
            raise ApiError("not-permitted", f'this is not "{http.host}"', "Ask for localhost or 127.0.0.1.")
        return self.doorkeeper.of_tcp(str(http.remote))
