"""The poller: one coroutine per channel. It opens the link, runs commands, reads what is due, delivers rounds.

    commands (own queue)  before  the group with the earliest due time  before  probes of silent devices

Commands do not starve the rest: after a few in a row, a read that is late by more than its period has its turn.

Protocols raise, the poller decides: a silent device is demoted on its own, an exception makes its points BAD, an I/O
error closes the channel and reopens it with back-off. Each group's round is delivered as soon as it is read. When
something is due stands in schedule.py, what an answer means for its device in verdicts.py.
"""

from __future__ import annotations

import asyncio
import random
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fluxedge.clock import Clock
from fluxedge.columns import Value
from fluxedge.model import Quality, Round
from fluxedge.orders import QUEUED_COMMANDS, Orders, WriteOrder, refused
from fluxedge.problems import DeviceProblem, LinkProblem, Problem, ProblemBook
from fluxedge.schedule import DeviceState, Due, Overruns, Probe, Schedule
from fluxedge.spi import ByteLink, Channel, Protocol, Written
from fluxedge.verdicts import Tell, Verdicts

REOPEN_FIRST_S = 0.5
REOPEN_MOST_S = 30.0
REOPEN_JITTER = (0.5, 1.0)  # share of the pause: a thousand channels must not come back in step
SPREAD_S = 0.5  # first reads are spread over this time, so that a thousand channels do not poll in step
COMMANDS_IN_A_ROW = 3  # then one overdue read has its turn: a quarter of the line at least is left to reading

T = typing.TypeVar("T")
Emit = Callable[[str, Round], Awaitable[None]]


