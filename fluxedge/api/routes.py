"""The one table of routes: the server, openapi.json and the documentation's test are made from it.

`authorise(principal, route.action)` stands in front of every row; server.py puts it there.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from fluxedge.api.door import Door
from fluxedge.api.lag import Sampler
from fluxedge.api.live import Live
from fluxedge.api.readers import Readers
from fluxedge.api.view import GatewayView
from fluxedge.log.history.asking import HistoryReaders
from fluxedge.permissions import Principal

PREFIX = "/api/v1"
JSON, JSON_LINES, EVENTS = "application/json", "application/jsonl", "text/event-stream"
CSV = "text/csv"
OPENMETRICS = "application/openmetrics-text"

Shape = typing.Any  # a type that msgspec can describe: a struct, list[struct], ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What handlers work with."""

    view: GatewayView
    sampler: Sampler
    live: Live
    readers: Readers
    history: HistoryReaders
    doors: tuple[Door, ...]
    request_type: type[msgspec.Struct]  # of a command
    result_type: type[msgspec.Struct]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, its asker known and permitted."""

    http: web.Request
    principal: Principal
    parts: Parts

    @property
    def view(self) -> GatewayView:
        """Return the gateway."""
        return self.parts.view

    def query(self, name: str) -> str:
        """Return a parameter of the query; "" when it is not given."""
        return self.http.query.get(name, "")


Handler = Callable[[Ask], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a path or a query."""

    name: str
    text: str
    where: typing.Literal["query", "path"] = "query"
    type: type[str] | type[int] = str


@dataclass(frozen=True, slots=True)
class Route:
    """One row."""

    method: str
    path: str  # whole, with {name} for parameters of the path
    action: str  # of permissions.ACTIONS
    handler: Handler
    summary: str
    answer: Shape = None  # of JSON, or of one line of JSON lines
    kind: str = JSON  # media type of the answer
    params: tuple[Param, ...] = ()
    body: Shape = ""  # of a request; "command" = that of a command
    errors: tuple[str, ...] = ()  # codes of errors.STATUS, beside those that every route has

    @property
    def name(self) -> str:
        """Return METHOD path, as documents name it."""
        return f"{self.method} {self.path}"


def json_response(answer: object, status: int = 200) -> web.Response:
    """Return an answer as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type=JSON)
