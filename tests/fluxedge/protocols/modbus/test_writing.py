import typing
from collections.abc import Callable

import pytest

from fluxedge.columns import Value
from fluxedge.problems import ConfigProblem, DeviceProblem, LinkProblem
from fluxedge.protocols.modbus import ModbusProtocol

Build = Callable[..., ModbusProtocol]


def writable(**point: typing.Any) -> dict[str, dict[str, typing.Any]]:
    return {"x": {"at": "hr:4", "write": True, **point}}


@pytest.fixture
def link(link: typing.Any) -> typing.Any:
    link.words["hr"] = dict.fromkeys(range(20), 0xFFFF)
    link.bits["co"] = dict.fromkeys(range(20), True)
    return link


@pytest.mark.parametrize(
    ("point", "value", "sent", "pdu"),
    [
        ({}, 0, 0, "06 0004 0000"),
        ({}, 1234, 1234, "06 0004 04D2"),
        ({"write": "multiple"}, 0, 0, "10 0004 0001 02 0000"),
        ({"type": "int16"}, -1, -1, "06 0004 FFFF"),
        ({"type": "int16", "scale": 0.1}, 21.5, 215, "06 0004 00D7"),
        ({"type": "int16", "order": "BA"}, 1, 1, "06 0004 0100"),
        ({"type": "float32"}, 0.0, 0.0, "10 0004 0002 04 0000 0000"),
        ({"type": "float32", "order": "CDAB"}, 1.5, 1.5, "10 0004 0002 04 0000 3FC0"),
        ({"type": "uint64"}, 2**64 - 1, 2**64 - 1, "10 0004 0004 08 FFFF FFFF FFFF FFFF"),
        ({"type": "int64", "order": "GHEFCDAB"}, 1, 1, "10 0004 0004 08 0001 0000 0000 0000"),
        ({"type": "bcd32"}, 12345678, 12345678, "10 0004 0002 04 1234 5678"),
        ({"type": "bcd16"}, 0, 0, "06 0004 0000"),
        ({"type": "bool"}, False, False, "06 0004 0000"),
        ({"type": "bool"}, 1, True, "06 0004 0001"),
        ({"type": "string", "length": 4}, "", "", "10 0004 0002 04 0000 0000"),
        ({"type": "string", "length": 4}, "AB", "AB", "10 0004 0002 04 4142 0000"),
        ({"type": "bytes", "length": 2}, b"\0\1", b"\0\1", "06 0004 0001"),
        ({"enum": {"0": "off", "1": "on"}}, "off", 0, "06 0004 0000"),
        ({"at": "co:4"}, False, False, "05 0004 0000"),
        ({"at": "co:4"}, True, True, "05 0004 FF00"),
        ({"at": "co:4", "write": "multiple"}, 0, False, "0F 0004 0001 01 00"),
        ({"at": "hr:4.3"}, False, False, "16 0004 FFF7 0000"),
        ({"at": "hr:4.3"}, True, True, "16 0004 FFF7 0008"),
        ({"type": "uint8"}, 0, 0, "16 0004 FF00 0000"),
        ({"type": "uint8", "order": "BA"}, 0x12, 0x12, "16 0004 00FF 1200"),
    ],
)
async def test_a_write_sends_one_request_and_reads_back_what_it_wrote(
    build: Build, link: typing.Any, point: dict[str, typing.Any], value: Value, sent: Value, pdu: str
) -> None:
    protocol = build(writable(**point), link.framing)
    written = await protocol.write(link, "x", value)
    assert (written.sent, written.verified) == (sent, True)
    assert type(written.sent) is type(sent)
    assert written.read_back == (sent if isinstance(value, str) else value)
    assert link.asked[0] == bytes.fromhex(pdu)
    assert len(link.asked) == 2


async def test_a_device_without_mask_write_gets_the_whole_register(build: Build, link: typing.Any) -> None:
    protocol = build(writable(at="hr:4.3"), link.framing)
    link.refuse = lambda pdu: 1 if pdu[0] == 22 else None
    link.words["hr"][4] = 0xA5A5
    assert (await protocol.write(link, "x", True)).verified
    assert link.words["hr"][4] == 0xA5AD
    assert [pdu[0] for pdu in link.asked] == [22, 3, 6, 3]
    link.asked.clear()
    assert (await protocol.write(link, "x", False)).verified
    assert link.words["hr"][4] == 0xA5A5
    assert [pdu[0] for pdu in link.asked] == [3, 6, 3]  # it is not asked again whether it knows FC22


