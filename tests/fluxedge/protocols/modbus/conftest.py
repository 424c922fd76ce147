"""A Modbus device behind a scripted link: it answers from its own tables, and misbehaves on command."""

from __future__ import annotations

import struct
import typing
from collections.abc import Callable

import pytest

from fluxedge.config.structs import DeviceCfg, DriverCfg, ModbusOptionsCfg, ModbusPointCfg
from fluxedge.problems import DeviceProblem
from fluxedge.protocols.modbus import ModbusProtocol
from fluxedge.spi import Reply

Pdu = bytes
WALL_NS, MONO_NS = 1_800_000_000_000_000_000, 5_000_000_000


def crc(frame: bytes) -> bytes:
    """CRC-16 of MODBUS over Serial Line V1.02, 6.2.2, bit by bit: independent of the table under test."""
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


class ScriptedLink:
    """A ByteLink whose other end is a device with registers and coils."""

    def __init__(self, framing: str = "tcp", unit: int = 1) -> None:
        self.framing = framing
        self.unit = unit
        self.words: dict[str, dict[int, int]] = {"hr": {}, "ir": {}}  # absent addresses are answered with 02
        self.bits: dict[str, dict[int, bool]] = {"co": {}, "di": {}}
        self.asked: list[Pdu] = []
        self.refuse: Callable[[Pdu], int | None] = lambda pdu: None  # exception code for a request
        self.frames: Callable[[bytes, bytes], list[bytes]] | None = None  # (request, right answer) -> chunks
        self.silent: Callable[[Pdu], bool] = lambda pdu: False
        self.suspect: Callable[[Pdu], bool] = lambda pdu: False
        self.reply_bytes: list[int] = []
        self.pauses_s: list[float] = []

    async def exchange(
        self, request: bytes, match: typing.Any, *, timeout_s: float, reply_bytes: int = 0, pause_s: float = 0.0
    ) -> Reply[typing.Any]:
        pdu = request[7:] if self.framing == "tcp" else request[1:-2]
        if self.framing == "rtu":
            assert request[-2:] == crc(request[:-2])
        self.asked.append(pdu)
        self.reply_bytes.append(reply_bytes)
        self.pauses_s.append(pause_s)
        answer = self.frame(request, self.answer(pdu))
        chunks = [] if self.silent(pdu) else [answer] if self.frames is None else self.frames(request, answer)
        buffer = b""
        for chunk in chunks:
            buffer += chunk
            used, found = match(buffer)
            buffer = buffer[used:]
            if found is not None:
                now = len(self.asked)
                return Reply(found, WALL_NS + now, MONO_NS + now, self.suspect(pdu))
        raise DeviceProblem("no-reply", f"nothing within {timeout_s} s")

    async def send(self, request: bytes, *, pause_s: float = 0.0) -> None:
        raise AssertionError("nothing here is a broadcast")

    def frame(self, request: bytes, pdu: Pdu, unit: int | None = None) -> bytes:
        """Return an answer's frame; on TCP with the request's transaction id."""
        whose = bytes([self.unit if unit is None else unit])
        if self.framing == "tcp":
            return request[:2] + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + whose + pdu
        return whose + pdu + crc(whose + pdu)

    def answer(self, pdu: Pdu) -> Pdu:
        function, start = pdu[0], int.from_bytes(pdu[1:3], "big")
        code = self.refuse(pdu)
        if code is not None:
            return bytes([function | 0x80, code])
        try:
            return self._serve(function, start, pdu)
        except KeyError:
            return bytes([function | 0x80, 2])

    def _serve(self, function: int, start: int, pdu: Pdu) -> Pdu:
        count = int.from_bytes(pdu[3:5], "big")
        if function in (1, 2):
            bits = [self.bits["co" if function == 1 else "di"][start + i] for i in range(count)]
            body = bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, count, 8))
            return bytes([function, len(body)]) + body
        if function in (3, 4):
            words = [self.words["hr" if function == 3 else "ir"][start + i] for i in range(count)]
            return bytes([function, 2 * count]) + struct.pack(f">{count}H", *words)
        if function == 5:
            self.bits["co"][start] = count == 0xFF00
            return pdu
        if function == 6:
            self.words["hr"][start] = count
            return pdu
        if function == 15:
            self.bits["co"][start] = bool(pdu[6] & 1)
            return pdu[:5]
        if function == 16:
            self.set("hr", start, pdu[6:])
            return pdu[:5]
        assert function == 22
        keep, change = struct.unpack(">HH", pdu[3:])
        self.words["hr"][start] = self.words["hr"][start] & keep | change & ~keep
        return pdu

    def set(self, area: str, start: int, body: bytes) -> None:
        """Put bytes into registers."""
        for i, (word,) in enumerate(struct.iter_unpack(">H", body)):
            self.words[area][start + i] = word


@pytest.fixture
def scripted() -> type[ScriptedLink]:
    return ScriptedLink


@pytest.fixture
def crc_of() -> Callable[[bytes], bytes]:
    return crc


@pytest.fixture(params=["tcp", "rtu"])
def link(request: pytest.FixtureRequest) -> ScriptedLink:
    return ScriptedLink(request.param)


Build = Callable[..., ModbusProtocol]


@pytest.fixture
def driver() -> Callable[..., DriverCfg]:
    """Return a function that makes a driver of points: driver({"u": {"at": "30001"}}, max_registers=10)."""

    def make(points: dict[str, dict[str, typing.Any]], **options: typing.Any) -> DriverCfg:
        cfgs = {name: ModbusPointCfg(**point) for name, point in points.items()}
        return DriverCfg(
            id="acme", name="Acme", protocol="modbus", source="here", points=cfgs, options=ModbusOptionsCfg(**options)
        )

    return make


@pytest.fixture
def build(driver: Callable[..., DriverCfg]) -> Build:
    """Return a function that builds a protocol of points, for a link's framing."""

    def make(points: dict[str, dict[str, typing.Any]], framing: str = "tcp", **options: typing.Any) -> ModbusProtocol:
        device = DeviceCfg(driver="acme", unit=1)
        return ModbusProtocol.build("m1", device, driver(points, **options), framing=framing, timeout_s=1.0)

    return make
