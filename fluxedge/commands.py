"""Commands: authorise -> validate -> intent committed -> channel's queue -> read back -> result committed -> answer.

A command reaches the wire at most once. Its intent is durable before the first byte is sent; an intent that has no
result after a crash is reported as `unknown` and never repeated.

A key names one command. Whoever repeats it within 24 h gets the first answer again, without a second write; the same
key for another write is refused. A command that was refused before its intent leaves nothing behind but an event, or
a count in one: its key may be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import typing
import uuid
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Meta

from fluxedge.clock import Clock
from fluxedge.columns import Value, json_value
from fluxedge.log import Log, LogFault
from fluxedge.permissions import COMMAND, Allowance, Principal, authorise
from fluxedge.pipeline import Pipeline
from fluxedge.problems import LinkProblem, Problem
from fluxedge.refusals import Refusals
from fluxedge.spi import Protocol, Spawn, Written

TIMEOUT_S = 10.0
REMEMBERED = 10_000  # answers in memory; the others of 24 h are in the log
PAGE = 500  # interrupted commands taken from the log at once
IN_FLIGHT = 200  # commands of all callers together; more are refused
RESULT_WAIT_S = 10.0  # for a result to become durable; then the caller is told all the same, the truth is worth more
CLOSE_S = 5.0
PAYLOAD_BYTES = 16 * 1024
_INT_LEAST, _INT_MOST = -(2**63), 2**64 - 1  # what a register of any type, and the log, can hold

State = typing.Literal["done", "sent", "refused", "failed", "unknown"]
Text = typing.Annotated[str, Meta(max_length=1000)]
Asked = float | int | bool | Text  # what JSON can carry of a Value; bytes cannot be commanded by it
Name = typing.Annotated[str, Meta(min_length=1, max_length=128)]


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a caller asks for."""

    device: Name
    point: Name
    value: Asked
    key: typing.Annotated[str, Meta(max_length=128)] = ""  # idempotency key; made up when empty
    timeout_ms: typing.Annotated[int, Meta(ge=1, le=86_400_000)] = int(TIMEOUT_S * 1000)  # to be sent within this time
    expires_ms: typing.Annotated[int, Meta(ge=0)] = 0  # UTC, ms since 1970-01-01; 0 = by timeout_ms only
    wait: bool = False  # queue for an offline device until the command expires, instead of being refused

    def __post_init__(self) -> None:
        if isinstance(self.value, int) and not _INT_LEAST <= self.value <= _INT_MOST:
            raise ValueError("value: an integer of more than 64 bits")

    @property
    def asks(self) -> tuple[object, ...]:
        """Return what is to be written: the same for repetitions."""
        return self.device, self.point, isinstance(self.value, bool), self.value


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    done: the device took it and reads back what was asked; sent: taken, but not or differently read back;
    refused: it never reached the wire; failed: the device refused it; unknown: interrupted or unanswered.
    """

    key: str
    device: str
    point: str
    state: State
    value: Asked | None = None  # as asked; integers beyond 2^53 as text, here and below
    read_back: typing.Any = None  # a Value; bytes as base64
    before: typing.Any = None
    code: str = ""
    message: str = ""
    hint: str = ""


class Target(typing.Protocol):
    """What carries a command out: a poller."""

    def refusal(self, device: str, *, patient: bool = False) -> Problem | None: ...

    def order(
        self, device: str, point: str, value: Value, deadline_s: float, *, patient: bool = False
    ) -> asyncio.Future[Written]: ...


Find = Callable[[str], tuple[Target, Protocol] | None]
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Request)
_NOT_OURS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # bytes that are no JSON of ours


def decode(payload: bytes) -> Request:
    """Return the request that came as JSON.

    Raises:
        Problem: "command-refused": it is none.
    """
    hint = 'For instance {"device": "boiler", "point": "setpoint", "value": 60}.'
    if len(payload) > PAYLOAD_BYTES:
        raise Problem("command-refused", f"a command of {len(payload)} bytes; {PAYLOAD_BYTES} are permitted")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Problem("command-refused", f"this is no command: {exc}", hint) from exc


class Commander:
    """Run commands, each in a task of its own, and remember what became of them."""

    def __init__(self, find: Find, pipeline: Pipeline, log: Log, clock: Clock, spawn: Spawn) -> None:
        self._find = find
        self._pipeline = pipeline
        self._log = log
        self._clock = clock
        self._spawn = spawn
        self._known: dict[str, tuple[Request, asyncio.Future[Result]]] = {}  # by key, oldest first
        self._running: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._allowance = Allowance()
        self._refusals = Refusals(partial(pipeline.submit, "command-result"))
        self.counts: dict[str, int] = dict.fromkeys(typing.get_args(State), 0)

    async def recover(self) -> None:
        """Give interrupted commands the result `unknown`: before anything is polled, and when a log was salvaged.

        Those that cannot be read now are left: a log that is damaged there is set aside, and its salvage asks again.
        """
        key = ""
        with contextlib.suppress(LinkProblem):
            while page := await self._log.unanswered_commands(key, PAGE):
                for key, asked in page:
                    if key in self._known:  # under way; or it came from a damaged log and was asked for again
                        continue
                    request, result = _stored(key, asked, None)
                    self._remember(request).set_result(result)
                    self._store(result, "gateway")

    async def run(self, principal: Principal, request: Request) -> Result:
        """Carry one command out; never raises for what can be answered. Cancelling the caller does not stop it."""
        arrived_s = asyncio.get_running_loop().time()
        try:
            authorise(principal, COMMAND, f"{request.device}.{request.point}")
            earlier = await self._earlier(request)
            if earlier is not None:
                return await asyncio.shield(earlier)
            if not request.key:
                request = msgspec.structs.replace(request, key=uuid.uuid4().hex)
            deadline_s = arrived_s + self._time_left_s(request)
            protocol, raw = self._validate(request)
            self._allowance.spend(principal, asyncio.get_running_loop().time())
        except Problem as problem:
            return self._refuse(principal, request, problem)
        answer = self._remember(request)
        work = self._carry_out(principal, request, protocol, raw, deadline_s, answer)
        self._running[request.key] = self._spawn(work, f"command:{request.device}.{request.point}")
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Take no more commands, and wait a moment for those that run."""
        self._closed = True
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=CLOSE_S)
        self._refusals.close()

    # --- before the intent --------------------------------------------------------------------------------------------

    async def _earlier(self, request: Request) -> asyncio.Future[Result] | None:
        """Return the answer to the same key, if the gateway remembers it."""
        if request.key and request.key not in self._known:
            found = await self._log.command_result(request.key)
            if found is not None and request.key not in self._known:
                stored, result = _stored(request.key, *found)
                self._remember(stored).set_result(result)
        known = self._known.get(request.key) if request.key else None
        if known is None:
            return None
        if known[0].asks != request.asks:
            hint = "Give every command a key of its own."
            raise Problem("command-refused", f"the key {request.key!r} was used for another command", hint)
        return known[1]

    def _time_left_s(self, request: Request) -> float:
        timeout_s = request.timeout_ms / 1000
        if request.expires_ms:
            left_s = request.expires_ms / 1000 - self._clock.wall_ns() / 10**9
            timeout_s = left_s if request.wait else min(timeout_s, left_s)
        if timeout_s <= 0:
            raise Problem("command-refused", "expired before it could be sent")
        return timeout_s

    def _validate(self, request: Request) -> tuple[Protocol, Value]:
        if self._closed:
            raise Problem("command-refused", "the gateway stops")
        if len(self._running) >= IN_FLIGHT:
            raise Problem("command-refused", f"{IN_FLIGHT} commands are under way; try again")
        poller, protocol = self._locate(request)
        raw = protocol.encode(request.point, request.value)
        problem = poller.refusal(request.device, patient=request.wait)
        if problem is not None:
            raise problem
        return protocol, raw

    def _locate(self, request: Request) -> tuple[Target, Protocol]:
        found = self._find(request.device)
        if found is None:
            raise Problem("command-refused", f"there is no device {request.device!r}", "See `fluxedge points`.")
        return found

    def _refuse(self, principal: Principal, request: Request, problem: Problem) -> Result:
        result = _result(request, "refused", problem)
        self.counts["refused"] += 1
        target, item = f"{request.device}.{request.point}", f"device:{request.device}"
        self._refusals.note(principal, target, result.code, item, partial(_event, result, principal))
        return result

    # --- the way to the wire ------------------------------------------------------------------------------------------

    async def _carry_out(
        self,
        principal: Principal,
        request: Request,
        protocol: Protocol,
        raw: Value,
        deadline_s: float,
        answer: asyncio.Future[Result],
    ) -> None:
        data = {
            "key": request.key, "point": request.point, "value": json_value(request.value), "raw": json_value(raw),
            "by": str(principal),
        }  # fmt: skip
        try:
            intent = self._pipeline.submit(
                "command-intent", f"device:{request.device}", data, urgent=True, intent=(request.key, _encode(request))
            )
            problem = await self._until_durable(intent, deadline_s)
            result = (
                _result(request, "refused", problem) if problem else await self._send(request, protocol, deadline_s)
            )
            stored = self._store(result, str(principal))
            if problem is None:
                await asyncio.wait([stored], timeout=RESULT_WAIT_S)
            answer.set_result(result)
        finally:
            del self._running[request.key]
            if not answer.done():  # cancelled: the gateway stops in the middle of it
                text = "the gateway stopped before the device's answer was there"
                answer.set_result(_result(request, "unknown", Problem("command-unknown", text)))

    async def _until_durable(self, intent: asyncio.Future[None], deadline_s: float) -> Problem | None:
        """Wait for the intent; return why the command must not be sent."""
        left_s = deadline_s - asyncio.get_running_loop().time()
        await asyncio.wait([intent], timeout=left_s)
        if not intent.done():
            return Problem("command-refused", "expired before its intent was on the disk")
        fault = intent.exception()
        if isinstance(fault, LogFault):
            return Problem("command-refused", f"its intent cannot be stored: {fault.message}", fault.hint)
        if fault is not None:
            raise fault
        return None

    async def _send(self, request: Request, protocol: Protocol, deadline_s: float) -> Result:
        found = self._find(request.device)
        if found is None or found[1] is not protocol:
            why = f"device-removed: the configuration of {request.device} changed"
            return _result(request, "refused", Problem("command-refused", why))
        order = found[0].order(request.device, request.point, request.value, deadline_s, patient=request.wait)
        try:
            written = await order
        except LinkProblem as problem:
            return _result(request, "unknown", problem)
        except Problem as problem:
            states: dict[str, State] = {"command-refused": "refused"}
            states |= dict.fromkeys(("no-reply", "command-unknown", "bug"), "unknown")
            return _result(request, states.get(problem.code, "failed"), problem)
        return Result(
            key=request.key, device=request.device, point=request.point, value=json_value(request.value),
            state="done" if written.verified else "sent",
            read_back=json_value(written.read_back), before=json_value(written.before),
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

    def _remember(self, request: Request) -> asyncio.Future[Result]:
        while len(self._known) >= REMEMBERED:
            oldest = next(iter(self._known))
            known = self._known.pop(oldest)
            if not known[1].done():  # waits for an offline device
                self._known[oldest] = known
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._known[request.key] = (request, answer)
        return answer


def _stored(key: str, asked: bytes, answer: bytes | None) -> tuple[Request, Result]:
    """Return what the log holds of a command; one without a result was interrupted."""
    try:
        request = msgspec.structs.replace(_decoder.decode(asked), key=key)
    except _NOT_OURS:  # written by another version, or come from a damaged log
        request = Request(device="?", point="?", value="", key=key)
    if answer is not None:
        try:
            return request, msgspec.json.decode(answer, type=Result)
        except _NOT_OURS:
            pass
    text, hint = "the gateway stopped before the device's answer was stored", "Look at the device; it is not repeated."
    return request, _result(request, "unknown", Problem("command-unknown", text, hint))


def _result(request: Request, state: State, problem: Problem) -> Result:
    return Result(
        key=request.key, device=request.device, point=request.point, value=json_value(request.value), state=state,
        code=problem.code, message=problem.message, hint=problem.hint,
    )  # fmt: skip


def _event(result: Result, by: object) -> dict[str, typing.Any]:
    """Return the event's data; 0, false and "" are values."""
    said = ("key", "point", "state", "code", "message", "hint")
    texts = {name: text for name in said if (text := getattr(result, name))}
    values = {name: getattr(result, name) for name in ("value", "read_back", "before")}
    return texts | {name: json_value(value) for name, value in values.items() if value is not None} | {"by": str(by)}
