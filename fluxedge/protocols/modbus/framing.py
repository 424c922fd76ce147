"""Framing: a question becomes bytes, and the bytes that come back are searched for its answer.

    TCP   [ transaction 2 | protocol 2 = 0 | length 2 | unit 1 ] [ function 1 | data ]
    RTU   [ unit 1 ] [ function 1 | data ] [ CRC 2, low byte first ]
    exception: function | 0x80, one code byte               MODBUS Application Protocol V1.1b3, 7

An answer is taken only when unit, function and byte count (or the echo of a write) match, on TCP the transaction id
too. Everything else is skipped and the wait goes on; when it ends in vain, the problem says what was seen instead.
pymodbus's framers build the frames. Its RTU framer throws the whole buffer away at a wrong CRC (framer/rtu.py, 3.16),
so RTU is searched here for the one frame whose length is known; TCP frames are walked through in place, since its
socket framer wants a copy of all the rest for each. A peer that babbles costs an exchange, never the loop's time.
"""

from __future__ import annotations

import logging
import struct
import typing
from dataclasses import dataclass, field

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from fluxedge.problems import DeviceProblem
from fluxedge.spi import ByteLink, Reply

_EXCEPTIONS: dict[int, tuple[str, str, bool]] = {  # code -> (problem, words, does it prove the device alive)
    0x01: ("illegal-function", "it does not know this function", True),
    0x02: ("illegal-address", "it has no such address", True),
    0x03: ("illegal-value", "it refuses the quantity or the value", True),
    0x04: ("device-failure", "it reports a failure", True),
    0x05: ("busy", "it works on a long operation", True),
    0x06: ("busy", "it is busy", True),
    0x07: ("device-failure", "it cannot perform the function", True),
    0x08: ("device-failure", "it reports a memory parity error", True),
    0x0A: ("gateway-path", "the gateway before it has no path to it", False),
    0x0B: ("gateway-target", "the gateway before it got no answer from it", False),
}
_HINTS = {
    "illegal-function": "Check the area of the address (input or holding registers) in the driver file.",
    "illegal-address": "Check the addresses in the driver file against the device's firmware version.",
    "illegal-value": "Many devices take fewer registers at once: try max_registers in the driver file's [options].",
    "gateway-path": "Check the unit id, and the gateway's list of serial lines.",
    "gateway-target": "Check the device's power, wiring and unit id.",
}
_LONGEST_TCP = 254  # unit + PDU; Modbus Messaging on TCP/IP Implementation Guide V1.0b, 3.1.2: ADU at most 260
_HEADER = struct.Struct(">HHHB")  # transaction, protocol, length of what follows, unit
BABBLE_BYTES = 8192  # that are no answer, in one exchange: more than thirty of the longest frames
BABBLE_CRC_BYTES = 16384  # in frames that began like the answer: a checksum takes 0.1 µs a byte

_SOCKET = FramerSocket(DecodePDU(False))
_RTU = FramerRTU(DecodePDU(False))


def silence_pymodbus() -> None:
    """Keep pymodbus from printing: a damaged frame is our problem to report, once."""
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)


class Refusal(DeviceProblem):
    """The device, or a gateway before it, answered with an exception."""

    def __init__(self, problem: DeviceProblem, exception: int) -> None:
        super().__init__(problem.code, problem.message, problem.hint, alive=problem.alive)
        self.exception = exception  # its code byte


