"""The small interfaces between parts: ByteLink, Channel, Protocol, Uplink. No policy lives behind any of them.

    poller  --opens-->  Channel  --gives-->  ByteLink  --lent to-->  Protocol.read / Protocol.write
    forward loop  --opens-->  Uplink, sends messages, waits for their acknowledgement

An author of a protocol or an uplink turns bytes into rounds, or messages into bytes, and raises Problems. He never
loops, sleeps, retries, logs or reconnects: the poller and the forward loop do, once, for all.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable
from dataclasses import dataclass

from fluxedge.columns import Value
from fluxedge.model import Group, Lane, Round
from fluxedge.problems import DeviceProblem

T = typing.TypeVar("T")
Match = Callable[[bytes], "tuple[int, T | None]"]
"""Look for an answer in the bytes received so far: (bytes used, answer or None to wait for more).

Called again whenever bytes arrive. Used bytes are dropped. May raise DeviceProblem: the exchange ends with it.
"""


@dataclass(frozen=True, slots=True)
class Reply(typing.Generic[T]):
    """An answer and when its last byte arrived."""

    data: T
    at_ns: int  # UTC
    mono_ns: int  # CLOCK_BOOTTIME
    suspect: bool = False  # a late reply of equal length could have been taken for it


class FlashView(typing.Protocol):
    """What the flash ledger can tell (log/flash.py); None = not known."""

    @property
    def gateway_bytes(self) -> int: ...  # written by the gateway since its start
    @property
    def device_bytes(self) -> int | None: ...  # written to the device since boot
    @property
    def lifetime_bytes(self) -> int | None: ...  # ... since fluxedge knows it
    @property
    def bytes_per_point(self) -> float | None: ...  # the gateway's
    @property
    def bytes_per_day(self) -> float | None: ...  # the gateway's
    @property
    def device_bytes_per_day(self) -> float | None: ...
    @property
    def used_percent(self) -> float | None: ...
    @property
    def life_days(self) -> float | None: ...


class ByteLink(typing.Protocol):
    """An open channel carrying bytes. Opened, closed and timed by the poller, never by a protocol."""

    async def exchange(
        self, request: bytes, match: Match[T], *, timeout_s: float, reply_bytes: int = 0, pause_s: float = 0.0
    ) -> Reply[T]:
        """Drop unread input, keep the obligatory gap, send `request`, return what `match` finds.

        `pause_s` is silence that the device wants before this request, besides the line's own gap.

        `reply_bytes` is the length of a regular answer where the framing cannot tell a late reply from a fresh one
        (RTU); 0 where it can (TCP has transaction ids). After a timeout the next answer of that length is `suspect`.

        Raises:
            DeviceProblem: "no-reply" after `timeout_s`, or what `match` raised.
            LinkProblem: the channel closed.
        """
        ...

    async def send(self, request: bytes, *, pause_s: float = 0.0) -> None:
        """Keep the obligatory gap and `pause_s`, and send without waiting for an answer (broadcasts).

        Raises:
            LinkProblem: the channel closed.
        """
        ...


class Channel(typing.Protocol):
    """One connection, bus or listener; exactly one poller owns it."""

    id: str
    framing: str  # what the URL's scheme says about the bytes: "tcp", "rtu", "rtu-tcp", ... or "" for none

    async def open(self) -> ByteLink:
        """Open the wire.

        Raises:
            LinkProblem: it cannot be opened now; the hint says what is in the way.
        """
        ...

    def is_open(self) -> bool:
        """Tell whether the wire is open, as far as is known: a peer may have closed it while nobody asked."""
        ...

    async def close(self) -> None:
        """Close the wire; harmless when it is not open."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write, as far as it is known."""

    sent: Value  # raw
    read_back: Value | None  # engineering value read after the write; None where it cannot be read
    verified: bool  # the read-back equals what was written, within the point's resolution
    before: Value | None = None  # engineering value before the write


class Protocol(typing.Protocol):
    """One device's knowledge, compiled from its device and driver files. Holds no task, socket or timer."""

    groups: tuple[Group, ...]
    periods_s: dict[str, float]  # group name -> seconds between reads
    timeout_s: float  # how long an answer is awaited; 0 where nobody is asked
    partial: DeviceProblem | None  # of the latest read: why a part of its round is not GOOD

    async def read(self, link: ByteLink, group: Group) -> Round:
        """Read one group.

        Raises:
            DeviceProblem: the device is silent, or its answer cannot be used as a whole.
            LinkProblem: the channel closed.
        """
        ...

    def encode(self, point: str, value: Value) -> Value:
        """Check a command before it is even intended; return the raw value that would be sent.

        Raises:
            ConfigProblem: "command-refused": no such point, not writable, wrong type, out of limits, no exact raw.
        """
        ...

    async def write(self, link: ByteLink, point: str, value: Value) -> Written:
        """Send one value once, then read it back. Never sends twice.

        Raises:
            DeviceProblem: refused by the device, or no answer (then its fate is unknown: code "no-reply").
            LinkProblem: the channel closed; the fate is unknown.
        """
        ...

    async def check_link(self, link: ByteLink, timeout_s: float | None = None) -> None:
        """Ask the cheapest question that proves the device alive, once; `timeout_s` instead of the device's own.

        Raises:
            DeviceProblem: silent.
            LinkProblem: the channel closed.
        """
        ...

    def describe(self) -> list[str]:
        """Return the read plan in plain words, a line per request."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """What an uplink sends: some records of one lane, encoded."""

    epoch: int
    lane: Lane
    lo: int  # first seq
    hi: int  # last seq
    payload: bytes
    content_type: str
    points: int = 0  # for metrics
    oldest_ns: int = 0  # at_ns of the oldest record, for metrics
    historical: bool = False  # it was behind when its session began: not the present state of the site
    durable: bool = True  # False: it is in memory only, because the disk takes nothing


class UplinkCommand(typing.NamedTuple):
    """A command that came down an uplink's connection."""

    payload: bytes
    reply_topic: str
    correlation: bytes
    retained: bool = False  # it was said once and is told to everybody who connects: not to be carried out


class Uplink(typing.Protocol):
    """A northbound connection. The forward loop owns back-off, window, watchdog and the cursor."""

    window: int  # messages that may be unacknowledged; valid after open

    async def open(self) -> None:
        """Connect.

        Raises:
            LinkProblem: not now.
        """
        ...

    def send(self, message: Message) -> asyncio.Future[None]:
        """Send one message; the future is done when the peer acknowledged it.

        Raises (through the future):
            LinkProblem: the connection is gone, or the peer refuses for now; the message stays to be sent.
            Refused: the peer will never take these records.
        """
        ...

    async def wait_closed(self) -> None:
        """Return when the connection is gone.

        Raises:
            LinkProblem: with the reason, where one is known.
        """
        ...

    async def close(self) -> None:
        """Say goodbye within a moment; harmless when it is not open."""
        ...


Spawn = Callable[[typing.Coroutine[typing.Any, typing.Any, typing.Any], str], "asyncio.Task[typing.Any]"]
"""Start a named task under an owner that awaits or cancels it (tasks.TaskOwner.spawn)."""
