"""Reading a Modbus device without a daemon: one connection, one read of everything asked for, and what it looked like.

driver file, or --at/--type  ->  DriverCfg  ->  the gateway's own protocol  ->  values, raws, words on the wire
"""

from __future__ import annotations

import struct
import time
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from fluxedge.apply import build, findings, made_of
from fluxedge.channels import open_channel
from fluxedge.cli.connect import with_advice
from fluxedge.cli.driver_files import alone
from fluxedge.clock import SystemClock
from fluxedge.columns import Value
from fluxedge.config.mistakes import path_text, unknown
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import (
    ChannelCfg,
    DeviceCfg,
    DriverCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    ModbusType,
    PointOverrideCfg,
)
from fluxedge.config.urls import parse_channel_url
from fluxedge.model import Group, Point, Quality, Round
from fluxedge.problems import ConfigProblem, DeviceProblem, Problem
from fluxedge.protocols.modbus.address import Address, Area, parse
from fluxedge.protocols.modbus.compile import compile_device
from fluxedge.protocols.modbus.plan import Span
from fluxedge.spi import ByteLink, Match, Protocol, Reply

T = typing.TypeVar("T")
Trace = Callable[[float, str, bytes], None]  # (seconds since the start, ">" sent | "<" received, bytes)

_AREAS = {area.function: area for area in Area}


@dataclass(frozen=True, slots=True)
class Seen:
    """One point as it was read."""

    point: Point
    value: Value | None
    raw: Value | None
    quality: Quality
    words: str  # registers as on the wire, in hexadecimal; a coil or an input as 0 or 1; empty: not answered


@dataclass(slots=True)
class Outcome:
    """What one read brought."""

    seen: list[Seen] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    opened_s: float = 0.0  # how long opening the wire took
    elapsed_s: float = 0.0  # opening and reading


def points_at(
    at: str, type_: str, *, order: str = "", count: int = 1, length: int | None = None, scale: float = 1.0
) -> DriverCfg:
    """Return a driver of `count` equal points that lie one behind the other from the address `at` on.

    Raises:
        ConfigProblem: "config-invalid": no such address, or the type does not fit.
    """
    kinds = typing.get_args(ModbusType)
    if type_ and type_ not in kinds:
        raise ConfigProblem("config-invalid", f"--type: {unknown('type', type_, kinds)}")
    kind: typing.Any = type_ or msgspec.UNSET

    def driver_of(addresses: Iterable[str]) -> DriverCfg:
        points = {
            text: ModbusPointCfg(at=text, type=kind, order=order, length=length, scale=scale) for text in addresses
        }
        return DriverCfg(
            id="at", name="given by address", protocol="modbus", source="the command line", options=ModbusOptionsCfg(),
            points=typing.cast("dict[str, typing.Any]", points),
        )  # fmt: skip

    driver = driver_of([at])
    compiled = compile_device("at", DeviceCfg(driver="at", unit=1), driver, framing="tcp")
    if compiled.findings:
        first = compiled.findings[0]
        raise ConfigProblem("config-invalid", f"--{first.path[-1]}: {first.message}", first.hint)
    step = compiled.points[at].layout.span.count
    return driver_of(_following(at, parse(at), step, count))


def _following(text: str, first: Address, step: int, count: int) -> list[str]:
    found = []
    for i in range(count):
        number, bit = first.number + i * step, first.bit
        if bit is not None:
            number, bit = first.number + (bit + i) // 16, (bit + i) % 16
        place = f"{first.area.prefix}:{number}" if ":" in text else first.area.reference(number)
        found.append(place if bit is None else f"{place}.{bit}")
    return [text, *found[1:]]


def device_of(driver: DriverCfg, unit: int | None, points: Sequence[str]) -> DeviceCfg:
    """Return a device that reads `points` only; all when none are given.

    Raises:
        ConfigProblem: "config-invalid": the driver has no such point.
    """
    for name in points:
        if name not in driver.points:
            raise ConfigProblem("config-invalid", unknown("point", name, driver.points))
    dropped = {name: PointOverrideCfg(drop=True) for name in driver.points if points and name not in points}
    return DeviceCfg(driver=driver.id, unit=unit, points=dropped)