@dataclass(slots=True)
class Question:
    """One request PDU and what its answer must look like."""

    unit: int
    pdu: bytes  # function and data
    prefix: bytes  # how the answer's data begin: the byte count of a read, the echo of a write
    answer_bytes: int  # PDU length of a regular answer
    data_at: int  # where the data begin in the answer's PDU: behind the byte count of a read, behind the function
    place: str  # in words, for problems: "registers 0–79 (30001–30080)"
    function: int = field(init=False)
    frame: bytes = field(init=False, default=b"")  # built by the framing

    def __post_init__(self) -> None:
        self.function = self.pdu[0]

    def problem(self, code: str, words: str, *, alive: bool = False) -> DeviceProblem:
        """Return a problem that names the unit, the function and the place."""
        message = f"unit {self.unit}, FC{self.function:02d}, {self.place}: {words}"
        hint = "" if code == "illegal-value" and self.function > 4 else _HINTS.get(code, "")
        return DeviceProblem(code, message, hint, alive=alive)

    def babble(self, seen: str) -> DeviceProblem:
        """Return the problem that a peer sends without end, but no answer."""
        return self.problem("bad-reply", f"the peer babbles{f': {seen}' if seen else ''}")

    def refusal(self, exception: int) -> Refusal:
        """Return the problem of an exception reply."""
        words = f"it answers with the unknown exception {exception:02X}"
        code, words, alive = _EXCEPTIONS.get(exception, ("device-failure", words, True))
        return Refusal(self.problem(code, f"{words} (exception {exception:02X})", alive=alive), exception)


class Framing(typing.Protocol):
    """How questions travel on one kind of channel."""

    def prepare(self, question: Question) -> Question:
        """Build the question's frame, once; returns it."""
        ...

    async def exchange(
        self, link: ByteLink, question: Question, timeout_s: float, pause_s: float = 0.0
    ) -> Reply[bytes]:
        """Ask a prepared question; return the answer's PDU from `data_at` on, at least one byte.

        Raises:
            DeviceProblem: an exception reply, silence, or nothing but unusable bytes.
            LinkProblem: the channel closed.
        """
        ...


class TcpFraming:
    """Modbus TCP: transaction ids tell a late reply from a fresh one."""

    def __init__(self) -> None:
        self._transaction = 0

    def prepare(self, question: Question) -> Question:
        question.frame = _SOCKET.encode(question.pdu, question.unit, 0)[2:]  # the transaction id comes last
        return question

    async def exchange(
        self, link: ByteLink, question: Question, timeout_s: float, pause_s: float = 0.0
    ) -> Reply[bytes]:
        self._transaction = transaction = self._transaction % 0xFFFF + 1
        match = TcpMatch(question, transaction)
        try:
            frame = transaction.to_bytes(2, "big") + question.frame
            return await link.exchange(frame, match, timeout_s=timeout_s, pause_s=pause_s)
        except DeviceProblem as problem:
            if problem.code == "no-reply":
                raise _silence(question, timeout_s, match.seen, match.code) from None
            raise


class TcpMatch:
    """Search received bytes for the answer to one question on TCP."""

    __slots__ = ("_question", "_skipped", "_skipped_bytes", "_transaction", "code")

    def __init__(self, question: Question, transaction: int) -> None:
        self._question = question
        self._transaction = transaction
        self.code = "no-reply"  # what a timeout turns out to be
        self._skipped: tuple[int, int, int] | None = None  # the last frame that was: transaction, unit, function
        self._skipped_bytes = 0

    @property
    def seen(self) -> str:
        """Return in words what came instead of the answer."""
        if self._skipped is None:
            return ""
        transaction, unit, function = self._skipped
        if transaction == self._transaction and unit == self._question.unit:
            return f"it answers with function {function:02X}"
        return f"an answer of unit {unit} to transaction {transaction}, not {self._transaction}, arrived"

    def __call__(self, data: bytes) -> tuple[int, bytes | None]:
        used, question = 0, self._question
        while len(data) - used > _HEADER.size:
            transaction, protocol, length, unit = _HEADER.unpack_from(data, used)
            if protocol or not 2 <= length <= _LONGEST_TCP:
                raise self._no_header(data[used : used + 16], protocol, length)
            end = used + 6 + length
            if len(data) < end:
                break
            if length == 2 and len(data) == end + 1:  # exceptions of some devices do not count their code byte
                end += 1
            function = data[used + _HEADER.size]
            if transaction == self._transaction and unit == question.unit:
                pdu = data[used + _HEADER.size : end]
                if function == question.function:
                    return end, self._data(pdu)
                if function == question.function | 0x80 and len(pdu) >= 2:
                    raise question.refusal(pdu[1])
                self.code = "bad-reply"
            self._skipped = transaction, unit, function
            self._skipped_bytes += end - used
            if self._skipped_bytes > BABBLE_BYTES:
                raise question.babble(self.seen)
            used = end
        return used, None

    def _data(self, pdu: bytes) -> bytes:
        question = self._question
        if len(pdu) != question.answer_bytes or not pdu.startswith(question.prefix, 1):
            raise question.problem("bad-reply", f"the answer does not fit the question: {pdu[:16].hex(' ')}")
        return pdu[question.data_at :]

    def _no_header(self, frame: bytes, protocol: int, length: int) -> DeviceProblem:
        if protocol:
            return self._question.problem("bad-reply", f"this is not Modbus TCP: {frame.hex(' ')}")
        return self._question.problem("bad-reply", f"a frame says it has {length} bytes, which none can have")


