"""The poller: one coroutine per channel. It opens the link, picks what is due, runs commands, delivers rounds.

    commands (own queue)  before  the group with the earliest due time  before  probes of silent devices

Protocols raise, the poller decides: a silent device is demoted on its own, an exception makes its points BAD, an I/O
error closes the channel and reopens it with back-off. Each group's round is delivered as soon as it is read.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import typing
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fluxedge.clock import Clock
from fluxedge.columns import Value
from fluxedge.model import Flag, Group, Quality, Round
from fluxedge.problems import DeviceProblem, LinkProblem, Problem, ProblemBook
from fluxedge.spi import ByteLink, Channel, Protocol, Written

REOPEN_FIRST_S = 0.5
REOPEN_MOST_S = 30.0
DEMOTION_MOST = 32  # a silent device's interval is doubled per silent round up to this factor
SPREAD_S = 0.5  # first reads are spread over this time, so that a thousand channels do not poll in step
QUEUED_COMMANDS = 100
TIMER_S = 0.001  # uvloop's timers and clock count whole milliseconds: a timer that fires early is a read that is due

_UNSYNCED = int(Flag.CLOCK_UNSYNCED)
_log = logging.getLogger("fluxedge.poller")

Emit = Callable[[str, Round], Awaitable[None]]
Tell = Callable[[str, str, dict[str, typing.Any]], object]  # (event kind, item, data)


@dataclass(slots=True)
class DeviceState:
    """What is known about a device while it runs; `status` and metrics show it."""

    id: str
    protocol: Protocol
    state: str = "waiting"  # "waiting" | "ok" | "offline"
    since_ns: int = 0
    silent_rounds: int = 0
    last_answer_ns: int = 0
    latency_s: float = 0.0  # of the latest read of a group
    reads: int = 0
    silent: int = 0  # reads without an answer
    exceptions: int = 0  # reads answered by an exception
    overruns: int = 0  # periods that passed unread

    @property
    def item(self) -> str:
        """Return its name among the problems."""
        return f"device:{self.id}"


@dataclass(slots=True)
class ChannelState:
    """What is known about a channel while it runs."""

    id: str
    state: str = "closed"  # "closed" | "open"
    since_ns: int = 0
    opens: int = 0
    busy_s: float = 0.0  # time spent in exchanges


@dataclass(order=True, slots=True)
class Due:
    """A group that wants to be read."""

    at_s: float
    order: int
    device: DeviceState = field(compare=False)
    group: Group = field(compare=False)
    period_s: float = field(compare=False)


@dataclass(slots=True)
class WriteOrder:
    """A command on its way to the wire."""

    device: str
    point: str
    value: Value
    deadline_s: float  # loop time; expired orders die
    done: asyncio.Future[Written]


def unsynced(read: Round) -> Round:
    """Return a round marked as stamped by a clock that is not trusted. (dataclasses.replace takes four times as long.)"""
    flags = read.flags | _UNSYNCED
    return Round(read.group, read.raws, read.values, read.quality, read.at_ns, read.arrived_mono_ns, flags)


class Poller:
    """Own one channel and the devices on it."""

    def __init__(
        self,
        channel_id: str,
        channel: Channel | None,
        emit: Emit,
        tell: Tell,
        problems: ProblemBook,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.id = channel_id
        self.channel = channel  # None for protocols that need none
        self.state = ChannelState(channel_id)
        self.devices: dict[str, DeviceState] = {}
        self._item = f"channel:{channel_id}"
        self._emit = emit
        self._tell = tell
        self._problems = problems
        self._clock = clock
        self._rng = rng
        self._due: list[Due] = []
        self._orders: deque[WriteOrder] = deque()
        self._news = asyncio.Event()
        self._counter = 0
        self._link: ByteLink | None = None
        self._swap: dict[str, Protocol] | None = None

    # --- what others ask of it ----------------------------------------------------------------------------------------

    def set_devices(self, devices: dict[str, Protocol]) -> None:
        """Replace the set of devices between two transactions; devices whose protocol is the same object go on."""
        self._swap = devices
        self._news.set()

    def order(self, device: str, point: str, value: Value, timeout_s: float) -> asyncio.Future[Written]:
        """Queue a write before the polls.

        Raises (through the future): DeviceProblem, LinkProblem; Problem "command-refused" when it never was sent.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Written] = loop.create_future()
        state = self.devices.get(device)
        if state is None:
            done.set_exception(Problem("command-refused", f"device-removed: {device} is not on channel {self.id}"))
        elif state.state == "offline":
            done.set_exception(Problem("command-refused", f"{device} is offline", "See `fluxedge status`."))
        elif len(self._orders) >= QUEUED_COMMANDS:
            done.set_exception(Problem("command-refused", f"channel {self.id} has {QUEUED_COMMANDS} commands waiting"))
        else:
            self._orders.append(WriteOrder(device, point, value, loop.time() + timeout_s, done))
            self._news.set()
        return done

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until cancelled."""
        reopen_s = REOPEN_FIRST_S
        try:
            while True:
                self._swap_devices()
                if self.channel is not None and self._link is None:
                    if not await self._open():
                        await self._wait(asyncio.get_running_loop().time() + reopen_s)
                        reopen_s = min(REOPEN_MOST_S, reopen_s * 2) * self._rng.uniform(0.8, 1.0)
                        continue
                    reopen_s = REOPEN_FIRST_S
                try:
                    await self._turn()
                except LinkProblem as problem:
                    await self._lost(problem)
        finally:
            self._refuse_orders("the gateway stops")
            if self.channel is not None:
                await self.channel.close()

    async def _turn(self) -> None:
        """Run one command, or one due read, or wait for either."""
        loop = asyncio.get_running_loop()
        if self._orders:
            await self._write(self._orders.popleft())
            return
        if self._due and self._due[0].at_s <= loop.time() + TIMER_S:
            await self._read(heapq.heappop(self._due))
            return
        await self._wait(self._due[0].at_s if self._due else loop.time() + 3600)

    async def _wait(self, until_s: float) -> None:
        """Wait for a time, a command or another set of devices."""
        handle = asyncio.get_running_loop().call_at(until_s, self._news.set)
        try:
            await self._news.wait()
        finally:
            handle.cancel()
            self._news.clear()

    # --- the link -----------------------------------------------------------------------------------------------------

    async def _open(self) -> bool:
        assert self.channel is not None
        try:
            self._link = await self.channel.open()
        except LinkProblem as problem:
            await self._lost(problem)
            return False
        self.state.state, self.state.since_ns = "open", self._clock.wall_ns()
        self.state.opens += 1
        if self._problems.of(self._item):
            self._problems.clear(self._item)
            self._tell("channel-state", self._item, {"state": "open"})
        return True

    async def _lost(self, problem: LinkProblem) -> None:
        """Close the channel; every device on it is OFFLINE."""
        if self.channel is not None:
            await self.channel.close()
        self._link = None
        self.state.state, self.state.since_ns = "closed", self._clock.wall_ns()
        if not self._problems.of(self._item):
            self._tell(
                "channel-state", self._item, {"state": "closed", "code": problem.code, "message": problem.message}
            )
        self._problems.report(self._item, problem)
        self._refuse_orders(f"channel {self.id} is down")
        for device in self.devices.values():
            await self._silent(device, problem.code)

    def _refuse_orders(self, why: str) -> None:
        while self._orders:
            order = self._orders.popleft()
            if not order.done.done():
                order.done.set_exception(Problem("command-refused", why))

    # --- devices ------------------------------------------------------------------------------------------------------

    def _swap_devices(self) -> None:
        if self._swap is None:
            return
        wanted, self._swap = self._swap, None
        now_s = asyncio.get_running_loop().time()
        gone = {name for name, device in self.devices.items() if wanted.get(name) is not device.protocol}
        self._due = [due for due in self._due if due.device.id not in gone]
        for name in gone:
            del self.devices[name]
        for name, protocol in wanted.items():
            if name in self.devices:
                continue
            device = self.devices[name] = DeviceState(name, protocol, since_ns=self._clock.wall_ns())
            for group in protocol.groups:
                period_s = protocol.periods_s[group.name]
                at_s = now_s + self._rng.uniform(0, min(SPREAD_S, period_s / 2))
                self._due.append(Due(at_s, self._next_order(), device, group, period_s))
        heapq.heapify(self._due)
        kept = deque(order for order in self._orders if order.device in self.devices)
        for order in set(map(id, self._orders)) - set(map(id, kept)):
            for lost in self._orders:
                if id(lost) == order and not lost.done.done():
                    lost.done.set_exception(Problem("command-refused", f"device-removed: {lost.device}"))
        self._orders = kept

    def _next_order(self) -> int:
        self._counter += 1
        return self._counter

    async def _read(self, due: Due) -> None:
        """Read one group, deliver its round, plan its next read."""
        loop = asyncio.get_running_loop()
        device = due.device
        began_s = loop.time()
        device.reads += 1
        try:
            round_ = await device.protocol.read(typing.cast(ByteLink, self._link), due.group)
        except DeviceProblem as problem:
            await self._failed(device, due.group, problem)
        except LinkProblem:
            due.at_s = loop.time()
            heapq.heappush(self._due, due)
            raise
        except Exception as defect:  # one device's bug must not stop its channel
            _log.exception("reading %s/%s", device.id, due.group.name)
            await self._failed(device, due.group, DeviceProblem("bug", f"{due.group.name}: {defect!r}", alive=True))
        else:
            device.latency_s = loop.time() - began_s
            self._answered(device)
            partial = getattr(device.protocol, "partial", None)
            if partial is not None:
                self._problems.report(device.item, partial)
            elif self._problems.of(device.item):
                self._problems.clear(device.item)
            if not self._clock.trusted():
                round_ = unsynced(round_)
            await self._emit(self.id, round_)
        self.state.busy_s += loop.time() - began_s
        self._plan_next(due, loop.time())

    def _plan_next(self, due: Due, now_s: float) -> None:
        """Keep the rhythm; skip periods that have passed; stretch the interval of a silent device."""
        factor = min(DEMOTION_MOST, 2 ** min(due.device.silent_rounds, 5))
        due.at_s += due.period_s * factor
        if due.at_s < now_s:
            missed = int((now_s - due.at_s) / due.period_s) + 1
            due.device.overruns += missed
            due.at_s += missed * due.period_s
        due.order = self._next_order()
        heapq.heappush(self._due, due)

    def _answered(self, device: DeviceState) -> None:
        device.silent_rounds = 0
        device.last_answer_ns = self._clock.wall_ns()
        if device.state != "ok":
            if device.state == "offline":
                self._tell("device-state", device.item, {"state": "ok"})
            device.state, device.since_ns = "ok", self._clock.wall_ns()

    async def _failed(self, device: DeviceState, group: Group, problem: DeviceProblem) -> None:
        self._problems.report(device.item, problem)
        if problem.alive:
            device.exceptions += 1
            self._answered(device)
            await self._emit(self.id, self._empty(group, Quality.BAD))
            return
        device.silent += 1
        device.silent_rounds += 1
        await self._silent(device, problem.code)

    async def _silent(self, device: DeviceState, code: str) -> None:
        """Say once that a device is OFFLINE: an event, and a round without values for each of its groups."""
        if device.state == "offline":
            return
        device.state, device.since_ns = "offline", self._clock.wall_ns()
        self._tell("device-state", device.item, {"state": "offline", "code": code})
        for group in device.protocol.groups:
            await self._emit(self.id, self._empty(group, Quality.OFFLINE))

    def _empty(self, group: Group, quality: Quality) -> Round:
        flags = 0 if self._clock.trusted() else int(Flag.CLOCK_UNSYNCED)
        return group.silent_round(quality, self._clock.wall_ns(), self._clock.mono_ns(), flags)

    async def _write(self, order: WriteOrder) -> None:
        loop = asyncio.get_running_loop()
        if order.done.done():
            return
        if loop.time() > order.deadline_s:
            order.done.set_exception(Problem("command-refused", "expired before it could be sent"))
            return
        device = self.devices[order.device]
        began_s = loop.time()
        try:
            written = await device.protocol.write(typing.cast(ByteLink, self._link), order.point, order.value)
        except LinkProblem as problem:
            order.done.set_exception(problem)
            raise
        except Problem as problem:
            order.done.set_exception(problem)
        except Exception as defect:  # one device's bug must not stop its channel
            _log.exception("writing %s.%s", order.device, order.point)
            order.done.set_exception(Problem("bug", repr(defect)))
        else:
            if not order.done.done():
                order.done.set_result(written)
            self._poll_soon(device, order.point)
        self.state.busy_s += loop.time() - began_s

    def _poll_soon(self, device: DeviceState, point: str) -> None:
        """Read the group of a written point early, so that the new value shows."""
        for due in self._due:
            if due.device is device and point in due.group.names:
                due.at_s = asyncio.get_running_loop().time()
        heapq.heapify(self._due)
