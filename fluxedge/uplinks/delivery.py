"""What one session sends: both streams in turns, the backlog on its budget, suspects alone; and what is under way.

    each turn: a few live messages (events, then rounds) --> one message of the backlog when
        no live message waits, or it is the backlog's turn: one byte for every four of live
        and its bytes in flight, half of the window and its budget permit it

One message of the backlog is prepared at a time; a live message waits behind one that is being made and one that is on
its way. In strict order a lane's live stream begins when its backlog is sent; then only a configured rate holds it.
"""

from __future__ import annotations

import asyncio
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fluxedge.config.structs import UplinkCfg
from fluxedge.log import Log
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem, Problem, Refused
from fluxedge.spi import Message, Uplink
from fluxedge.uplinks.budget import Budget
from fluxedge.uplinks.messages import Cut, Cutter, Size
from fluxedge.uplinks.poison import Piece, State, Suspicion
from fluxedge.uplinks.retry import Retries
from fluxedge.uplinks.streams import Start, Stream, is_todo, newest_delivered, read_one, strict_for_now

BACKLOG_BYTES = 256 << 10  # of one message of the backlog at most: live messages wait for it
SHARE = 4  # while live messages never cease, the backlog gets one byte for so many of theirs
KILLED = "the connection ended whenever it was sent alone"


class OpenUplink(Uplink, typing.Protocol):
    """What the loop needs beyond spi.Uplink."""

    condition: Callable[[str, Problem | None], None]
    """Set by the loop before `open`: told a problem, or None when it is over, that does not end the session."""
    greeted: asyncio.Event
    """Set when the peer has answered something that is no record; nothing is sent before."""

    async def room(self) -> None: ...
    @property
    def maximum_message_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What a forward loop has to know of its uplink's configuration."""

    uplink: str  # its id, which is the name of its cursors
    gateway: str
    form: str
    lanes: tuple[Lane, ...]  # in the order in which they get their turns
    message_bytes: int
    strict: bool = False
    backlog_rate_bytes: int | None = None  # a second

    @classmethod
    def of(cls, uplink: str, gateway: str, cfg: UplinkCfg) -> Terms:
        """Return what an uplink's table says; events go first."""
        lanes = tuple(sorted((Lane[label.upper()] for label in cfg.lanes), reverse=True))
        strict = cfg.order == "strict"
        return cls(uplink, gateway, cfg.format, lanes, cfg.message_bytes, strict, cfg.backlog_rate_bytes)


@dataclass(frozen=True, slots=True)
class Limits:
    """What this session may send, as earlier sessions have found out."""

    target_bytes: int
    most_bytes: int  # 0 = no limit known


class Sent(typing.NamedTuple):
    """A message that is under way."""

    message: Message
    at_s: float
    row: int = 0  # of the quarantine
    repeated: bool = False  # it was delivered before, and goes once more as a control

    @property
    def piece(self) -> Piece:
        """Return it as something to be suspected."""
        return Piece(self.message.epoch, self.message.lane, self.message.lo, self.message.hi, self.row)


class Outcomes(typing.Protocol):
    """Who is told what became of messages."""

    def acknowledged(self, sent: Sent) -> None: ...
    def refused(self, message: Message, reason: str) -> None: ...