@pytest.mark.parametrize(("how", "function"), [("single", 6), ("multiple", 16)])
async def test_a_driver_file_can_say_that_there_is_no_mask_write(
    build: Build, link: typing.Any, how: str, function: int
) -> None:
    protocol = build(writable(at="hr:4", type="int8", write=how), link.framing)
    assert (await protocol.write(link, "x", -2)).verified
    assert link.words["hr"][4] == 0xFFFE
    assert [pdu[0] for pdu in link.asked] == [3, function, 3]


async def test_a_register_that_cannot_be_read_first_is_not_written(build: Build, link: typing.Any) -> None:
    protocol = build(writable(at="hr:4.3", write="single"), link.framing)
    link.silent = lambda pdu: True
    with pytest.raises(DeviceProblem) as caught:
        await protocol.write(link, "x", True)
    assert (caught.value.code, [pdu[0] for pdu in link.asked]) == ("command-refused", [3])
    link.silent, link.suspect = (lambda pdu: False), (lambda pdu: True)
    with pytest.raises(DeviceProblem, match="late answer"):
        await protocol.write(link, "x", True)
    assert [pdu[0] for pdu in link.asked] == [3, 3]


async def test_a_write_without_an_answer_has_an_unknown_fate_and_is_not_repeated(
    build: Build, link: typing.Any
) -> None:
    protocol = build(writable(), link.framing)
    link.silent = lambda pdu: True
    with pytest.raises(DeviceProblem) as caught:
        await protocol.write(link, "x", 0)
    assert (caught.value.code, len(link.asked)) == ("no-reply", 1)
    assert "not known" in caught.value.message


@pytest.mark.parametrize("damage", ["garbage", "other-echo", "gateway"])
async def test_a_write_with_an_unusable_answer_has_an_unknown_fate(build: Build, link: typing.Any, damage: str) -> None:
    protocol = build(writable(), link.framing)
    if damage == "gateway":
        link.refuse = lambda pdu: 0x0B
    else:
        other = b"\xff" * 12 if damage == "garbage" else bytes.fromhex("06 0004 0007")
        link.frames = lambda request, answer: [link.frame(request, other) if damage == "other-echo" else other]
    with pytest.raises(DeviceProblem) as caught:
        await protocol.write(link, "x", 0)
    assert (caught.value.code, len(link.asked)) == ("no-reply", 1)


@pytest.mark.parametrize(("exception", "code"), [(1, "illegal-function"), (2, "illegal-address"), (3, "illegal-value")])
async def test_a_refused_write_says_why(build: Build, link: typing.Any, exception: int, code: str) -> None:
    protocol = build(writable(), link.framing)
    link.refuse = lambda pdu: exception
    with pytest.raises(DeviceProblem) as caught:
        await protocol.write(link, "x", 0)
    assert (caught.value.code, caught.value.alive, len(link.asked)) == (code, True, 1)
    assert "writing x, register 4 (40005)" in caught.value.message
    assert "max_registers" not in caught.value.hint


async def test_a_busy_device_is_reported_and_not_written_again(build: Build, link: typing.Any) -> None:
    protocol = build(writable(), link.framing)
    link.refuse = lambda pdu: 6
    with pytest.raises(DeviceProblem) as caught:
        await protocol.write(link, "x", 0)
    assert (caught.value.code, len(link.asked)) == ("busy", 1)


async def test_an_acknowledged_long_write_is_judged_by_its_read_back(build: Build, link: typing.Any) -> None:
    protocol = build(writable(), link.framing)
    link.refuse = lambda pdu: 5 if pdu[0] == 6 else None
    written = await protocol.write(link, "x", 0)
    assert (written.verified, written.read_back) == (False, 0xFFFF)
    assert [pdu[0] for pdu in link.asked] == [6, 3]


async def test_a_device_that_keeps_another_value_is_not_verified(build: Build, link: typing.Any) -> None:
    protocol = build(writable(type="int16", scale=0.1), link.framing)
    link.frames = lambda request, answer: [answer] if len(link.asked) == 1 else [link.frame(request, b"\3\2\0\x64")]
    written = await protocol.write(link, "x", 21.5)
    assert (written.sent, written.read_back, written.verified) == (215, 10.0, False)


