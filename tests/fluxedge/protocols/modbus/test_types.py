import math
import struct
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.columns import Value
from fluxedge.config.structs import ModbusPointCfg
from fluxedge.protocols.modbus.address import parse
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.plan import Limits, Request
from fluxedge.protocols.modbus.types import ORDERS, Layout, compile_point, range_of

SIZES = {
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "bcd16": 2, "int32": 4, "uint32": 4, "float32": 4, "bcd32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "bcd64": 8,
}  # fmt: skip
# Where byte A, B, C ... of the value stands on the wire, written out by hand from the names of the orders.
PLACES = {
    "AB": [0, 1], "BA": [1, 0],
    "ABCD": [0, 1, 2, 3], "CDAB": [2, 3, 0, 1], "BADC": [1, 0, 3, 2], "DCBA": [3, 2, 1, 0],
    "ABCDEFGH": [0, 1, 2, 3, 4, 5, 6, 7], "BADCFEHG": [1, 0, 3, 2, 5, 4, 7, 6],
    "HGFEDCBA": [7, 6, 5, 4, 3, 2, 1, 0], "GHEFCDAB": [6, 7, 4, 5, 2, 3, 0, 1],
    "CDABGHEF": [2, 3, 0, 1, 6, 7, 4, 5], "EFGHABCD": [4, 5, 6, 7, 0, 1, 2, 3],
}  # fmt: skip
EVERY = [(kind, order) for kind, size in SIZES.items() for order in ORDERS[max(size, 2)]]


def layout(at: str = "hr:0", default_order: str = "", **point: typing.Any) -> Layout:
    return compile_point(ModbusPointCfg(at=at, **point), parse(at), default_order, Limits())


def decode(one: Layout, body: bytes) -> Value | None:
    request = Request(one.span.area, one.span.start, one.span.count, (0,))
    return Decoder([one], [request]).decode([body])[0]


def values_of(kind: str) -> st.SearchStrategy[Value]:
    if kind == "float32":
        return st.floats(width=32, allow_nan=False)
    if kind == "float64":
        return st.floats(allow_nan=False)
    limits = range_of(layout(type=kind))
    assert limits is not None
    return st.integers(*limits)


@pytest.mark.parametrize(("kind", "order"), EVERY)
def test_every_type_in_every_order_comes_back_as_it_was_sent(kind: str, order: str) -> None:
    one = layout(type=kind, order=order)

    @settings(max_examples=40, deadline=None)
    @given(values_of(kind))
    def round_trip(value: Value) -> None:
        assert decode(one, one.encode(value)) == value

    round_trip()


@pytest.mark.parametrize("order", list(PLACES))
def test_an_order_names_the_wire_bytes(order: str) -> None:
    size = len(order)
    body = bytes(0x11 * (place + 1) for place in PLACES[order])
    kind = f"uint{8 * size}"
    assert decode(layout(type=kind, order=order), body) == int("1122334455667788"[: 2 * size], 16)


@pytest.mark.parametrize(
    ("kind", "order", "hexadecimal", "value"),
    [
        ("float32", "ABCD", "42F6E979", struct.unpack(">f", bytes.fromhex("42F6E979"))[0]),  # 123.456
        ("float32", "CDAB", "E97942F6", struct.unpack(">f", bytes.fromhex("42F6E979"))[0]),
        ("float32", "BADC", "F64279E9", struct.unpack(">f", bytes.fromhex("42F6E979"))[0]),
        ("float32", "DCBA", "79E9F642", struct.unpack(">f", bytes.fromhex("42F6E979"))[0]),
        ("float32", "", "C0490FDB", -3.1415927410125732),
        ("float64", "ABCDEFGH", "3FF8000000000000", 1.5),
        ("float64", "GHEFCDAB", "0000000000003FF8", 1.5),
        ("float64", "HGFEDCBA", "000000000000F83F", 1.5),
        ("float64", "BADCFEHG", "F83F000000000000", 1.5),
        ("float64", "CDABGHEF", "00003FF800000000", 1.5),
        ("float64", "EFGHABCD", "000000003FF80000", 1.5),
        ("int16", "", "FFFE", -2),
        ("int16", "BA", "FEFF", -2),
        ("uint16", "", "FFFE", 65534),
        ("int32", "CDAB", "FFFEFFFF", -2),
        ("uint32", "CDAB", "00020001", 65538),
        ("int64", "", "FFFFFFFFFFFFFFFE", -2),
        ("uint64", "", "8000000000000000", 2**63),
        ("uint8", "", "AB12", 0x12),
        ("uint8", "BA", "AB12", 0xAB),
        ("int8", "", "00FF", -1),
        ("bcd16", "", "1234", 1234),
        ("bcd16", "BA", "3412", 1234),
        ("bcd32", "CDAB", "56781234", 12345678),
        ("bcd64", "", "1234567890123456", 1234567890123456),
        ("bool", "", "0000", False),
        ("bool", "", "0100", True),
    ],
)
def test_literals_of_the_wire_decode_to_their_values(kind: str, order: str, hexadecimal: str, value: Value) -> None:
    assert decode(layout(type=kind, order=order), bytes.fromhex(hexadecimal)) == value


