"""Errors as the API answers them: {"code", "message", "hint"} with the HTTP status that fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

STATUS: dict[str, tuple[int, str]] = {  # code -> (HTTP status, what it means)
    "bad-request": (400, "The request's body or parameters cannot be understood."),
    "not-permitted": (403, "The caller may not do this."),
    "not-found": (404, "There is no such thing; the hint names what was probably meant."),
    "wrong-method": (405, "The path exists, but not with this method."),
    "config-refused": (422, "A reload found mistakes; what is right was applied."),
    "too-many": (503, "As many clients as permitted are connected already."),
    "not-available": (503, "The gateway cannot do this in the way it was started."),
}


class ErrorAnswer(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: str
    message: str
    hint: str = ""


class ApiError(Exception):
    """A request that is answered with an error; `code` is of STATUS."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = STATUS[code][0]
        self.answer = ErrorAnswer(code, message, hint)

    def response(self) -> web.Response:
        """Return it as HTTP carries it."""
        return web.Response(status=self.status, body=msgspec.json.encode(self.answer), content_type="application/json")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the library's own refusals (no such path, wrong method, body too large) the API's form."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        error = ApiError("not-found", f"there is no {request.path}", "GET /api/v1/openapi.json lists what there is.")
    except web.HTTPMethodNotAllowed as exc:
        error = ApiError("wrong-method", f"{request.path} takes {', '.join(sorted(exc.allowed_methods))}")
    except web.HTTPRequestEntityTooLarge as exc:
        error = ApiError("bad-request", f"the body is too large: {exc.text}")
    return error.response()
