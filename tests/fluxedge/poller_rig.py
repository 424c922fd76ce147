"""A poller with a scripted channel and scripted devices, on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import typing
from collections.abc import AsyncIterator, Callable

from fluxedge.columns import Value
from fluxedge.model import Group, Point, Quality, Round
from fluxedge.poller import Poller
from fluxedge.problems import DeviceProblem, ProblemBook
from fluxedge.schedule import DeviceState
from fluxedge.spi import ByteLink, Written
from tests.fluxedge.virtual import VirtualClock


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(reached: Callable[[], bool]) -> None:
    """Wait in steps of 10 ms."""
    for _ in range(100_000):
        if reached():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not reached in 1000 s")


def gaps(times: list[float]) -> list[float]:
    """Return the spacing of instants."""
    return [round(b - a, 6) for a, b in itertools.pairwise(times)]


def silence() -> DeviceProblem:
    return DeviceProblem("no-reply", "no answer")


class FakeChannel:
    id = "line"
    framing = "rtu"

    def __init__(self) -> None:
        self.problem: Exception | None = None  # what opening raises
        self.opening_s = 0.0
        self.opens: list[float] = []
        self.link: object | None = None

    async def open(self) -> ByteLink:
        self.opens.append(now())
        await asyncio.sleep(self.opening_s)
        if self.problem is not None:
            raise self.problem
        self.link = object()
        return typing.cast(ByteLink, self.link)

    def is_open(self) -> bool:
        return self.link is not None

    async def close(self) -> None:
        self.link = None


class FakeProtocol:
    """A device that answers after `cost_s`; `fault` says what reads, probes and writes raise."""

    def __init__(self, name: str, cost_s: float = 0.01, timeout_s: float = 1.0, **periods_s: float) -> None:
        periods_s = periods_s or {"main": 1.0}
        self.groups = tuple(Group(name, group, (Point(f"{group}-p", "H"), Point("q", "H"))) for group in periods_s)
        self.periods_s = periods_s
        self.timeout_s = timeout_s
        self.cost_s = cost_s
        self.partial: DeviceProblem | None = None
        self.fault: Callable[[], BaseException | None] = lambda: None
        self.write_fault: BaseException | None = None
        self.returns: object = None
        self.reads: list[float] = []  # when they began
        self.probes: list[tuple[float, float | None]] = []  # when, time-out
        self.writes: list[tuple[float, str, Value]] = []
        self.under_way = 0

    @contextlib.asynccontextmanager
    async def _exchange(self, timeout_s: float, fault: BaseException | None = None) -> AsyncIterator[None]:
        self.under_way += 1
        try:
            fault = fault or self.fault()
            await asyncio.sleep(timeout_s if isinstance(fault, DeviceProblem) and not fault.alive else self.cost_s)
            if fault is not None:
                raise fault
            yield
        finally:
            self.under_way -= 1

    async def read(self, link: ByteLink, group: Group) -> Round:
        self.reads.append(now())
        async with self._exchange(self.timeout_s):
            return self.returns or group.round((1, 2), 5, 6)  # type: ignore[return-value]
        raise AssertionError

    def encode(self, point: str, value: Value) -> Value:
        return value

    async def write(self, link: ByteLink, point: str, value: Value) -> Written:
        self.writes.append((now(), point, value))
        async with self._exchange(self.timeout_s, self.write_fault):
            return Written(value, value, True)
        raise AssertionError

    async def check_link(self, link: ByteLink, timeout_s: float | None = None) -> None:
        self.probes.append((now(), timeout_s))
        async with self._exchange(self.timeout_s if timeout_s is None else timeout_s):
            pass

    def describe(self) -> list[str]:
        return []


class Rig:
    """What a poller is given, and what it said."""

    def __init__(self, channel: FakeChannel | None) -> None:
        self.clock = VirtualClock()
        self.problems = ProblemBook(self.clock.wall_ns)
        self.changes: list[tuple[str, str, str]] = []  # raised or cleared, item, code
        self.problems.listeners.append(lambda change, item, s: self.changes.append((change, item, s.code)))
        self.rounds: list[tuple[float, Round]] = []
        self.events: list[tuple[str, str, dict[str, typing.Any]]] = []
        self.room = asyncio.Event()
        self.room.set()
        self.channel = channel
        self.poller = Poller("line", channel, self._emit, self._tell, self.problems, self.clock, random.Random(1))

    async def _emit(self, channel: str, round_: Round) -> None:
        assert channel == "line"
        await self.room.wait()
        self.rounds.append((now(), round_))

    def _tell(self, kind: str, item: str, data: dict[str, typing.Any]) -> None:
        self.events.append((kind, item, data))

    def device(self, name: str) -> DeviceState:
        return self.poller.devices[name]

    def qualities(self, device: str) -> list[Quality]:
        found = [round_ for _, round_ in self.rounds if round_.group.device == device]
        return [Quality(round_.quality[0]) if round_.quality else Quality.GOOD for round_ in found]

    def states(self, item: str) -> list[str]:
        return [data["state"] for _, of, data in self.events if of == item]

    def codes(self, item: str) -> list[str]:
        return [standing.code for standing in self.problems.of(item)]

    def order(
        self, device: str, value: Value = 1, *, in_s: float = 10.0, patient: bool = False
    ) -> asyncio.Future[Written]:
        return self.poller.order(device, "main-p", value, now() + in_s, patient=patient)


@contextlib.asynccontextmanager
async def rig(channel: FakeChannel | None = None, **devices: FakeProtocol) -> AsyncIterator[Rig]:
    """Run a poller with these devices; afterwards its channel is closed and nobody is in an exchange."""
    made = Rig(channel)
    made.poller.set_devices(dict(devices))  # type: ignore[arg-type]
    task = asyncio.get_running_loop().create_task(made.poller.run(), name="poller")
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        assert channel is None or channel.link is None
        assert not any(device.under_way for device in devices.values())
