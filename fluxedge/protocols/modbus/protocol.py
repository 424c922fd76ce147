"""Modbus: one device's knowledge, compiled from its device and driver files, over TCP or RTU.

`build` compiles everything at load. `read`, `write` and `check_link` ask through the link they are lent; retries,
pauses and back-off are the poller's. What a read could not get although the round is delivered stands in `partial`.
"""

from __future__ import annotations

from fluxedge.columns import Raws, Value
from fluxedge.config.mistakes import Finding, path_text
from fluxedge.config.structs import DeviceCfg, DriverCfg
from fluxedge.model import Group, Quality, Round
from fluxedge.problems import ConfigProblem, DeviceProblem, LinkProblem
from fluxedge.protocols.modbus.address import describe
from fluxedge.protocols.modbus.compile import Compiled, CompiledPoint, compile_device
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.framing import FRAMINGS, Question, Refusal, silence_pymodbus
from fluxedge.protocols.modbus.plan import Request
from fluxedge.protocols.modbus.reading import GroupReader, read_question
from fluxedge.protocols.modbus.writing import encode_value, merge_question, same, write_question
from fluxedge.spi import ByteLink, Reply, Written


def compile_mistakes(device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str = "tcp") -> list[Finding]:
    """Return everything that is wrong with a device and its driver."""
    return list(compile_device(device_id, device, driver, framing=framing).findings)