class _Recorder:
    """A link that keeps what was answered, register by register."""

    def __init__(self, link: ByteLink, framing: str) -> None:
        self._words: dict[tuple[Area, int], int] = {}  # register, or bit as 0 and 1
        self._link = link
        self._header = 7 if framing == "tcp" else 1  # bytes before the function: MBAP, or the unit

    async def exchange(
        self, request: bytes, match: Match[T], *, timeout_s: float, reply_bytes: int = 0, pause_s: float = 0.0
    ) -> Reply[T]:
        reply = await self._link.exchange(request, match, timeout_s=timeout_s, reply_bytes=reply_bytes, pause_s=pause_s)
        function, start, count = struct.unpack_from(">BHH", request, self._header)
        if function in _AREAS and isinstance(reply.data, bytes):
            self._keep(_AREAS[function], start, count, reply.data)
        return reply

    async def send(self, request: bytes, *, pause_s: float = 0.0) -> None:
        await self._link.send(request, pause_s=pause_s)

    def words_of(self, span: Span) -> str:
        """Return what was answered for a point."""
        words = [self._words.get((span.area, address)) for address in range(span.start, span.end)]
        known = [word for word in words if word is not None]
        if len(known) < len(words):
            return ""
        return "".join(str(bit) for bit in known) if span.area.one_bit else " ".join(f"{word:04X}" for word in known)

    def _keep(self, area: Area, start: int, count: int, data: bytes) -> None:
        values: Sequence[int] = struct.unpack_from(f">{len(data) // 2}H", data)
        if area.one_bit:
            values = [data[i // 8] >> i % 8 & 1 for i in range(min(count, 8 * len(data)))]
        self._words.update({(area, start + i): value for i, value in enumerate(values)})


async def read_once(
    url: str, driver: DriverCfg, device: DeviceCfg, timeout_s: float | None = None, trace: Trace | None = None
) -> Outcome:
    """Open, read every group once, close.

    Raises:
        ConfigProblem: "config-invalid": the URL, the driver or the device cannot be used.
        DeviceProblem: the device is silent.
        LinkProblem: the channel cannot be opened, or was lost.
    """
    cfg, protocol = _prepared(url, driver, device, timeout_s)
    channel = open_channel("wire", cfg, SystemClock())
    begun_s = time.monotonic()
    if trace is not None:
        tell = trace
        channel.trace = lambda direction, data: tell(time.monotonic() - begun_s, direction, bytes(data))
    compiled = compile_device(driver.id, device, driver, framing=channel.framing)
    outcome = Outcome()
    try:
        recorder = _Recorder(await channel.open(), channel.framing)
        outcome.opened_s = time.monotonic() - begun_s
        for group in protocol.groups:
            read = await _read_group(protocol, recorder, group, outcome, channel.framing)
            for i, point in enumerate(group.points):
                quality = Quality(read.quality[i]) if read.quality else Quality.GOOD
                words = recorder.words_of(compiled.points[point.name].layout.span)
                outcome.seen.append(Seen(point, read.values[i], read.raws[i], quality, words))
    finally:
        await channel.close()
    outcome.elapsed_s = time.monotonic() - begun_s
    return outcome


def _prepared(url: str, driver: DriverCfg, device: DeviceCfg, timeout_s: float | None) -> tuple[ChannelCfg, Protocol]:
    if driver.protocol != "modbus":
        words = f"{driver.id} is a driver of the protocol {driver.protocol}, which reads through no channel"
        raise ConfigProblem("config-invalid", words)
    try:
        parse_channel_url(url)
    except ValueError as exc:
        raise ConfigProblem("config-invalid", str(exc)) from exc
    cfg = ChannelCfg(url=url) if timeout_s is None else ChannelCfg(url=url, timeout_s=Seconds(timeout_s))
    config = msgspec.structs.replace(alone(driver, device, url), channels={"wire": cfg})
    for finding in findings(config):
        raise ConfigProblem("config-invalid", f"{path_text(finding.path)}: {finding.message}", finding.hint)
    return cfg, build(driver.id, made_of(config)[driver.id])


async def _read_group(protocol: Protocol, link: ByteLink, group: Group, outcome: Outcome, framing: str) -> Round:
    """Read one group; what is wrong with it is noted, unless the device is silent from the start."""
    try:
        read = await protocol.read(link, group)
    except DeviceProblem as problem:
        if not outcome.seen and not problem.alive:
            raise with_advice(problem, framing) from problem
        outcome.problems.append(with_advice(problem, framing))
        return group.silent_round(Quality.BAD if problem.alive else Quality.OFFLINE, 0, 0)
    partial: Problem | None = getattr(protocol, "partial", None)
    if partial is not None:
        outcome.problems.append(partial)
    return read
