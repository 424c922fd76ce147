import typing
from collections.abc import Callable

import pytest

from fluxedge.model import Quality
from fluxedge.problems import DeviceProblem, LinkProblem
from fluxedge.protocols.modbus import ModbusProtocol
from fluxedge.protocols.modbus.reading import EXTRA_REQUESTS, REFUSED_EVERY

GOOD, UNCERTAIN, BAD, OFFLINE = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.OFFLINE
Build = Callable[..., ModbusProtocol]


def holding(*addresses: int, kind: str = "uint16") -> dict[str, dict[str, typing.Any]]:
    return {f"p{address}": {"at": f"hr:{address}", "type": kind} for address in addresses}


def marks(round_: typing.Any) -> list[int]:
    return list(round_.quality or bytes(len(round_.values)))


async def test_a_whole_round_is_good_and_stamped_with_the_last_reply(build: Build, link: typing.Any) -> None:
    protocol = build({**holding(0, 1), "t": {"at": "ir:5", "type": "int16", "scale": 0.1}}, link.framing)
    link.words = {"hr": {0: 7, 1: 8}, "ir": {5: 0xFFFF}}
    read = await protocol.read(link, protocol.groups[0])
    assert read.values == (7, 8, -0.1)
    assert read.quality == b""
    assert (read.at_ns % 1000, read.arrived_mono_ns % 1000) == (2, 2)
    assert protocol.partial is None


async def test_silence_to_the_first_request_ends_the_read_at_once(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300, 600), link.framing)
    link.silent = lambda pdu: True
    with pytest.raises(DeviceProblem) as caught:
        await protocol.read(link, protocol.groups[0])
    assert (caught.value.code, len(link.asked)) == ("no-reply", 1)


async def test_silence_to_a_later_request_costs_its_points_only(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300, 600), link.framing)
    link.words["hr"] = dict.fromkeys(range(1000), 5)
    link.silent = lambda pdu: pdu[1:3] == (300).to_bytes(2, "big")
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), read.values) == ([GOOD, OFFLINE, GOOD], (5, None, 5))
    assert protocol.partial is not None
    assert protocol.partial.code == "no-reply"
    link.silent = lambda pdu: False
    assert (await protocol.read(link, protocol.groups[0])).quality == b""
    assert protocol.partial is None


async def test_a_second_silence_ends_the_read(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300, 600, 900), link.framing)
    link.words["hr"] = dict.fromkeys(range(1000), 5)
    link.silent = lambda pdu: pdu[1:3] != b"\0\0"
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), len(link.asked)) == ([GOOD, OFFLINE, OFFLINE, OFFLINE], 3)


@pytest.mark.parametrize(("exception", "code"), [(0x0A, "gateway-path"), (0x0B, "gateway-target")])
async def test_a_gateway_without_the_device_is_a_silence(
    build: Build, link: typing.Any, exception: int, code: str
) -> None:
    protocol = build(holding(0, 300), link.framing)
    link.refuse = lambda pdu: exception
    with pytest.raises(DeviceProblem) as caught:
        await protocol.read(link, protocol.groups[0])
    assert (caught.value.code, caught.value.alive, len(link.asked)) == (code, False, 1)


@pytest.mark.parametrize("exception", [1, 4, 5, 6, 8])
async def test_an_exception_costs_its_points_only_and_is_not_asked_again(
    build: Build, link: typing.Any, exception: int
) -> None:
    protocol = build({**holding(0, 1, 2), "x": {"at": "ir:0"}}, link.framing)
    link.words = {"hr": {0: 1, 1: 2, 2: 3}, "ir": {0: 4}}
    link.refuse = lambda pdu: exception if pdu[0] == 3 else None
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), read.values) == ([BAD, BAD, BAD, GOOD], (None, None, None, 4))
    assert len(link.asked) == 2
    assert protocol.partial is not None
    assert protocol.partial.alive
    assert protocol.partial.message.startswith("p0, p1, p2: unit 1, FC03, registers 0–2")


async def test_a_read_without_any_usable_answer_raises_what_the_device_said(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300), link.framing)
    link.refuse = lambda pdu: 4
    with pytest.raises(DeviceProblem) as caught:
        await protocol.read(link, protocol.groups[0])
    assert (caught.value.code, caught.value.alive) == ("device-failure", True)


async def test_a_hole_that_the_device_refuses_becomes_a_barrier(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 1, 5, 6), link.framing)
    link.words["hr"] = {0: 1, 1: 2, 5: 3, 6: 4}  # 2 to 4 do not exist
    read = await protocol.read(link, protocol.groups[0])
    assert (read.values, read.quality) == ((1, 2, 3, 4), b"\0\0\0\0")
    assert protocol.partial is not None
    assert protocol.partial.hint == 'Add barriers = ["40003"] to the driver file\'s [options].'
    assert len(link.asked) == 3
    link.asked.clear()
    assert (await protocol.read(link, protocol.groups[0])).values == (1, 2, 3, 4)
    assert protocol.partial is None  # said once
    assert link.asked == [bytes.fromhex("03 0000 0002"), bytes.fromhex("03 0005 0002")]


async def test_the_barrier_of_the_hint_makes_the_plan_that_was_learned(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 1, 5, 6), link.framing, barriers=["40003"])
    link.words["hr"] = {0: 1, 1: 2, 5: 3, 6: 4}
    assert (await protocol.read(link, protocol.groups[0])).quality == b""
    assert len(link.asked) == 2


