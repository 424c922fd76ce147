import logging
import time
import typing
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.problems import DeviceProblem
from fluxedge.protocols.modbus.address import Area
from fluxedge.protocols.modbus.framing import (
    FRAMINGS,
    Question,
    Refusal,
    RtuMatch,
    TcpMatch,
    silence_pymodbus,
)
from fluxedge.protocols.modbus.plan import Request
from fluxedge.protocols.modbus.reading import read_question

# MODBUS Application Protocol V1.1b3, 6.3: read holding registers 107 (0x6B) to 109
READ = read_question(0x11, Request(Area.HOLDING_REGISTERS, 0x6B, 3, ()))
ANSWER = bytes.fromhex("03 06 022B 0000 0064")
DATA = ANSWER[2:]


async def ask(link: typing.Any, question: Question = READ) -> bytes:
    framing = FRAMINGS[link.framing]()
    return (await framing.exchange(link, framing.prepare(question), 1.0)).data


@pytest.fixture
def link(link: typing.Any) -> typing.Any:
    link.unit = 0x11
    link.set("hr", 0x6B, DATA)
    return link


async def test_the_request_of_the_specification_goes_out(link: typing.Any) -> None:
    assert await ask(link) == DATA
    assert link.asked == [bytes.fromhex("03 006B 0003")]


def test_frames_are_built_as_the_specification_draws_them(crc_of: Callable[[bytes], bytes]) -> None:
    # The CRC is checked against the bit by bit one of Serial Line V1.02, 6.2.2.
    ten = read_question(1, Request(Area.HOLDING_REGISTERS, 0, 10, ()))
    assert FRAMINGS["rtu"]().prepare(ten).frame == bytes.fromhex("01 03 0000 000A C5CD")
    assert crc_of(bytes.fromhex("01 03 0000 000A")) == bytes.fromhex("C5CD")
    assert FRAMINGS["tcp"]().prepare(ten).frame == bytes.fromhex("0000 0006 01 03 0000 000A")


async def test_a_reply_one_byte_at_a_time_is_a_reply(link: typing.Any) -> None:
    link.frames = lambda request, answer: [answer[i : i + 1] for i in range(len(answer))]
    assert await ask(link) == DATA


async def test_a_truncated_reply_ends_as_no_reply(link: typing.Any) -> None:
    link.frames = lambda request, answer: [answer[:-1]]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert (caught.value.code, caught.value.alive) == ("no-reply", False)
    assert "unit 17, FC03, registers 107–109 (40108–40110): no answer within 1 s" in caught.value.message


async def test_a_frame_of_another_unit_before_the_answer_is_skipped(link: typing.Any) -> None:
    link.frames = lambda request, answer: [link.frame(request, ANSWER[:2] + b"\1" * 6, unit=0x12), answer]
    assert await ask(link) == DATA


async def test_a_frame_of_another_unit_alone_is_no_reply(link: typing.Any) -> None:
    link.frames = lambda request, answer: [link.frame(request, ANSWER, unit=0x12)]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert caught.value.code == "no-reply"


async def test_a_late_answer_of_another_length_before_the_answer_is_skipped_on_rtu(scripted: typing.Any) -> None:
    link = scripted("rtu", unit=0x11)
    link.set("hr", 0x6B, DATA)
    link.frames = lambda request, answer: [link.frame(request, b"\x03\x04\1\2\3\4") + answer]
    assert await ask(link) == DATA


async def test_a_late_transaction_is_skipped_on_tcp(scripted: typing.Any) -> None:
    link = scripted("tcp", unit=0x11)
    link.set("hr", 0x6B, DATA)

    def frames(request: bytes, answer: bytes) -> list[bytes]:
        late = (int.from_bytes(request[:2], "big") - 1).to_bytes(2, "big")
        return [link.frame(late, ANSWER[:2] + b"\1" * 6) + answer]

    link.frames = frames
    assert await ask(link) == DATA


async def test_transaction_ids_never_repeat_in_a_row_and_wrap(scripted: typing.Any) -> None:
    link = scripted("tcp", unit=0x11)
    link.set("hr", 0x6B, DATA)
    seen: list[bytes] = []
    link.frames = lambda request, answer: seen.append(request[:2]) or [answer]
    framing = FRAMINGS["tcp"]()
    framing._transaction = 0xFFFE  # type: ignore[union-attr]
    for _ in range(3):
        await framing.exchange(link, framing.prepare(READ), 1.0)
    assert seen == [b"\xff\xff", b"\x00\x01", b"\x00\x02"]


