"""Reading one group: ask the planned requests, decode, and learn where a device refuses a block.

all answered                 one decode, one round
02 or 03 on a block          cut it at its holes; then halve it, down to the point that is refused; what worked is
                             the plan from now on, the refused point is asked again only now and then
no answer to the first one   the device is silent: raise at once
no answer to a later one     its points are OFFLINE, the others are delivered; a second silence ends the read
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fluxedge.columns import Raws
from fluxedge.model import Group, Quality, Round
from fluxedge.problems import DeviceProblem
from fluxedge.protocols.modbus.compile import CompiledGroup
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.framing import Question
from fluxedge.protocols.modbus.plan import Request, Span, halves, without_holes
from fluxedge.spi import Reply

EXTRA_REQUESTS = 16  # at most so many in one read to find what a device refuses; the next read goes on from there
REFUSED_EVERY = 16  # reads between two questions for what a device refuses; a guess: it costs 6 % of one request
SILENCES = 2  # requests without an answer after which a device that answered before is not asked further
_REFUSED = ("illegal-address", "illegal-value")

Ask = Callable[[Question], Awaitable[Reply[bytes]]]
Prepare = Callable[[Request], Question]


def read_question(unit: int, request: Request) -> Question:
    """Return the question of a planned request.

    function 1, first address 2, quantity 2  ->  function 1, byte count 1, data     V1.1b3, 6.1 to 6.4
    """
    pdu = struct.pack(">BHH", request.area.function, request.start, request.count)
    return Question(unit, pdu, bytes([request.data_bytes]), 2 + request.data_bytes, 2, request.place())


class GroupReader:
    """One group of one device: its plan, and what was learned about the device."""

    def __init__(self, group: Group, compiled: CompiledGroup, prepare: Prepare) -> None:
        self.group = group
        self.layouts = compiled.layouts
        self.requests = compiled.requests
        self.questions = [prepare(request) for request in compiled.requests]
        self.refused: dict[Request, DeviceProblem] = {}
        self.reads = 0
        self._prepare = prepare
        self._decoder = compiled.decoder  # shared by devices of one kind until this one refuses something

    def follow(self, requests: Sequence[Request]) -> None:
        """Use `requests` as the plan from now on."""
        self.requests = tuple(requests)
        self.questions = [self._prepare(request) for request in requests]
        self._decoder = Decoder(self.layouts, self.requests)

    @property
    def spans(self) -> list[Span]:
        """Return where the points lie."""
        return [layout.span for layout in self.layouts]

    def prepared(self, request: Request) -> Question:
        """Return the question of a request that is not in the plan."""
        return self._prepare(request)

    def due(self, request: Request) -> bool:
        """Tell whether a request that the device refused is to be asked again."""
        if self.reads % REFUSED_EVERY == 0:
            return True
        return request == self.requests[0] and len(self.refused) == len(self.requests)

    async def read(self, ask: Ask) -> tuple[Round, DeviceProblem | None]:
        """Read the group; the problem beside the round is that of a part of it.

        Raises:
            DeviceProblem: nothing of the group could be read.
            LinkProblem: the channel closed.
        """
        self.reads += 1
        replies: list[Reply[bytes]] = []
        problem = None
        if not self.refused:
            try:
                suspect = False
                for question in self.questions:
                    reply = await ask(question)
                    replies.append(reply)
                    suspect = suspect or reply.suspect
            except DeviceProblem as exc:
                problem = exc
            else:
                if not suspect:
                    raws = self._decoder.decode([reply.data for reply in replies])
                    if not self._decoder.fallible or None not in raws:
                        return self.group.round(raws, reply.at_ns, reply.mono_ns), None
        careful = CarefulRead(self, ask)
        await careful.run(replies, problem)
        return careful.finish()

    def decode(self, data: dict[Request, bytes]) -> Raws:
        """Return the raws of the answered requests; those of the others are arbitrary."""
        return self._decoder.decode([data.get(request) or bytes(request.data_bytes) for request in self.requests])


@dataclass
class CarefulRead:
    """One read in which something went wrong, or may go wrong again."""

    reader: GroupReader
    ask: Ask
    answers: dict[Request, Reply[bytes]] = field(default_factory=dict)
    failures: dict[Request, DeviceProblem] = field(default_factory=dict)
    notes: list[DeviceProblem] = field(default_factory=list)  # what was learned
    extra: int = EXTRA_REQUESTS
    alive: bool = False  # something was answered in this read, were it an exception
    silences: list[DeviceProblem] = field(default_factory=list)

    async def run(self, replies: list[Reply[bytes]], problem: DeviceProblem | None) -> None:
        """Go on behind the requests that were answered; `problem` is that of the next one, when it was asked."""
        reader = self.reader
        self.answers.update(zip(reader.requests, replies, strict=False))
        self.alive = bool(replies)
        if problem is not None:
            self._count(problem)
        for request, question in list(zip(reader.requests, reader.questions, strict=True))[len(replies) :]:
            if problem is None:
                problem = await self._try(request, question)
            if problem is not None:
                await self._handle(request, problem)
            problem = None

    async def _try(self, request: Request, question: Question) -> DeviceProblem | None:
        """Ask one request; return its problem."""
        known = self.reader.refused.get(request)
        if known is not None and not self.reader.due(request):
            return known
        if len(self.silences) >= SILENCES:
            return self.silences[-1]
        try:
            self.answers[request] = await self.ask(question)
        except DeviceProblem as problem:
            self._count(problem)
            return problem
        self.alive = True
        self.reader.refused.pop(request, None)
        return None

    def _count(self, problem: DeviceProblem) -> None:
        if problem.alive:
            self.alive = True
        elif not self.alive:
            raise problem  # the device is silent: another request would only cost another timeout
        else:
            self.silences.append(problem)

    async def _handle(self, request: Request, problem: DeviceProblem) -> None:
        if not self._refuses(problem) or request in self.reader.refused:
            self.failures[request] = problem
        elif self._divisible(request):
            await self._divide(request, problem)
        else:
            self.failures[request] = self.reader.refused[request] = problem

    def _refuses(self, problem: DeviceProblem) -> bool:
        return problem.alive and problem.code in _REFUSED

    def _divisible(self, request: Request) -> bool:
        return len({self.reader.spans[i] for i in request.members}) > 1

    async def _divide(self, whole: Request, problem: DeviceProblem) -> None:
        """Cut a refused request, breadth first, until its parts are answered or cannot be cut; remember the parts."""
        answered: list[Request] = []
        failed: dict[Request, DeviceProblem] = {}
        queue = deque([(whole, problem)])
        holes = False
        while queue:
            request, refusal = queue.popleft()
            parts, at_holes = self._parts(request, refusal)
            if not parts:
                failed[request] = refusal  # the next read goes on here
                continue
            holes = holes or at_holes
            for part in parts:
                answer = await self._try(part, self.reader.prepared(part))
                if answer is None:
                    answered.append(part)
                elif self._refuses(answer) and self._divisible(part):
                    queue.append((part, answer))
                else:
                    failed[part] = answer
        if not answered and all(self._final(part, answer) for part, answer in failed.items()):
            # Nothing of it exists (an option that is not fitted): one question is enough from now on.
            self.failures[whole] = self.reader.refused[whole] = problem
            return
        self.failures |= failed
        self.reader.refused |= {part: answer for part, answer in failed.items() if self._final(part, answer)}
        if not failed:
            self.notes.append(_learned(whole, answered, problem, holes))

    def _final(self, part: Request, problem: DeviceProblem) -> bool:
        """Tell whether a refused part is down to what cannot be cut."""
        return self._refuses(problem) and not self._divisible(part)

    def _parts(self, request: Request, refusal: DeviceProblem) -> tuple[list[Request], bool]:
        """Cut a request: (parts, were they cut at holes); no parts when the budget of this read is spent."""
        parts = without_holes(request, self.reader.spans)
        # 03 is mostly said of the quantity (V1.1b3, 6.3: 1 to 125): halving finds the device's own maximum.
        at_holes = refusal.code == "illegal-address" and 1 < len(parts) <= self.extra
        if not at_holes:
            parts = halves(request, self.reader.spans)
        if len(parts) > self.extra:
            return [], False
        self.extra -= len(parts)
        return parts, at_holes

    def finish(self) -> tuple[Round, DeviceProblem | None]:
        """Return the round of what was answered, and the problem of the rest.

        Raises:
            DeviceProblem: nothing was answered.
        """
        reader = self.reader
        requests = sorted([*self.answers, *self.failures], key=lambda r: (r.area.function, r.start, r.members))
        if set(requests) != set(reader.requests):
            reader.follow(requests)
        problems = [self._named(request, problem) for request, problem in self.failures.items()]
        if not self.answers:
            raise problems[0]
        raws = list(reader.decode({request: reply.data for request, reply in self.answers.items()}))
        quality = bytearray(len(raws))
        for i in [i for i, raw in enumerate(raws) if raw is None]:
            quality[i] = Quality.BAD
            name = reader.group.names[i]
            problems.append(DeviceProblem("bad-value", f"{name}: the registers hold no value of its type", alive=True))
        for request, problem in self.failures.items():
            for i in request.members:
                raws[i], quality[i] = None, Quality.BAD if problem.alive else Quality.OFFLINE
        for request in [request for request, reply in self.answers.items() if reply.suspect]:
            problems.append(_late(request))
            for i in request.members:
                quality[i] = max(quality[i], Quality.UNCERTAIN)
        last = max(self.answers.values(), key=lambda reply: reply.mono_ns)
        problems.sort(key=lambda problem: problem.alive)  # a silence says more than a refusal
        partial = next(iter(problems + self.notes), None)
        return reader.group.round(tuple(raws), last.at_ns, last.mono_ns, quality=bytes(quality)), partial

    def _named(self, request: Request, problem: DeviceProblem) -> DeviceProblem:
        names = [self.reader.group.names[i] for i in request.members]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return DeviceProblem(problem.code, f"{shown}: {problem.message}", problem.hint, alive=problem.alive)


def _late(request: Request) -> DeviceProblem:
    return DeviceProblem(
        "late-reply-possible", f"{request.place()}: an answer of equal length was late just before", alive=True
    )


def _learned(whole: Request, parts: Sequence[Request], problem: DeviceProblem, holes: bool) -> DeviceProblem:
    """Return the note about a block that a device refuses in one request and answers in several."""
    area = whole.area
    if holes and len(parts) > 1:
        ordered = sorted(parts, key=lambda part: part.start)
        barriers = ", ".join(f'"{area.reference(part.end)}"' for part in ordered[:-1])
        hint = f"Add barriers = [{barriers}] to the driver file's [options]."
    else:
        key = "max_bits" if area.one_bit else "max_registers"
        hint = f"Add {key} = {max(part.count for part in parts)} to the driver file's [options]."
    words = f"{whole.place()}: refused as one request, answered as {len(parts)}; read so from now on"
    return DeviceProblem(problem.code, words, hint, alive=True)
