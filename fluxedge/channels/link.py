"""The open wire: a request goes out, `match` looks at what comes back. One request in flight.

    exchange   [silence] -> drop unread input -> write -> data_received -> match -> Reply
                                                  `-- call_later(timeout_s) -> DeviceProblem "no-reply"

`match` runs where the bytes arrive, so that an answer costs one wake-up of one task however many pieces it comes in.
An exchange that times out or is cancelled leaves the link usable: what arrives later is dropped and counted. Where the
framing has no transaction ids, the next request waits for silence first and its answer may be `suspect` (late.py).
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass

from fluxedge.channels.gap import GapTimer
from fluxedge.channels.late import LateReplies
from fluxedge.clock import Clock
from fluxedge.problems import DeviceProblem, LinkProblem, Problem
from fluxedge.spi import Match, Reply

T = typing.TypeVar("T")
Trace = Callable[[str, bytes], None]  # (">" sent | "<" received, bytes)

INPUT_MAX_BYTES = 65536  # of an answer in progress; more is a peer that babbles
BABBLE_BYTES = 256 << 10  # dropped at once; more ends the connection ...
BABBLE_BYTES_PER_S = 128 << 10  # ... as does this for long: no shared line of a device server brings so much
SETTLE_S = 0.001  # unread input in the kernel: the loop gets this long to hand it over


@dataclass(frozen=True, slots=True)
class LineTiming:
    """The silence a line needs. All zero: requests may follow each other at once and answers carry ids."""

    gap_s: float = 0.0  # before each request, after the last byte in either direction
    resync_s: float = 0.0  # that ends what is left of an unanswered request; 0 = the framing has transaction ids
    char_s: float = 0.0  # time of one character on the wire; 0 = not known (a network)


@dataclass(slots=True)
class Tally:
    """What a channel counts, over all its connections; `trace` sees every byte."""

    opens: int = 0
    exchanges: int = 0
    timeouts: int = 0
    suspects: int = 0  # answers that could have been late ones
    sent_bytes: int = 0
    received_bytes: int = 0
    dropped_bytes: int = 0  # received, but no part of an answer
    trace: Trace | None = None


class Link(asyncio.Protocol):
    """A ByteLink over an asyncio transport."""

    def __init__(self, peer: str, clock: Clock, tally: Tally, timing: LineTiming, closed_hint: str = "") -> None:
        """`peer` names the other end in messages. Must be made inside a running loop."""
        self._peer = peer
        self._clock = clock
        self._tally = tally
        self._timing = timing
        self._closed_hint = closed_hint
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()  # done when the transport is there
        self.closed: asyncio.Future[None] = self._loop.create_future()  # done when the transport is gone
        self._failure: tuple[str, str, str] | None = None  # code, message, hint
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[typing.Any] | None = None
        self._match: Match[typing.Any] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._input = b""
        self._at_ns = 0
        self._mono_ns = 0
        self._in_use = False
        self._quiet_since_s = 0.0  # end of the last byte in either direction
        self._settled = True  # nothing is left of an earlier request
        self._late = LateReplies()
        self._babble_bytes = 0.0  # dropped, less what is excused by time
        self._babble_at_s = time.monotonic()
        paused = timing.gap_s > 0 or timing.resync_s > 0
        self._gap = GapTimer(self._loop) if paused else None

    # --- what a protocol calls ---

    async def exchange(
        self, request: bytes, match: Match[T], *, timeout_s: float, reply_bytes: int = 0, pause_s: float = 0.0
    ) -> Reply[T]:
        """Send `request`, return what `match` finds. See spi.ByteLink.

        `timeout_s` is the device's time: what both frames spend on a serial line is added.
        """
        suspect = False
        self._claim()
        try:
            if pause_s and self._gap is None:
                self._begin_gaps()
            if self._gap is not None:
                suspect = await self._fall_silent(request[0], reply_bytes, timeout_s, pause_s)
            waiter = self._waiter = self._loop.create_future()
            self._match = match
            self._write(request)
            self._tally.exchanges += 1
            wait_s = timeout_s + (len(request) + reply_bytes) * self._timing.char_s
            self._deadline = self._loop.call_later(wait_s, self._expire, timeout_s, True)
            try:
                answer = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    waiter.exception()  # came in the same instant; nobody else will look at it
                self._miss(request[0], reply_bytes, timeout_s)
                raise
            except DeviceProblem as problem:
                if not problem.alive:
                    self._miss(request[0], reply_bytes, timeout_s)
                raise
            finally:
                self._deadline.cancel()
        finally:
            self._release()
        if self._gap is not None:
            self._late.answered(request[0], reply_bytes, time.monotonic())
            self._tally.suspects += suspect
        return Reply(answer, self._at_ns, self._mono_ns, suspect)

    async def send(self, request: bytes, *, pause_s: float = 0.0) -> None:
        """Send without waiting for an answer. See spi.ByteLink."""
        self._claim()
        try:
            if pause_s and self._gap is None:
                self._begin_gaps()
            if self._gap is not None:
                await self._fall_silent(request[0], 0, self._timing.resync_s, pause_s)
            self._write(request)
        finally:
            self._release()

    # --- what the channel calls ---

    @property
    def usable(self) -> bool:
        """Tell whether nothing is known to be wrong with the wire."""
        return self._failure is None

    def abort(self) -> None:
        """Close the wire without waiting; `closed` tells when it is gone."""
        self.fail("link-down", f"{self._peer}: closed by us")
        if self._transport is not None and not self._transport.is_closing():  # a serial transport closes twice else
            self._transport.abort()

    def fail(self, code: str, message: str, hint: str = "") -> None:
        """Note that the wire is of no more use and end what waits for it."""
        if self._failure is None:
            self._failure = (code, message, hint)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LinkProblem(*self._failure))
        if self._gap is not None:
            self._gap.wake()

    # --- what the transport calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = typing.cast(asyncio.Transport, transport)
        self._quiet_since_s = time.monotonic()
        self._tally.opens += 1
        self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        tally = self._tally
        tally.received_bytes += len(data)
        if tally.trace is not None:
            tally.trace("<", data)
        if self._gap is not None:
            self._quiet_since_s = time.monotonic()
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._drop(len(data))
            return
        self._input = self._input + data if self._input else data
        answered = False
        try:
            answered = self._look(waiter)
        except Problem as problem:
            waiter.set_exception(problem)
            answered = True
            if isinstance(problem, DeviceProblem) and problem.alive:  # a refusal is an answer
                self._input = b""
        except BaseException as bug:  # a defect of `match`: its caller must hear of it, the transport will as well
            waiter.set_exception(bug)
            raise
        finally:
            if answered or len(self._input) > INPUT_MAX_BYTES:
                self._drop(len(self._input))
                self._input = b""

    def pause_writing(self) -> None:
        # Requests are small and one is in flight: a full write buffer means that nobody takes them.
        self.fail("link-down", f"{self._peer} does not take what is sent")
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f"the connection was lost: {exc}" if exc is not None else "the connection was closed by the peer"
        self.fail("link-down", f"{self._peer}: {reason}", self._closed_hint)
        if self._gap is not None:
            self._gap.close()
        if not self.closed.done():
            self.closed.set_result(None)

    # --- inside ---

    def _begin_gaps(self) -> None:
        """Keep silence from now on, although the line itself needs none: a device wants to be asked slowly."""
        self._gap = GapTimer(self._loop)
        self._quiet_since_s = time.monotonic()

    def _claim(self) -> None:
        if self._failure is not None:
            raise LinkProblem(*self._failure)
        if self._in_use:
            raise RuntimeError(f"{self._peer}: a second request while one is in flight")
        self._in_use = True

    def _release(self) -> None:
        self._in_use = False
        self._waiter = None
        self._match = None
        if self._input:
            self._drop(len(self._input))
            self._input = b""

    def _write(self, request: bytes) -> None:
        if self._failure is not None or self._transport is None:
            raise LinkProblem(*(self._failure or ("link-down", f"{self._peer}: not connected", "")))
        self._transport.write(request)
        self._tally.sent_bytes += len(request)
        if self._tally.trace is not None:
            self._tally.trace(">", request)
        if self._gap is not None:
            self._quiet_since_s = time.monotonic() + len(request) * self._timing.char_s

    def _look(self, waiter: asyncio.Future[typing.Any]) -> bool:
        """Offer the input to `match`; tell whether it found the answer."""
        assert self._match is not None
        while self._input:
            used, answer = self._match(self._input)
            self._input = self._input[used:]
            if answer is not None:
                self._at_ns = self._clock.wall_ns()
                self._mono_ns = self._clock.mono_ns()
                waiter.set_result(answer)
                return True
            if not used:
                return False
            self._drop(used)
        return False

    def _drop(self, count: int) -> None:
        if count:
            now_s = time.monotonic()
            self._tally.dropped_bytes += count
            if self._gap is not None:
                self._late.heard_stray(now_s)
            excused = (now_s - self._babble_at_s) * BABBLE_BYTES_PER_S
            self._babble_bytes = max(0.0, self._babble_bytes - excused) + count
            self._babble_at_s = now_s
            if self._babble_bytes > BABBLE_BYTES:
                self._hang_up()

    def _hang_up(self) -> None:
        """End a connection whose peer sends without end: reading it all would take the time of others."""
        text = f"{self._peer}: closed, because it sends without end what nobody asked for"
        self.fail("link-down", text, "Is this the right port? Something else than the device may listen there.")
        self.abort()

    def _expire(self, timeout_s: float, first: bool) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if first and self._unread():  # the loop was late, not the device: timers run before input is read
            self._deadline = self._loop.call_later(SETTLE_S, self._expire, timeout_s, False)
            return
        self._tally.timeouts += 1
        partial = f"; only {len(self._input)} bytes that are no answer" if self._input else ""
        waiter.set_exception(DeviceProblem("no-reply", f"no answer within {timeout_s:g} s{partial}"))

    def _miss(self, unit: int, reply_bytes: int, timeout_s: float) -> None:
        """Note that the answer to a request that was sent may still come."""
        if self._timing.resync_s > 0:
            now_s = time.monotonic()
            self._settled = False
            self._quiet_since_s = max(self._quiet_since_s, now_s)
            if reply_bytes:
                self._late.missed(unit, reply_bytes, timeout_s, now_s)

    async def _fall_silent(self, unit: int, reply_bytes: int, timeout_s: float, pause_s: float) -> bool:
        """Wait for the silence that the next request needs; tell whether its answer could be a late one.

        Raises:
            DeviceProblem: the line does not fall silent.
        """
        assert self._gap is not None
        begun_s = now_s = time.monotonic()
        quarantine_s = self._late.quarantine_until_s(unit, reply_bytes)
        gap_s = self._timing.gap_s + pause_s
        give_up_s = max(now_s, self._quiet_since_s, quarantine_s) + max(timeout_s, self._timing.resync_s)
        give_up_s += 2 * gap_s
        while self._failure is None:
            silence_s = gap_s if self._settled else max(gap_s, self._timing.resync_s)
            due_s = max(self._quiet_since_s + silence_s, quarantine_s)
            if now_s >= due_s:
                if self._timing.resync_s == 0 or not self._unread():
                    break
                due_s = now_s + SETTLE_S
            if now_s > give_up_s:
                text = f"{self._peer}: the line was not silent for {now_s - begun_s:.1f} s"
                raise DeviceProblem("bad-reply", text, "Something on the line sends without being asked.")
            await self._gap.wait_until(min(due_s, give_up_s + SETTLE_S))
            now_s = time.monotonic()
        self._settled = True
        return self._late.possible(unit, reply_bytes, now_s)

    def _unread(self) -> bool:
        """Tell whether the kernel holds input that the loop has not seen yet."""
        if self._transport is None:
            return False
        wire = self._transport.get_extra_info("socket") or self._transport.get_extra_info("serial")
        try:
            return any(fcntl.ioctl(wire.fileno(), termios.FIONREAD, b"\0\0\0\0"))
        except (OSError, ValueError):  # closed in this instant; the transport is about to tell
            return False


class WireChannel:
    """What channels with one Link share. Implements spi.Channel together with `_connect` of the kind."""

    def __init__(self, channel_id: str, framing: str) -> None:
        self.id = channel_id
        self.framing = framing
        self.tally = Tally()
        self._link: Link | None = None

    @property
    def trace(self) -> Trace | None:
        """Who is shown every byte, or None."""
        return self.tally.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self.tally.trace = trace

    async def open(self) -> Link:
        """Open the wire; what is left of an earlier opening is closed first. See spi.Channel."""
        await self.close()
        self._link = await self._connect()
        return self._link

    def is_open(self) -> bool:
        """Tell whether the wire is open, as far as is known. See spi.Channel."""
        return self._link is not None and self._link.usable

    async def close(self) -> None:
        """Close the wire and wait until it is gone; harmless when it is not open."""
        link, self._link = self._link, None
        if link is not None:
            link.abort()
            await link.closed

    async def _connect(self) -> Link:
        raise NotImplementedError