async def test_a_wrong_crc_ends_as_crc_error(scripted: typing.Any) -> None:
    link = scripted("rtu", unit=0x11)
    link.set("hr", 0x6B, DATA)
    link.frames = lambda request, answer: [answer[:-1] + bytes([answer[-1] ^ 1])]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert (caught.value.code, caught.value.alive) == ("crc-error", False)


async def test_a_damaged_frame_before_the_answer_does_not_cost_the_answer(scripted: typing.Any) -> None:
    link = scripted("rtu", unit=0x11)
    link.set("hr", 0x6B, DATA)
    link.frames = lambda request, answer: [answer[:-1] + b"\0", answer]
    assert await ask(link) == DATA


@pytest.mark.parametrize("noise", [b"\0", b"\xff\xff\x11", b"\x11\x03\x06", b"\x11\x83", bytes(range(256)) * 2])
async def test_noise_before_an_rtu_answer_does_not_cost_the_answer(scripted: typing.Any, noise: bytes) -> None:
    link = scripted("rtu", unit=0x11)
    link.set("hr", 0x6B, DATA)
    link.frames = lambda request, answer: [bytes([byte]) for byte in noise + answer]
    assert await ask(link) == DATA


async def test_our_own_echo_on_a_two_wire_line_is_skipped(scripted: typing.Any) -> None:
    link = scripted("rtu", unit=0x11)
    link.set("hr", 0x6B, DATA)
    link.frames = lambda request, answer: [request, answer]
    assert await ask(link) == DATA


@pytest.mark.parametrize(
    ("exception", "code", "alive"),
    [
        (0x01, "illegal-function", True), (0x02, "illegal-address", True), (0x03, "illegal-value", True),
        (0x04, "device-failure", True), (0x05, "busy", True), (0x06, "busy", True), (0x07, "device-failure", True),
        (0x08, "device-failure", True), (0x09, "device-failure", True), (0x0A, "gateway-path", False),
        (0x0B, "gateway-target", False), (0xFF, "device-failure", True),
    ],
)  # fmt: skip
async def test_exceptions_become_coded_problems(link: typing.Any, exception: int, code: str, alive: bool) -> None:
    link.refuse = lambda pdu: exception
    link.frames = lambda request, answer: [answer[i : i + 1] for i in range(len(answer))]
    with pytest.raises(Refusal) as caught:
        await ask(link)
    assert (caught.value.code, caught.value.alive, caught.value.exception) == (code, alive, exception)
    assert "unit 17" in caught.value.message


@pytest.mark.parametrize(
    "frame",
    [
        "0001 0001 0009 11 03 06 022B 0000 0064",  # protocol id
        "0001 0000 0001 11 03 06 022B 0000 0064",  # too short to hold a function
        "0001 0000 00FF 11 03 06 022B 0000 0064",  # longer than an ADU can be
        "0001 0000 0008 11 03 05 022B 0000 00",  # an odd byte count
        "0001 0000 0007 11 03 06 022B 0000",  # says 6 bytes and has 4
        "4854 5450 2F31 2E 31 20 34 30 30",  # HTTP/1.1 400
    ],
)
async def test_what_cannot_be_modbus_tcp_is_a_bad_reply_at_once(scripted: typing.Any, frame: str) -> None:
    link = scripted("tcp", unit=0x11)
    link.frames = lambda request, answer: [bytes.fromhex(frame)]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert (caught.value.code, caught.value.alive) == ("bad-reply", False)


async def test_an_answer_with_another_function_is_waited_over_and_named(scripted: typing.Any) -> None:
    link = scripted("tcp", unit=0x11)
    link.frames = lambda request, answer: [link.frame(request, b"\x04" + ANSWER[1:])]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert caught.value.code == "bad-reply"
    assert "function 04" in caught.value.message