class RtuFraming:
    """Modbus RTU, on a serial line or through TCP."""

    def prepare(self, question: Question) -> Question:
        question.frame = _RTU.encode(question.pdu, question.unit, 0)
        return question

    async def exchange(
        self, link: ByteLink, question: Question, timeout_s: float, pause_s: float = 0.0
    ) -> Reply[bytes]:
        match = RtuMatch(question)
        size = question.answer_bytes + 3
        try:
            return await link.exchange(question.frame, match, timeout_s=timeout_s, reply_bytes=size, pause_s=pause_s)
        except DeviceProblem as problem:
            if problem.code == "no-reply":
                code = "crc-error" if match.damaged else "no-reply"
                raise _silence(question, timeout_s, match.seen, code) from None
            raise


class RtuMatch:
    """Search received bytes for the answer to one question on RTU.

    At each place either the expected frame begins, or a 5-byte exception, or the byte is skipped. What looked like
    the frame and fails its CRC is skipped by one byte: the true frame may begin inside it.
    """

    __slots__ = ("_crc_bytes", "_exception", "_head", "_question", "damaged", "skipped_bytes")

    def __init__(self, question: Question) -> None:
        self._question = question
        self._head = bytes([question.unit, question.function]) + question.prefix
        self._exception = bytes([question.unit, question.function | 0x80])
        self.damaged = 0  # frames that began like the answer and had a wrong CRC
        self.skipped_bytes = 0
        self._crc_bytes = 0  # that checksums were made of in vain

    @property
    def seen(self) -> str:
        """Return in words what came instead of the answer."""
        if self.damaged:
            return f"{self.damaged} damaged frame{'s' * (self.damaged > 1)} arrived"
        return f"{self.skipped_bytes} other bytes arrived" if self.skipped_bytes else ""

    def __call__(self, data: bytes) -> tuple[int, bytes | None]:
        at, size = 0, self._question.answer_bytes + 3
        unit, head, exception = self._head[:1], self._head, self._exception
        while (begin := data.find(unit, at)) >= 0:
            self.skipped_bytes += begin - at
            at = begin
            if self.skipped_bytes > BABBLE_BYTES or self._crc_bytes > BABBLE_CRC_BYTES:
                raise self._question.babble(self.seen)
            start = data[at : at + len(head)]
            if start == head:
                if len(data) - at < size:
                    return at, None
                if _crc_holds(data[at : at + size]):
                    return at + size, data[at + 1 + self._question.data_at : at + size - 2]
                self.damaged += 1
                self._crc_bytes += size
            elif start[:2] == exception:
                if len(data) - at < 5:
                    return at, None
                if _crc_holds(data[at : at + 5]):
                    raise self._question.refusal(data[at + 2])
                self.damaged += 1
                self._crc_bytes += 5
            elif head.startswith(start):
                return at, None  # more bytes decide
            self.skipped_bytes += 1
            at += 1
        self.skipped_bytes += len(data) - at
        return len(data), None


def _crc_holds(frame: bytes) -> bool:
    return FramerRTU.compute_CRC(frame[:-2]) == frame[-2] << 8 | frame[-1]


def _silence(question: Question, timeout_s: float, seen: str, code: str) -> DeviceProblem:
    words = f"no answer within {timeout_s:g} s" + (f"; {seen}" if seen else "")
    return question.problem(code, words)


FRAMINGS: dict[str, type[TcpFraming] | type[RtuFraming]] = {"tcp": TcpFraming, "rtu": RtuFraming, "rtu-tcp": RtuFraming}