@dataclass(slots=True)
class ChannelState:
    """What is known about a channel while it runs."""

    id: str
    state: str = "closed"  # "closed" | "open"
    since_ns: int = 0  # CLOCK_BOOTTIME
    opens: int = 0
    busy_s: float = 0.0  # time spent in exchanges


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
        self._verdicts = Verdicts(tell, problems, clock)
        self._schedule = Schedule()
        self._overruns = Overruns()
        self._orders = Orders()
        self._in_a_row = 0  # commands since the last read, probe or pause
        self._news = asyncio.Event()
        self._link: ByteLink | None = None
        self._down = ""  # code of the problem that stands while the channel is down
        self._proved = False  # something was answered since the channel was opened
        self._failures = 0  # of the channel in a row
        self._reopen_at_s = 0.0
        self._swap: dict[str, Protocol] | None = None
        self._probing: asyncio.Timeout | None = None  # the wait for a silent device; a command ends it
        self._ended = False

    # --- what others ask of it ----------------------------------------------------------------------------------------

    def set_devices(self, devices: dict[str, Protocol]) -> None:
        """Replace the set of devices between two transactions; devices whose protocol is the same object go on."""
        self._swap = devices
        self._news.set()

    def refusal(self, device: str, *, patient: bool = False) -> Problem | None:
        """Return why a command to a device cannot be queued now; `patient` ones wait for an offline device."""
        state = self.devices.get(device)
        wanted = self._swap if self._swap is not None else self.devices
        if self._ended or device not in wanted:
            return refused(f"device-removed: {device} is not on channel {self.id}")
        if state is not None and state.state == "offline" and not patient:
            return refused(f"{device} is offline", "See `fluxedge status`.")
        if self._orders.full:
            return refused(f"channel {self.id} has {QUEUED_COMMANDS} commands waiting")
        return None

    def order(
        self, device: str, point: str, value: Value, deadline_s: float, *, patient: bool = False
    ) -> asyncio.Future[Written]:
        """Queue a write before the polls; it dies at `deadline_s` of the loop's time unless it was begun.

        Raises (through the future): what Protocol.write raises; Problem "command-refused" when it never was sent,
        "command-unknown" when it was interrupted.
        """
        loop = asyncio.get_running_loop()
        order = WriteOrder(device, point, value, patient, loop.create_future())
        problem = self.refusal(device, patient=patient)
        if problem is not None:
            order.fail(problem)
            return order.done
        self._orders.add(order, deadline_s)
        self._news.set()
        if self._probing is not None and self._can_go(device):
            self._probing.reschedule(loop.time())
            self._probing = None  # it ends once
        return order.done

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                self.swap_devices()
                if self.channel is not None and not await self._ready(self.channel):
                    continue
                try:
                    await self._turn()
                except LinkProblem as problem:
                    await self._lost(problem)
        finally:
            self._ended = True
            self._orders.refuse(f"channel {self.id} was stopped", lambda _: True)
            if self.channel is not None:
                await self.channel.close()

    async def _turn(self) -> None:
        """Run one command, or one due read, or one probe, or wait for any of them."""
        now_s = asyncio.get_running_loop().time()
        found = None
        if self._orders:
            if self._in_a_row >= COMMANDS_IN_A_ROW:
                found = self._schedule.overdue(now_s)
            if found is None and (order := self._orders.take(self._can_go)) is not None:
                self._in_a_row += 1
                await self._write(order)
                return
        self._in_a_row = 0
        hurried = found is not None
        found = found or self._schedule.pick(now_s)
        if isinstance(found, Due):
            await self._read(found)
        elif found is not None:
            await self._probe(found, hurried=hurried)
        else:
            await self._wait(self._schedule.wake_s(now_s))

    async def _wait(self, until_s: float) -> None:
        """Wait for a time, a command or another set of devices."""
        loop = asyncio.get_running_loop()
        handle = loop.call_at(min(until_s, loop.time() + 3600), self._news.set)
        try:
            await self._news.wait()
        finally:
            handle.cancel()
            self._news.clear()

    # --- the link -----------------------------------------------------------------------------------------------------

    async def _ready(self, channel: Channel) -> bool:
        """Tell whether the channel is open; open it when its time has come."""
        if self._link is not None:
            if channel.is_open():
                return True
            # Closed while nobody asked: many devices end idle connections. Opening it again at once is no outage,
            # unless it is closed over and over without an answer in between.
            if not self._proved:
                await self._lost(LinkProblem("link-down", f"channel {self.id} was closed by its peer"))
                return False
            self._link = None
        now_s = asyncio.get_running_loop().time()
        if now_s < self._reopen_at_s:
            await self._wait(self._reopen_at_s)
            return False
        try:
            self._link = await channel.open()
        except LinkProblem as problem:
            await self._lost(problem)
            return False
        except Exception as defect:  # one channel's bug must not end the daemon
            await self._lost(LinkProblem("bug", f"it cannot be opened: {defect!r}", "Please report it."))
            return False
        self._opened()
        return True

    def _opened(self) -> None:
        self._proved = False
        self.state.opens += 1
        if self.state.state != "open":
            self.state.state, self.state.since_ns = "open", self._clock.mono_ns()
        if self._down:
            self._problems.clear(self._item, self._down)
            self._down = ""
            self._tell("channel-state", self._item, {"state": "open"})
            self._schedule.resume(asyncio.get_running_loop().time())

    async def _lost(self, problem: LinkProblem) -> None:
        """Close the channel; every device on it is OFFLINE; open it again after a pause that grows."""
        if self.channel is not None:
            await self.channel.close()
        self._link = None
        self._failures = 1 if self._proved else self._failures + 1
        self._proved = False
        pause_s = min(REOPEN_MOST_S, REOPEN_FIRST_S * 2 ** min(self._failures - 1, 10))
        self._reopen_at_s = asyncio.get_running_loop().time() + pause_s * self._rng.uniform(*REOPEN_JITTER)
        if self.state.state != "closed" or not self.state.since_ns:
            self.state.state, self.state.since_ns = "closed", self._clock.mono_ns()
        if not self._down:
            data = {"state": "closed", "code": problem.code, "message": problem.message}
            self._tell("channel-state", self._item, data)
        elif self._down != problem.code:
            self._problems.clear(self._item, self._down)
        self._down = problem.code
        self._problems.report(self._item, problem)
        self._orders.refuse(f"channel {self.id} is down", lambda order: not order.patient)
        for device in self.devices.values():
            await self._offline(device, problem.code)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _can_go(self, device: str) -> bool:
        """Tell whether a command to a device may be sent; one that the next swap brings has to wait for it."""
        state = self.devices.get(device)
        return state is not None and state.state != "offline"

    async def _write(self, order: WriteOrder) -> None:
        device = self.devices[order.device]
        began_ns = self._clock.mono_ns()
        try:
            written = await self._guard(device.protocol.write(self._lent(), order.point, order.value))
        except LinkProblem as problem:
            order.fail(problem)
            raise
        except Problem as problem:
            order.fail(problem)
            self._proved = self._proved or (isinstance(problem, DeviceProblem) and problem.alive)
        else:
            self._proved = True
            if not order.done.done():
                order.done.set_result(written)
        finally:
            order.fail(Problem("command-unknown", "it was interrupted; whether it was executed is not known"))
            self._spend(began_ns)
            self._overruns.commands += 1
        self._schedule.soon(device, order.point, asyncio.get_running_loop().time())

    # --- devices ------------------------------------------------------------------------------------------------------

    def swap_devices(self) -> None:
        """Carry out `set_devices`; between transactions, or when the task is over."""
        if self._swap is None:
            return
        wanted, self._swap = self._swap, None
        gone = {name for name, device in self.devices.items() if wanted.get(name) is not device.protocol}
        self._schedule.remove(gone)
        self._orders.refuse(
            "device-removed: its configuration changed", lambda o: o.device in gone or o.device not in wanted
        )
        for name in gone:
            self._verdicts.forget(self.devices.pop(name))
        now_s = asyncio.get_running_loop().time()
        for name, protocol in wanted.items():
            if name not in self.devices:
                self.devices[name] = DeviceState(name, protocol, since_ns=self._clock.mono_ns())
                self._schedule.add(self.devices[name], now_s, lambda s: self._rng.uniform(0, min(SPREAD_S, s / 2)))

    def _lent(self) -> ByteLink:
        return typing.cast(ByteLink, self._link)  # None goes to protocols without a channel only

    async def _guard(self, work: Awaitable[T]) -> T:
        """Await what a protocol does; its defect costs its device a problem "bug", never the channel."""
        try:
            return await work
        except Problem:
            raise
        except Exception as defect:
            bug = DeviceProblem("bug", repr(defect), "Please report it; `journalctl -u fluxedge` has more.", alive=True)
            raise bug from defect

    def _spend(self, began_ns: int) -> float:
        """Count the time of an exchange; return it. The loop's time counts whole milliseconds under uvloop."""
        took_s = (self._clock.mono_ns() - began_ns) / 10**9
        self.state.busy_s += took_s
        return took_s

    async def _read(self, due: Due) -> None:
        """Read one group, plan its next read, deliver its round."""
        device, group = due.device, due.group
        began_ns = self._clock.mono_ns()
        device.reads += 1
        try:
            read = await self._guard(device.protocol.read(self._lent(), group))
            if not isinstance(read, Round) or read.group is not group:
                raise DeviceProblem("bug", f"{group.name} was asked for, {read!r:.100} returned", alive=True)
        except DeviceProblem as problem:
            self._spend(began_ns)
            if not problem.alive:
                await self._silence(device, problem)
                return
            self._proved = self._proved or problem.code != "bug"
            self._verdicts.refused(device, group, problem)
            read = self._verdicts.empty_round(group, Quality.BAD)
        else:
            device.latency_s = self._spend(began_ns)
            self._proved = True
            self._verdicts.read(device, group, device.protocol.partial)
            read = self._verdicts.stamped(read)
        now_s = asyncio.get_running_loop().time()
        missed = self._schedule.done(due, now_s)
        device.overruns += missed
        self._judge_rhythm(missed, now_s)
        await self._emit(self.id, read)

    async def _probe(self, probe: Probe, *, hurried: bool) -> None:
        """Ask a silent device whether it is back; a command ends the wait, unless it is `hurried`, which is short."""
        loop = asyncio.get_running_loop()
        device = probe.device
        began_ns = self._clock.mono_ns()
        try:
            async with asyncio.timeout(None) as wait:
                self._probing = None if hurried else wait
                timeout_s = device.quick_timeout_s if hurried else device.probe_timeout_s
                await self._guard(device.protocol.check_link(self._lent(), timeout_s))
        except TimeoutError:  # a command is waiting; the probe is due again
            return
        except DeviceProblem as problem:
            if not problem.alive:
                self._schedule.note_probe(loop.time())
                device.probes += 1
                await self._silence(device, problem)
                return
        finally:
            self._probing = None
            self._spend(began_ns)
        self._schedule.note_probe(loop.time())
        self._schedule.restore(device, loop.time())

    def _judge_rhythm(self, missed: int, now_s: float) -> None:
        found = self._overruns.note(missed, now_s)
        if found:
            hint = "Read less often, send fewer commands, raise the baud rate, or split the line."
            self._problems.report(self._item, Problem("overrun", f"channel {self.id}: {found}", hint))
        elif found == "":
            self._problems.clear(self._item, "overrun")

    async def _silence(self, device: DeviceState, problem: DeviceProblem) -> None:
        """Take in that a device did not answer: it is OFFLINE, and asked less often."""
        self._verdicts.silent(device, problem)
        self._schedule.park(device, asyncio.get_running_loop().time())
        await self._offline(device, problem.code)

    async def _offline(self, device: DeviceState, code: str) -> None:
        """Once per silence: refuse its commands, and deliver a round without values for each of its groups."""
        if not self._verdicts.offline(device, code):
            return
        self._orders.refuse(f"{device.id} is offline", lambda o: o.device == device.id and not o.patient)
        for group in device.protocol.groups:
            await self._emit(self.id, self._verdicts.empty_round(group, Quality.OFFLINE))