async def test_one_missing_register_costs_its_own_point_only(build: Build, link: typing.Any) -> None:
    protocol = build(holding(*range(60)), link.framing)
    link.words["hr"] = {address: address for address in range(60) if address != 37}
    read = await protocol.read(link, protocol.groups[0])
    assert [i for i, mark in enumerate(marks(read)) if mark == BAD] == [37]
    assert read.values == tuple(None if i == 37 else i for i in range(60))
    assert len(link.asked) <= 1 + EXTRA_REQUESTS
    assert protocol.partial is not None
    assert protocol.partial.code == "illegal-address"
    assert protocol.partial.message.startswith("p37: unit 1, FC03, register 37 (40038)")


async def test_a_missing_register_is_remembered_and_asked_again_now_and_then(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 1), link.framing)
    link.words["hr"] = {0: 5}
    await protocol.read(link, protocol.groups[0])
    asked = []
    for _ in range(REFUSED_EVERY):
        link.asked.clear()
        read = await protocol.read(link, protocol.groups[0])
        assert marks(read) == [GOOD, BAD]
        assert protocol.partial is not None
        asked.append(len(link.asked))
    assert sorted(asked) == [1] * (REFUSED_EVERY - 1) + [2]
    link.words["hr"][1] = 6  # the option was fitted
    for _ in range(REFUSED_EVERY):
        read = await protocol.read(link, protocol.groups[0])
    assert (read.values, protocol.partial) == ((5, 6), None)


async def test_a_block_that_does_not_exist_is_asked_rarely_and_not_cut_for_ever(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300, 301, 302), link.framing)
    link.words["hr"] = {0: 5}
    read = await protocol.read(link, protocol.groups[0])
    assert marks(read) == [GOOD, BAD, BAD, BAD]
    link.asked.clear()
    assert marks(await protocol.read(link, protocol.groups[0])) == [GOOD, BAD, BAD, BAD]
    assert len(link.asked) == 1
    assert len(protocol.describe()) == 2


async def test_the_search_is_bounded_in_one_read_and_goes_on_in_the_next(build: Build, link: typing.Any) -> None:
    protocol = build(holding(*range(100)), link.framing)
    missing = {3, 20, 41, 66, 90}
    link.words["hr"] = {address: address for address in range(100) if address not in missing}
    for _ in range(6):
        link.asked.clear()
        before = len(protocol.describe())
        read = await protocol.read(link, protocol.groups[0])
        assert len(link.asked) <= before + EXTRA_REQUESTS
    assert {i for i, mark in enumerate(marks(read)) if mark == BAD} == missing


async def test_a_device_that_takes_fewer_registers_is_read_in_smaller_requests(build: Build, link: typing.Any) -> None:
    protocol = build(holding(*range(120)), link.framing)
    link.words["hr"] = {address: address for address in range(120)}
    link.refuse = lambda pdu: 3 if int.from_bytes(pdu[3:5], "big") > 50 else None
    read = await protocol.read(link, protocol.groups[0])
    assert read.values == tuple(range(120))
    assert protocol.partial is not None
    assert protocol.partial.hint == "Add max_registers = 30 to the driver file's [options]."
    link.asked.clear()
    assert (await protocol.read(link, protocol.groups[0])).quality == b""
    assert len(link.asked) == 4


async def test_silence_in_the_middle_of_a_search_ends_the_search_and_teaches_nothing_false(
    build: Build, link: typing.Any
) -> None:
    protocol = build(holding(*range(8)), link.framing)
    link.words["hr"] = {address: address for address in range(8)}
    link.refuse = lambda pdu: 2 if pdu[4] == 8 else None
    link.silent = lambda pdu: pdu[4] == 4
    with pytest.raises(DeviceProblem):
        await protocol.read(link, protocol.groups[0])
    assert len(link.asked) == 3
    link.silent = link.refuse = lambda pdu: None
    assert (await protocol.read(link, protocol.groups[0])).values == tuple(range(8))


async def test_two_bits_of_a_missing_register_are_one_refusal(build: Build, link: typing.Any) -> None:
    protocol = build({"a": {"at": "hr:0.0"}, "b": {"at": "hr:0.1"}, "c": {"at": "ir:0"}}, link.framing)
    link.words["ir"] = {0: 1}
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), len(link.asked)) == ([BAD, BAD, GOOD], 2)


async def test_values_that_a_late_reply_could_have_forged_are_uncertain(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 300), link.framing)
    link.words["hr"] = {0: 1, 300: 2}
    link.suspect = lambda pdu: pdu[1:3] == b"\0\0"
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), read.values) == ([UNCERTAIN, GOOD], (1, 2))
    assert protocol.partial is not None
    assert protocol.partial.code == "late-reply-possible"


async def test_registers_that_are_no_bcd_are_bad_and_named(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0, 1, kind="bcd16"), link.framing)
    link.words["hr"] = {0: 0x1234, 1: 0x12AB}
    read = await protocol.read(link, protocol.groups[0])
    assert (marks(read), read.values) == ([GOOD, BAD], (1234, None))
    assert protocol.partial is not None
    assert (protocol.partial.code, protocol.partial.alive) == ("bad-value", True)


async def test_a_closed_channel_comes_through(build: Build, link: typing.Any) -> None:
    protocol = build(holding(0), link.framing)

    async def exchange(*args: object, **options: object) -> None:
        raise LinkProblem("link-down", "gone")

    link.exchange = exchange
    with pytest.raises(LinkProblem):
        await protocol.read(link, protocol.groups[0])


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\xff" * 300, b"HTTP/1.1 400 Bad Request\r\n"])
async def test_after_garbage_the_next_read_works(build: Build, link: typing.Any, garbage: bytes) -> None:
    protocol = build(holding(0), link.framing)
    link.words["hr"] = {0: 1}
    link.frames = lambda request, answer: [garbage]
    with pytest.raises(DeviceProblem):
        await protocol.read(link, protocol.groups[0])
    link.frames = None
    assert (await protocol.read(link, protocol.groups[0])).values == (1,)