@pytest.mark.parametrize("body", ["000A", "A000", "FFFF"])
def test_a_nibble_above_nine_is_no_bcd(body: str) -> None:
    assert decode(layout(type="bcd16"), bytes.fromhex(body)) is None


def test_not_a_number_comes_through_for_the_round_to_judge() -> None:
    raw = decode(layout(type="float32"), bytes.fromhex("7FC00000"))
    assert isinstance(raw, float)
    assert math.isnan(raw)


@pytest.mark.parametrize("bit", range(16))
def test_bits_of_a_register_count_from_the_least_significant(bit: int) -> None:
    one = layout(f"hr:0.{bit}")
    assert decode(one, (1 << bit).to_bytes(2, "big")) is True
    assert decode(one, (0xFFFF ^ 1 << bit).to_bytes(2, "big")) is False
    assert one.encode(True) == (1 << bit).to_bytes(2, "big")
    assert one.encode(False) == b"\0\0"


@pytest.mark.parametrize(
    ("point", "body", "text"),
    [
        ({"length": 4}, b"ABCD", "ABCD"),
        ({"length": 4, "order": "BA"}, b"BADC", "ABCD"),
        ({"length": 3}, b"ABC?", "ABC"),
        ({"length": 3, "order": "BA"}, b"BA?C", "ABC"),
        ({"length": 2, "chars": "low"}, b"?A?B", "AB"),
        ({"length": 2, "chars": "high"}, b"A?B?", "AB"),
        ({"length": 4}, b"AB\0\0", "AB"),
        ({"length": 4}, b"AB  ", "AB"),
        ({"length": 4}, b" A B", " A B"),
        ({"length": 4}, b"\0\0\0\0", ""),
        ({"length": 4}, "°C".encode() + b"\0", "°C"),
        ({"length": 2}, b"\xb0C", "°C"),  # latin-1, not UTF-8
    ],
)
def test_strings_lie_in_registers_as_the_driver_says(point: dict[str, typing.Any], body: bytes, text: str) -> None:
    assert decode(layout(type="string", **point), body) == text


@pytest.mark.parametrize("point", [{}, {"order": "BA"}, {"chars": "low"}, {"chars": "high"}])
def test_a_string_comes_back_as_it_was_sent(point: dict[str, typing.Any]) -> None:
    one = layout(type="string", length=7, **point)
    assert decode(one, one.encode("a/°C")) == "a/°C"
    assert decode(one, one.encode("")) == ""


def test_bytes_are_kept_as_they_are() -> None:
    one = layout(type="bytes", length=3)
    assert decode(one, b"\0\xff\x20\x00") == b"\0\xff\x20"
    assert one.encode(b"\0\xff\x20") == b"\0\xff\x20\0"


@pytest.mark.parametrize(
    ("point", "key", "words"),
    [
        ({"type": "float32", "order": "AB"}, "order", "not an order of 32 bits"),
        ({"type": "float64", "order": "ABCD"}, "order", "not an order of 64 bits"),
        ({"type": "string"}, "length", "give length"),
        ({"type": "int16", "length": 2}, "length", "leave away length"),
        ({"type": "int16", "chars": "low"}, "chars", "only a string"),
        ({"at": "hr:1.2", "type": "int16"}, "type", "is a bool"),
        ({"at": "hr:1.2", "order": "BA"}, "order", "a bit has no order"),
        ({"at": "co:1", "type": "int16"}, "type", "is a bool"),
        ({"at": "co:1", "order": "AB"}, "order", "has no order"),
        ({"at": "hr:65535", "type": "int32"}, "at", "beyond address 65535"),
        ({"type": "string", "length": 126, "chars": "low"}, "type", "126 registers"),
        ({"type": "string", "length": 4, "chars": "low", "order": "AB"}, "order", "says already"),
    ],
)
def test_a_point_that_contradicts_itself_is_refused(point: dict[str, typing.Any], key: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        layout(**point)
    ((found, _),) = caught.value.args
    assert found == key
    assert words in caught.value.args[0][1]


def test_everything_that_contradicts_a_points_type_is_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        layout(type="int32", length=4, chars="low", order="AB")
    assert [key for key, _ in caught.value.args] == ["length", "chars", "order"]
    with pytest.raises(ValueError) as caught:
        layout(at="co:1", type="int16", length=4)
    assert [key for key, _ in caught.value.args] == ["type", "length"]


def test_the_device_order_holds_for_32_bits_and_leaves_16_bits_alone() -> None:
    assert layout(default_order="CDAB", type="float32").order == "CDAB"
    assert layout(default_order="CDAB", type="float32", order="DCBA").order == "DCBA"
    assert layout(default_order="DCBA", type="uint16").order == "AB"
    assert layout(default_order="ABCD", type="float64").order == "ABCDEFGH"


def test_a_64_bit_value_of_a_word_swapped_device_must_say_which_order_it_has() -> None:
    with pytest.raises(ValueError) as caught:
        layout(default_order="CDAB", type="int64")
    assert "GHEFCDAB" in caught.value.args[0][1]


def test_types_have_defaults_that_fit_the_address() -> None:
    assert (layout("co:0").type, layout("hr:0").type, layout("hr:0.1").type) == ("bool", "uint16", "bool")
