"""Commands: authorise -> validate -> intent committed -> channel's queue -> read back -> result committed -> answer.

A command reaches the wire at most once. Its intent is durable before the first byte is sent; an intent that has no
result after a crash is reported as `unknown` and never repeated. A key is remembered for 24 h: whoever repeats a key
gets the first answer again, without a second write.
"""

from __future__ import annotations

import asyncio
import typing
import uuid
from collections.abc import Callable

import msgspec

from fluxedge.clock import Clock
from fluxedge.columns import Value
from fluxedge.log import Log
from fluxedge.permissions import COMMAND, Principal, authorise
from fluxedge.pipeline import Pipeline
from fluxedge.problems import LinkProblem, Problem
from fluxedge.spi import Protocol, Written

TIMEOUT_S = 10.0
REMEMBERED = 10_000  # keys

State = typing.Literal["done", "sent", "refused", "failed", "unknown"]
Asked = float | int | bool | str  # what JSON can carry of a Value; bytes cannot be commanded by it


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a caller asks for."""

    device: str
    point: str
    value: Asked
    key: str = ""  # idempotency key; made up when empty
    timeout_ms: int = int(TIMEOUT_S * 1000)  # the command dies when it could not be sent in this time
    expires_ms: int = 0  # UTC, ms since 1970-01-01; 0 = by timeout_ms only


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    done: the device took it and reads back what was asked; sent: taken, but not or differently read back;
    refused: it never reached the wire; failed: the device refused it; unknown: interrupted or unanswered.
    """

    key: str
    device: str
    point: str
    state: State
    value: Asked | None = None  # as asked
    read_back: typing.Any = None  # a Value; bytes as base64
    before: typing.Any = None
    code: str = ""
    message: str = ""
    hint: str = ""


class Target(typing.Protocol):
    """What carries a command out: a poller."""

    def order(self, device: str, point: str, value: Value, timeout_s: float) -> asyncio.Future[Written]: ...


Find = Callable[[str], tuple[Target, Protocol] | None]
_encode = msgspec.json.Encoder().encode


class Commander:
    """Run commands, one after the other per key, and remember what became of them."""

    def __init__(self, find: Find, pipeline: Pipeline, log: Log, clock: Clock) -> None:
        self._find = find
        self._pipeline = pipeline
        self._log = log
        self._clock = clock
        self._results: dict[str, asyncio.Future[Result]] = {}
        self.counts: dict[str, int] = dict.fromkeys(typing.get_args(State), 0)

    async def recover(self) -> None:
        """Load remembered keys; give interrupted commands the result `unknown`; before anything is polled."""
        for key, (request, result) in (await self._log.command_results()).items():
            if result is not None:
                self._remember(key).set_result(msgspec.json.decode(result, type=Result))
                continue
            asked = msgspec.json.decode(request, type=Request)
            unknown = Result(
                key=key, device=asked.device, point=asked.point, value=asked.value, state="unknown",
                code="command-unknown", message="the gateway stopped before the device's answer was stored",
                hint="Look at the device; the command is not repeated.",
            )  # fmt: skip
            self._remember(key).set_result(unknown)
            self._store(unknown, "gateway")

    async def run(self, principal: Principal, request: Request) -> Result:
        """Carry one command out; never raises for what can be answered."""
        target = f"{request.device}.{request.point}"
        if not request.key:
            request = msgspec.structs.replace(request, key=uuid.uuid4().hex)
        known = self._results.get(request.key)
        if known is not None:
            return await asyncio.shield(known)
        try:
            authorise(principal, COMMAND, target)
            poller, protocol = self._locate(request)
            raw = protocol.encode(request.point, request.value)
            timeout_s = self._time_left_s(request)
        except Problem as problem:
            result = _result(request, "refused", problem)
            self.counts["refused"] += 1
            self._pipeline.submit("command-result", f"device:{request.device}", _event(result, principal))
            return result
        answer = self._remember(request.key)
        data = {"key": request.key, "point": request.point, "value": request.value, "raw": raw, "by": str(principal)}
        await self._pipeline.submit(
            "command-intent", f"device:{request.device}", data, urgent=True, intent=(request.key, _encode(request))
        )
        result = await self._send(poller, request, timeout_s)
        answer.set_result(result)
        await self._store(result, str(principal))
        return result

    def _locate(self, request: Request) -> tuple[Target, Protocol]:
        found = self._find(request.device)
        if found is None:
            raise Problem("command-refused", f"there is no device {request.device!r}", "See `fluxedge points`.")
        return found

    def _time_left_s(self, request: Request) -> float:
        timeout_s = request.timeout_ms / 1000
        if request.expires_ms:
            timeout_s = min(timeout_s, request.expires_ms / 1000 - self._clock.wall_ns() / 10**9)
        if timeout_s <= 0:
            raise Problem("command-refused", "expired before it could be sent")
        return timeout_s

    async def _send(self, poller: Target, request: Request, timeout_s: float) -> Result:
        try:
            written = await poller.order(request.device, request.point, request.value, timeout_s)
        except LinkProblem as problem:
            return _result(request, "unknown", problem)
        except Problem as problem:
            states: dict[str, State] = {"command-refused": "refused", "no-reply": "unknown"}
            return _result(request, states.get(problem.code, "failed"), problem)
        return Result(
            key=request.key, device=request.device, point=request.point, value=request.value,
            state="done" if written.verified else "sent", read_back=written.read_back, before=written.before,
            message="" if written.verified else "the device does not read back what was written",
        )  # fmt: skip

    def _store(self, result: Result, by: str) -> asyncio.Future[None]:
        self.counts[result.state] += 1
        return self._pipeline.submit(
            "command-result",
            f"device:{result.device}",
            _event(result, by),
            urgent=True,
            result=(result.key, _encode(result)),
        )

    def _remember(self, key: str) -> asyncio.Future[Result]:
        while len(self._results) >= REMEMBERED:
            self._results.pop(next(iter(self._results)))
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._results[key] = answer
        return answer


def _result(request: Request, state: State, problem: Problem) -> Result:
    return Result(
        key=request.key, device=request.device, point=request.point, value=request.value, state=state,
        code=problem.code, message=problem.message, hint=problem.hint,
    )  # fmt: skip


def _event(result: Result, by: object) -> dict[str, typing.Any]:
    body = msgspec.structs.asdict(result)
    return {k: v for k, v in body.items() if v not in (None, "") and k != "device"} | {"by": str(by)}
