import pytest

from fluxedge.protocols.modbus.address import Address, Area, describe, parse


@pytest.mark.parametrize(
    ("text", "area", "number", "bit"),
    [
        ("40001", Area.HOLDING_REGISTERS, 0, None),
        ("400001", Area.HOLDING_REGISTERS, 0, None),
        ("49999", Area.HOLDING_REGISTERS, 9998, None),
        ("465536", Area.HOLDING_REGISTERS, 65535, None),
        ("30001", Area.INPUT_REGISTERS, 0, None),
        ("300073", Area.INPUT_REGISTERS, 72, None),
        ("10001", Area.DISCRETE_INPUTS, 0, None),
        ("00001", Area.COILS, 0, None),
        ("000001", Area.COILS, 0, None),
        ("065536", Area.COILS, 65535, None),
        ("hr:0", Area.HOLDING_REGISTERS, 0, None),
        ("hr:0x10", Area.HOLDING_REGISTERS, 16, None),
        ("ir:0xFFFF", Area.INPUT_REGISTERS, 65535, None),
        ("co:7", Area.COILS, 7, None),
        ("di:65535", Area.DISCRETE_INPUTS, 65535, None),
        ("hr:10.3", Area.HOLDING_REGISTERS, 10, 3),
        ("hr:0x0a.15", Area.HOLDING_REGISTERS, 10, 15),
        ("40011.0", Area.HOLDING_REGISTERS, 10, 0),
    ],
)
def test_an_address_means_what_its_convention_says(text: str, area: Area, number: int, bit: int | None) -> None:
    assert parse(text) == Address(area, number, bit)


def test_bit_1_and_bit_10_are_different_bits() -> None:
    assert (parse("hr:10.1").bit, parse("hr:10.10").bit) == (1, 10)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("1", "convention"),
        ("0x10", "convention"),
        ("4x00001", "convention"),
        ("HR:1", "convention"),
        ("", "convention"),
        ("hr:-1", "convention"),
        ("40001.16", "bits of a register"),
        ("hr:10.03", "bits of a register"),
        ("40000", "count from 1"),
        ("465537", "count from 1"),
        ("20001", "begins with"),
        ("hr:65536", "end at 65535"),
        ("co:1.0", "one bit already"),
        ("00001.2", "one bit already"),
        ("٤0001", "convention"),  # a digit of another script
    ],
)
def test_what_is_no_address_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        parse(text)


def test_references_are_printed_as_datasheets_print_them() -> None:
    assert Area.INPUT_REGISTERS.reference(0) == "30001"
    assert Area.COILS.reference(9998) == "09999"
    assert Area.HOLDING_REGISTERS.reference(9999) == "410000"
    assert all(parse(area.reference(n)) == Address(area, n) for area in Area for n in (0, 9998, 9999, 65535))


def test_describe_says_what_goes_on_the_wire() -> None:
    assert describe("30001", 2, "ABCD") == "30001 → FC04, address 0, 2 registers, ABCD"
    assert describe("hr:10.3", 1, "") == "hr:10.3 → FC03, address 10, 1 register, bit 3"
    assert describe("00001", 1, "") == "00001 → FC01, address 0, 1 coil"
