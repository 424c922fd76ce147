"""openapi.json, made from the table of routes and the types of the answers."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import msgspec

from fluxedge import __version__
from fluxedge.api.errors import STATUS, ErrorAnswer
from fluxedge.api.routes import JSON, Param, Route

_REFERENCE = "#/components/schemas/{name}"
_ALWAYS = ("not-permitted",)
_SAME_BODY = {"config-refused"}  # this error's body is the route's own answer
Document = dict[str, typing.Any]


def document(
    routes: Sequence[Route], request_type: type[msgspec.Struct], result_type: type[msgspec.Struct]
) -> Document:
    """Return the OpenAPI 3.1 description of the routes."""
    named = {"result": result_type, "command": request_type}
    shapes = [
        named.get(route.answer, route.answer) if isinstance(route.answer, str) else route.answer for route in routes
    ]
    wanted = [shape for shape in shapes if shape is not None]
    bodies = [request_type if route.body == "command" else route.body for route in routes if route.body]
    schemas, components = msgspec.json.schema_components([*wanted, *bodies, ErrorAnswer], ref_template=_REFERENCE)
    found = iter(schemas)
    answers = [None if shape is None else next(found) for shape in shapes]
    asked = [next(found) if route.body else None for route in routes]
    error = next(found)
    paths: Document = {}
    for route, answer, body in zip(routes, answers, asked, strict=True):
        operation = _operation(route, answer, error)
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "fluxedge", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, answer: Document | None, error: Document) -> Document:
    body = {} if answer is None else {"schema": answer}
    responses: Document = {"200": {"description": "done", "content": {route.kind: body}}}
    for code in (*_ALWAYS, *route.errors):
        status, text = STATUS[code]
        schema = answer if code in _SAME_BODY and answer is not None else error
        responses[str(status)] = {"description": text, "content": {JSON: {"schema": schema}}}
    operation: Document = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "x-action": route.action,
        "responses": responses,
    }
    if route.params:
        operation["parameters"] = [_parameter(param) for param in route.params]
    return operation


def _operation_id(route: Route) -> str:
    words = route.path.removeprefix("/api/v1").replace("{", "by/").replace("}", "").replace(".", "_").strip("/")
    return "_".join([route.method.lower(), *words.split("/")])


def _parameter(param: Param) -> Document:
    return {
        "name": param.name,
        "in": param.where,
        "required": param.where == "path",
        "description": param.text,
        "schema": {"type": "integer" if param.type is int else "string"},
    }
