from __future__ import annotations

import json

import pytest

from fluxedge.api.errors import STATUS, ApiError
from tests.fluxedge.api.running import Running


@pytest.mark.parametrize("code", STATUS)
def test_an_error_is_json_with_the_status_of_its_code(code: str) -> None:
    response = ApiError(code, "the pump is gone", "Look for it.").response()
    assert (response.status, response.content_type) == (STATUS[code][0], "application/json")
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {"code": code, "message": "the pump is gone", "hint": "Look for it."}


def test_a_code_that_does_not_exist_cannot_be_answered() -> None:
    with pytest.raises(KeyError):
        ApiError("no-such-code", "")


async def test_the_librarys_refusals_get_the_same_form(run: Running) -> None:
    for method, path, body, code, words in (
        ("GET", "/api/v1/statsu", None, "not-found", "there is no /api/v1/statsu"),
        ("DELETE", "/api/v1/status", None, "wrong-method", "/api/v1/status takes GET"),
        ("POST", "/api/v1/commands", b"x" * (2 << 20), "bad-request", "the body is too large"),
    ):
        reply = await run.ask(method, path, body)
        assert reply.status == STATUS[code][0]
        assert reply.json["code"] == code
        assert reply.json["message"].startswith(words)