async def test_an_exception_frame_with_a_length_one_too_small_is_understood(scripted: typing.Any) -> None:
    link = scripted("tcp", unit=0x11)  # pymodbus accepts it, too: framer/socket.py
    link.frames = lambda request, answer: [request[:2] + bytes.fromhex("0000 0002 11 83 02")]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link)
    assert caught.value.code == "illegal-address"


async def test_the_echo_of_another_write_is_not_taken(link: typing.Any) -> None:
    write = Question(0x11, bytes.fromhex("06 0001 0003"), bytes.fromhex("0001 0003"), 5, 1, "register 1")
    link.frames = lambda request, answer: [link.frame(request, bytes.fromhex("06 0001 0004"))]
    with pytest.raises(DeviceProblem) as caught:
        await ask(link, write)
    assert caught.value.code in ("bad-reply", "no-reply")
    link.frames = None
    assert await ask(link, write) == bytes.fromhex("0001 0003")


async def test_rtu_tells_the_link_the_length_of_a_regular_answer(scripted: typing.Any) -> None:
    for framing, length in (("rtu", 5 + 2 * 3), ("tcp", 0)):
        link = scripted(framing, unit=0x11)
        link.set("hr", 0x6B, DATA)
        await ask(link)
        assert link.reply_bytes == [length]


def drain(match: Callable[[bytes], tuple[int, bytes | None]], chunks: list[bytes]) -> None:
    """Feed chunks as a link does; what may come out is an answer or a DeviceProblem."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        try:
            used, found = match(buffer)
        except DeviceProblem:
            return
        assert 0 <= used <= len(buffer)
        buffer = buffer[used:]
        if found is not None:
            assert len(found) == len(DATA)
            return


pieces = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([bytes.fromhex("11 03 06"), bytes.fromhex("11 83"), bytes.fromhex("0001 0000"), b"\0\x09"]),
    ),
    max_size=20,
)


@settings(max_examples=300, deadline=None)
@given(pieces)
def test_hostile_bytes_raise_nothing_but_device_problems(chunks: list[bytes]) -> None:
    drain(TcpMatch(READ, 1), chunks)
    drain(RtuMatch(READ), chunks)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.data())
def test_noise_then_an_rtu_answer_is_found_in_any_pieces(noise: bytes, data: st.DataObject) -> None:
    frame = FRAMINGS["rtu"]().prepare(Question(0x11, ANSWER, b"", 0, 1, "")).frame
    stream, chunks = noise + frame, []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        chunks.append(stream[:size])
        stream = stream[size:]
    match, buffer = RtuMatch(READ), b""
    for chunk in chunks:
        buffer += chunk
        used, found = match(buffer)
        buffer = buffer[used:]
    assert found == DATA


def test_pymodbus_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    silence_pymodbus()
    with caplog.at_level(logging.DEBUG), pytest.raises(DeviceProblem):
        TcpMatch(READ, 1)(b"\0\1\0\1\0\6\x11\3\6\0\0")
    assert not caplog.records


FLOODS = {
    "frames of other transactions": (TcpMatch(READ, 7), bytes.fromhex("0001 0000 0003 11 03 00")),
    "the smallest frames": (TcpMatch(READ, 7), bytes.fromhex("0001 0000 0002 11 03")),
    "false heads": (RtuMatch(READ), bytes.fromhex("11 03 06")),
    "false heads of the longest answer": (
        RtuMatch(read_question(1, Request(Area.HOLDING_REGISTERS, 0, 125, ()))), bytes.fromhex("01 03 FA"),
    ),
    "false exceptions": (RtuMatch(READ), bytes.fromhex("11 83")),
    "units alone": (RtuMatch(READ), b"\x11"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_babbling_peer_costs_milliseconds(name: str) -> None:
    match, piece = FLOODS[name]
    flood = piece * (262_144 // len(piece))
    began_s = time.process_time()
    with pytest.raises(DeviceProblem, match="the peer babbles") as caught:
        match(flood)
    assert time.process_time() - began_s < 0.05
    assert (caught.value.code, caught.value.alive) == ("bad-reply", False)


def test_a_few_late_frames_before_the_answer_are_no_babble() -> None:
    late = bytes.fromhex("0001 0000 0009 11 03 06 022B 0000 0064")
    answer = b"\0\7" + late[2:]
    assert TcpMatch(READ, 7)(late * 30 + answer) == (len(late) * 31, DATA)