class ModbusProtocol:
    """One Modbus device; implements spi.Protocol."""

    kind = "modbus"

    def __init__(self, device_id: str, label: str, compiled: Compiled, *, framing: str, timeout_s: float) -> None:
        silence_pymodbus()
        self.unit = compiled.unit
        self.timeout_s = timeout_s
        self.turnaround_s = compiled.turnaround_s  # extra silence that the device wants before each request
        self.periods_s = compiled.periods_s
        self.partial: DeviceProblem | None = None  # of the last read: why a part of its round is not GOOD
        self._framing = FRAMINGS[framing]()
        self._points = compiled.points
        self._masks = True  # until the device says that it does not know FC22
        self._readers: dict[str, GroupReader] = {}
        for name, group in compiled.groups.items():
            self._readers[name] = GroupReader(Group(device_id, name, group.points, label), group, self._read_question)
        self.groups = tuple(reader.group for reader in self._readers.values())

    @classmethod
    def build(
        cls, device_id: str, device: DeviceCfg, driver: DriverCfg, *, framing: str, timeout_s: float
    ) -> ModbusProtocol:
        """Compile a device. `framing` is "tcp", "rtu" or "rtu-tcp"; `timeout_s` the channel's.

        Raises:
            ConfigProblem: "config-invalid"; it names the first mistake, `compile_mistakes` returns them all.
        """
        try:
            compiled = compile_device(device_id, device, driver, framing=framing)
        except ValueError as exc:  # options or overrides that the loader would have refused
            raise ConfigProblem("config-invalid", f"devices.{device_id}: {exc}") from exc
        if compiled.findings:
            first, more = compiled.findings[0], len(compiled.findings) - 1
            words = f"{path_text(first.path)}: {first.message}" + (f" (and {more} more)" if more else "")
            raise ConfigProblem("config-invalid", words, first.hint)
        limit_s = device.timeout_s if device.timeout_s is not None else timeout_s
        return cls(device_id, device.label, compiled, framing=framing, timeout_s=float(limit_s))

    async def read(self, link: ByteLink, group: Group) -> Round:
        """Read one group; `partial` tells afterwards what is wrong with a part of it.

        Raises:
            DeviceProblem: nothing of the group could be read.
            LinkProblem: the channel closed.
        """
        self.partial = None
        framing, timeout_s, pause_s = self._framing, self.timeout_s, self.turnaround_s
        read, self.partial = await self._readers[group.name].read(
            lambda question: framing.exchange(link, question, timeout_s, pause_s)
        )
        return read

    def encode(self, point: str, value: Value) -> Value:
        """Return the raw that would be sent for an engineering value (an enum also by its name).

        Raises:
            ConfigProblem: "command-refused": no such point, not writable, wrong type, out of limits, no exact raw.
        """
        return encode_value(self._point(point), value)

    async def write(self, link: ByteLink, point: str, value: Value) -> Written:
        """Send an engineering value once and read it back.

        Raises:
            ConfigProblem: "command-refused", as `encode`; nothing was sent.
            DeviceProblem: refused by the device ("command-refused": nothing was sent), or no usable answer (then its
                fate is unknown: code "no-reply").
            LinkProblem: the channel closed; the fate is unknown.
        """
        target = self._point(point)
        raw = encode_value(target, value)
        if target.layout.partial:
            await self._write_part(link, target, raw)
        else:
            await self._send(link, write_question(self.unit, target, raw))
        try:
            reply = await self._ask_point(link, target)
        except (DeviceProblem, LinkProblem):
            return Written(raw, None, False)  # the device took it; what it holds now could not be read
        back = Decoder([target.layout], [_alone(target)]).decode([reply.data])
        return Written(raw, _engineering(target, back), not reply.suspect and same(target, raw, back[0]))

    async def _write_part(self, link: ByteLink, target: CompiledPoint, raw: Value) -> None:
        if target.cfg.write is True and self._masks:
            try:
                await self._send(link, write_question(self.unit, target, raw))
            except DeviceProblem as problem:
                if problem.code != "illegal-function":
                    raise
                self._masks = False  # it was not executed: the way round below is still the first write
            else:
                return
        try:
            old = await self._ask_point(link, target)
        except DeviceProblem as problem:
            raise self._unsent(target, problem.message, alive=problem.alive) from problem
        if old.suspect:
            raise self._unsent(target, "a late answer could be taken for its register's present value", alive=True)
        await self._send(link, merge_question(self.unit, target, old.data, raw))

    def _unsent(self, target: CompiledPoint, why: str, *, alive: bool) -> DeviceProblem:
        words = f"{target.point.name}: its register could not be read before the write, nothing was sent: {why}"
        return DeviceProblem("command-refused", words, alive=alive)

    async def _send(self, link: ByteLink, question: Question) -> None:
        """Ask a writing question, once."""
        try:
            await self._ask(link, self._framing.prepare(question))
        except Refusal as refusal:
            if refusal.exception == 0x05:  # V1.1b3, 7: accepted, it takes a long time; the read-back will tell
                return
            if refusal.exception == 0x0B:
                raise self._unknown(refusal) from refusal
            raise
        except DeviceProblem as problem:
            raise self._unknown(problem) from problem

    def _unknown(self, problem: DeviceProblem) -> DeviceProblem:
        words = f"{problem.message}; whether it was executed is not known"
        return DeviceProblem("no-reply", words, "Look at the device; the command is not repeated.")

    async def check_link(self, link: ByteLink, timeout_s: float | None = None) -> None:
        """Read the first planned point alone; an exception reply is an answer, too.

        Raises:
            DeviceProblem: silent.
            LinkProblem: the channel closed.
        """
        reader = next(iter(self._readers.values()))
        first = reader.requests[0]
        question = self._read_question(Request(first.area, first.start, 1, ()))
        try:
            limit_s = self.timeout_s if timeout_s is None else timeout_s
            await self._framing.exchange(link, question, limit_s, self.turnaround_s)
        except DeviceProblem as problem:
            if not problem.alive:
                raise

    def describe(self) -> list[str]:
        """Return the read plan in plain words, a line per request."""
        lines = []
        for name, reader in self._readers.items():
            for request in reader.requests:
                count = len(request.members)
                points = f"{count} point{'s' * (count > 1)}"
                where = "" if len(self._readers) == 1 else f"{name}: "
                lines.append(f"{where}FC{request.area.function:02d}, unit {self.unit}: {request.place()}, {points}")
        return lines

    def describe_points(self) -> list[str]:
        """Return what each point is on the wire: "u_l1: 30001 → FC04, address 0, 2 registers, ABCD"."""
        return [
            f"{name}: {describe(point.cfg.at, point.layout.span.count, point.layout.order)}"
            for name, point in self._points.items()
        ]

    def _point(self, name: str) -> CompiledPoint:
        try:
            return self._points[name]
        except KeyError:
            raise ConfigProblem("command-refused", f"there is no point {name!r}") from None

    def _read_question(self, request: Request) -> Question:
        return self._framing.prepare(read_question(self.unit, request))

    async def _ask(self, link: ByteLink, question: Question) -> Reply[bytes]:
        return await self._framing.exchange(link, question, self.timeout_s, self.turnaround_s)

    async def _ask_point(self, link: ByteLink, point: CompiledPoint) -> Reply[bytes]:
        return await self._ask(link, self._read_question(_alone(point)))


def _alone(point: CompiledPoint) -> Request:
    span = point.layout.span
    return Request(span.area, span.start, span.count, (0,))


def _engineering(point: CompiledPoint, raws: Raws) -> Value | None:
    """Return the engineering value of one raw; None where it is unusable."""
    quality = bytes([Quality.BAD]) if raws[0] is None else b""
    return Group("", "", (point.point,)).round(raws, 0, 0, quality=quality).values[0]