class Delivery:
    """The sending of one session."""

    def __init__(
        self, uplink: OpenUplink, log: Log, terms: Terms, limits: Limits, budget: Budget, suspicion: Suspicion,
        retries: Retries, outcomes: Outcomes, now_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self._uplink, self._log, self._terms, self._limits = uplink, log, terms, limits
        self._budget, self._suspicion, self._retries, self._outcomes = budget, suspicion, retries, outcomes
        self._loop = asyncio.get_running_loop()
        self._now_s = now_s  # the loop's own time is in whole milliseconds on uvloop
        self.start = start = Start.of(log)  # where the live streams begin
        self._live = [self._stream(lane, start, historical=False) for lane in terms.lanes]
        self._backlog = [self._stream(lane, start, historical=True) for lane in terms.lanes]
        self._strict = terms.strict or strict_for_now(log, terms.uplink, list(terms.lanes))
        self._prepared: tuple[int, Message] | None = None  # row of the quarantine or 0, the backlog's next message
        self._owed_bytes = 0.0  # what the backlog has coming while live messages never cease
        self._flight_bytes = self._flight_messages = 0  # of the backlog
        self._news = asyncio.Event()
        self._fault: LinkProblem | None = None
        self._held: Lane | None = None  # a suspect of it waits for a control; the other lanes go on
        self.under_way: dict[asyncio.Future[None], Sent] = {}  # in the order of sending
        self.behind = False  # there is, or was a moment ago, something in the backlog

    def _stream(self, lane: Lane, start: Start, *, historical: bool) -> Stream:
        terms = self._terms
        cutter = Cutter(terms.gateway, terms.form)
        return Stream(self._log, terms.uplink, lane, cutter, start, historical=historical)

    def wake(self) -> None:
        """Look again for what can be sent: records were committed, messages acknowledged, or rows marked."""
        self._news.set()

    async def run(self) -> None:
        """Send until the peer refuses to take more, or forever.

        Raises:
            LinkProblem: why nothing more is taken.
        """
        await self._uplink.greeted.wait()
        await self._test_suspects()
        while True:
            self._news.clear()
            self._check()
            await self._retries.write()
            if self._held is not None:
                await self._test_suspects()
            wait_s = await (self._strict_turn() if self._strict else self._turn())
            if wait_s:
                await self._pause(wait_s)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def _pause(self, wait_s: float) -> None:
        """Wait for news, at most so long."""
        timer = self._loop.call_later(wait_s, self._news.set) if wait_s < math.inf else None
        try:
            await self._news.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # --- turns --------------------------------------------------------------------------------------------------------

    async def _turn(self) -> float:
        """Send a few live messages, or one of the backlog; return how long there is nothing to do."""
        size, sent = self._size(), False
        for stream in self._open(self._live):
            for message in await self._next(stream, size):
                await self._transmit(message)
                sent = True
                self._owed_bytes += len(message.payload) / SHARE
                if self._owed_bytes >= (len(self._prepared[1].payload) if self._prepared else size.target):
                    await self._backlog_turn()
        return 0.0 if sent else await self._backlog_turn()

    async def _backlog_turn(self) -> float:
        """Send one message of the backlog, if it may go now; return how long to wait otherwise."""
        if self._prepared is None:
            self._prepared = await self._prepare()
        if self._prepared is None:
            self._owed_bytes, self.behind = 0.0, False
            return math.inf
        self.behind = True
        row, message = self._prepared
        size = len(message.payload)
        if self._flight_messages and (
            self._flight_bytes + size > self._budget.flight_bytes(size)
            or self._flight_messages >= max(1, self._uplink.window // 2)
        ):
            return math.inf  # an acknowledgement is news
        wait_s = self._budget.wait_s(self._now_s())
        if wait_s:
            return wait_s
        await self._uplink.room()
        if self._owed_bytes < size and any(stream.waits() for stream in self._open(self._live)):
            return 0.0  # committed while this one was made, or waited for room
        self._owed_bytes = max(0.0, min(self._owed_bytes, 2 * size) - size)
        self._prepared = None
        self._budget.spend(self._now_s(), size)
        await self._transmit(message, row)
        return 0.0

    async def _strict_turn(self) -> float:
        """Send what comes next of each lane; return how long there is nothing to do."""
        sent, self.behind = False, False
        for backlog, live in zip(self._open(self._backlog), self._open(self._live), strict=True):
            found = await self._next(backlog, self._size())
            self.behind = self.behind or bool(found)
            for message in found or await self._next(live, self._size()):
                if message.historical:
                    if wait_s := self._budget.wait_s(self._now_s()):
                        await asyncio.sleep(wait_s)
                    self._budget.spend(self._now_s(), len(message.payload))
                await self._transmit(message)
                sent = True
        if not sent and (retry := await self._retry()) is not None:
            await self._transmit(retry[1], retry[0])
            sent = True
        return 0.0 if sent else math.inf

    async def _prepare(self) -> tuple[int, Message] | None:
        """Return the backlog's next message, that of a marked row of the quarantine first."""
        if (retry := await self._retry()) is not None:
            return retry
        size = self._size(historical=True)
        for stream in self._open(self._backlog):
            if found := await self._next(stream, size):
                return 0, found[0]
        return None

    async def _retry(self) -> tuple[int, Message] | None:
        """Return the next marked row of the quarantine; one that the peer cannot take is left there."""
        most = self._size().most
        while (found := await self._retries.next()) is not None:
            row, message = found
            if not 0 < most < len(message.payload):
                return found
            self._retries.settled(row, _too_large(message))
            self._news.set()  # to have it written
        return None

    def _open(self, streams: list[Stream]) -> list[Stream]:
        return [stream for stream in streams if stream.lane is not self._held]

    def _size(self, *, historical: bool = False) -> Size:
        limits = [limit for limit in (self._uplink.maximum_message_bytes, self._limits.most_bytes) if limit]
        most, target = min(limits, default=0), min([self._limits.target_bytes, *limits])
        if historical:
            return Size(min(self._budget.message_bytes(target), BACKLOG_BYTES), most, ahead=1)
        return Size(target, most)

    async def _next(self, stream: Stream, size: Size) -> list[Message]:
        """Return the next messages of a stream; what cannot become one is given up or set aside."""
        while True:
            cut = await stream.next(size)
            self._give_up(stream.lane, cut)
            if cut.messages or not cut.end:
                return cut.messages

    def _give_up(self, lane: Lane, cut: Cut) -> None:
        for lo, hi in cut.damaged:
            self._log.lose(self._terms.uplink, cut.epoch, lane, lo, hi)
        for message in cut.too_large:
            self._refuse(message, _too_large(message))

    # --- suspects -----------------------------------------------------------------------------------------------------

    async def _test_suspects(self) -> None:
        """Send what is suspected of killing connections, each alone.

        Returns when nothing is suspected any more, or when the lane of a suspect is to be held: it has no other record
        yet by which the peer could show that it takes any of the lane.
        """
        while (suspect := self._suspicion.suspect) is not None:
            self._news.clear()
            control = self._suspicion.state is State.CONTROL
            message = await (self._control(suspect) if control else self._suspected(suspect))
            if control and message is None and self._waits(suspect):
                self._held = suspect.lane
                return
            self._held = None
            if message is None:
                self._suspicion.gone()
                continue
            future = await self._transmit(message, 0 if control else suspect.row, control=control)
            await asyncio.wait([future])
            self._check()
            guilty = self._suspicion.passed(Piece(message.epoch, message.lane, message.lo, message.hi))
            if guilty is not None:
                await self.set_aside(guilty)
        self._held = None

    async def _suspected(self, piece: Piece) -> Message | None:
        """Return a suspect, or its first part, as a message; None when nothing of it is to be sent any more."""
        if piece.row:
            return await self._retries.message(piece.row)
        for epoch, ranges in self._log.cursors.of(self._terms.uplink, piece.lane):
            for lo, hi in ranges.intersect(piece.lo, piece.hi) if epoch == piece.epoch else ():
                if found := await self._one(epoch, piece.lane, lo, hi, historical=True):
                    return found
        return None

    def _waits(self, piece: Piece) -> bool:
        """Tell whether something of a suspect is still to be sent; what came out of the quarantine stays there."""
        if piece.row:
            self._retries.settled(piece.row, KILLED)
            return False
        todo = self._log.cursors.of(self._terms.uplink, piece.lane)
        return any(epoch == piece.epoch and ranges.intersect(piece.lo, piece.hi) for epoch, ranges in todo)

    async def _control(self, suspect: Piece) -> Message | None:
        """Return another record of the suspect's lane, one that the peer has had already where there is one."""
        log, lane = self._log, suspect.lane
        epoch, seq = log.epoch, log.heads[lane]
        if self._held is None and (found := await newest_delivered(log, self._terms.uplink, lane)) is not None:
            return await self._one(found[0], lane, found[1], found[1], historical=True)
        same = epoch == suspect.epoch and suspect.lo <= seq <= suspect.hi
        if same or not is_todo(log, self._terms.uplink, epoch, lane, seq):
            return None
        return await self._one(epoch, lane, seq, seq, historical=True)

    async def _one(self, epoch: int, lane: Lane, lo: int, hi: int, *, historical: bool) -> Message | None:
        terms = self._terms
        cutter, most = Cutter(terms.gateway, terms.form), self._size().most
        cut = await read_one(self._log, cutter, epoch, lane, lo, hi, most, historical=historical)
        self._give_up(lane, cut)
        return cut.messages[0] if cut.messages else None

    async def set_aside(self, piece: Piece) -> None:
        """Put what kills connections into quarantine, also after the session."""
        if piece.row:
            self._retries.settled(piece.row, KILLED)
        elif (message := await self._suspected(piece)) is not None:
            self._refuse(message, KILLED)

    # --- what is under way --------------------------------------------------------------------------------------------

    async def _transmit(self, message: Message, row: int = 0, *, control: bool = False) -> asyncio.Future[None]:
        await self._uplink.room()
        self._check()
        repeated = control and not is_todo(self._log, self._terms.uplink, message.epoch, message.lane, message.lo)
        future = self._uplink.send(message)
        sent = self.under_way[future] = Sent(message, self._now_s(), row, repeated)
        if message.historical:
            self._flight_messages += 1
            self._flight_bytes += len(message.payload)
        future.add_done_callback(partial(self._settle, sent))
        return future

    def _settle(self, sent: Sent, future: asyncio.Future[None]) -> None:
        """Let the cursor pass a message: the peer acknowledged it, or will never take it."""
        if future.cancelled():
            self._fail(LinkProblem("bug", "an uplink cancelled a message"))
            return
        error = future.exception()
        if isinstance(error, LinkProblem):
            self._fail(error)  # the message stays in `under_way`: who ends the session looks at it
            return
        if error is not None and not isinstance(error, Refused):
            self._fail(LinkProblem("bug", repr(error)))
            return
        del self.under_way[future]
        message, size = sent.message, len(sent.message.payload)
        if message.historical:
            self._flight_messages -= 1
            self._flight_bytes -= size
        self._news.set()
        if sent.repeated:  # nothing becomes of it: it was settled before
            return
        if error is not None:
            self._refuse(message, next(iter(error.reasons.values()), "refused"), sent.row)
            return
        now_s = self._now_s()
        self._budget.answered(now_s, now_s - sent.at_s, size, historical=message.historical)
        self._outcomes.acknowledged(sent)
        if sent.row:
            self._retries.settled(sent.row)
        else:
            self._log.cursors.settle(self._terms.uplink, message.epoch, message.lane, message.lo, message.hi)

    def _refuse(self, message: Message, reason: str, row: int = 0) -> None:
        """Set a message aside: its records are in quarantine, and the cursor passes them."""
        if row:
            self._retries.settled(row, reason)
            return
        self._outcomes.refused(message, reason)
        self._log.cursors.settle(self._terms.uplink, message.epoch, message.lane, message.lo, message.hi)

    def _fail(self, problem: LinkProblem) -> None:
        """End the session: the peer takes nothing more for now."""
        if self._fault is None:
            self._fault = problem
            self._news.set()


def _too_large(message: Message) -> str:
    return f"{len(message.payload)} bytes are more than the peer takes in one message"