async def test_a_read_back_that_fails_or_is_suspect_verifies_nothing(build: Build, link: typing.Any) -> None:
    protocol = build(writable(), link.framing)
    link.suspect = lambda pdu: pdu[0] == 3
    written = await protocol.write(link, "x", 5)
    assert (written.read_back, written.verified) == (5, False)
    link.silent = lambda pdu: pdu[0] == 3
    written = await protocol.write(link, "x", 5)
    assert (written.read_back, written.verified) == (None, False)


async def test_a_channel_that_closes_during_the_read_back_does_not_hide_the_write(
    build: Build, link: typing.Any
) -> None:
    protocol = build(writable(), link.framing)
    exchange = link.exchange

    async def closing(request: bytes, *args: typing.Any, **options: typing.Any) -> typing.Any:
        if link.asked:
            raise LinkProblem("link-down", "gone")
        return await exchange(request, *args, **options)

    link.exchange = closing
    written = await protocol.write(link, "x", 5)
    assert (written.sent, written.read_back, written.verified) == (5, None, False)


async def test_a_float_that_differs_below_the_precision_is_verified(build: Build, link: typing.Any) -> None:
    protocol = build(writable(type="float32", precision=1), link.framing)
    link.frames = lambda request, answer: (
        [answer] if len(link.asked) == 1 else [link.frame(request, bytes.fromhex("03 04 41AC28F6"))]  # 21.52
    )
    written = await protocol.write(link, "x", 21.5)
    assert (written.read_back, written.verified) == (21.5, True)


@pytest.mark.parametrize(
    ("point", "value", "words"),
    [
        ({"write": False}, 1, "not writable"),
        ({}, 65536, "holds 0 to 65535"),
        ({}, -1, "holds 0 to 65535"),
        ({}, True, "not a number"),
        ({}, "1", "not a number"),
        ({}, b"1", "not a number"),
        ({}, float("nan"), "not a finite number"),
        ({}, float("inf"), "not a finite number"),
        ({"type": "float32"}, 1e39, "raw value"),
        ({"type": "float64"}, 10**400, "too large"),
        ({"type": "uint64"}, 2**64, "holds 0 to"),
        ({"type": "int8"}, 128, "holds -128 to 127"),
        ({"type": "bcd16"}, 10000, "holds 0 to 9999"),
        ({"type": "int16", "scale": 0.01}, 400, "raw value 40000"),
        ({"min": 5.0, "max": 30.0}, 4.9, "smallest value permitted"),
        ({"min": 5.0, "max": 30.0}, 31, "largest value permitted"),
        ({"type": "bool"}, 2, "not true"),
        ({"type": "bool"}, "on", "not true"),
        ({"at": "co:1"}, None, "not true"),
        ({"type": "string", "length": 2}, "abc", "at most 2"),
        ({"type": "string", "length": 2}, "°C", "3 bytes"),
        ({"type": "string", "length": 2}, 12, "not a text"),
        ({"type": "string", "length": 2}, "a ", "cannot be read back"),
        ({"type": "bytes", "length": 2}, b"a", "exactly 2 bytes"),
        ({"enum": {"0": "off", "1": "on"}}, "up", "not one of off, on"),
        ({"enum": {"0": "off", "1": "on"}}, 0.5, "not an integer"),
    ],
)
async def test_a_value_that_cannot_be_sent_is_refused_before_the_wire(
    build: Build, link: typing.Any, point: dict[str, typing.Any], value: Value, words: str
) -> None:
    protocol = build(writable(**point), link.framing)
    with pytest.raises(ConfigProblem, match=words) as caught:
        protocol.encode("x", value)
    assert caught.value.code == "command-refused"
    with pytest.raises(ConfigProblem, match=words):
        await protocol.write(link, "x", value)
    assert link.asked == []


def test_a_point_that_does_not_exist_is_refused(build: Build) -> None:
    with pytest.raises(ConfigProblem, match="no point 'y'"):
        build(writable()).encode("y", 1)


def test_large_integers_keep_every_digit(build: Build) -> None:
    assert build(writable(type="int64")).encode("x", 2**53 + 1) == 2**53 + 1
