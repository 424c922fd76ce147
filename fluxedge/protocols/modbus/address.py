"""Modbus addresses as users write them, with their convention; nothing is guessed.

    40001 400001    reference: the first digit is the area, the rest counts from 1     (datasheets, "4x")
    hr:0 hr:0x10    PDU address, as on the wire: co: di: ir: hr:                       (hex in a datasheet)
    hr:10.3         bit 3 of a register, 0 = least significant; also 40011.3

Addresses are strings: leading zeros matter (00001 and 000001 are coils), and a bit is not a decimal fraction.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

ADDRESSES = 65536  # in every area; MODBUS Application Protocol V1.1b3, 4.4


class Area(enum.Enum):
    """The four tables of a device: (prefix, reference digit, function that reads it, noun)."""

    COILS = ("co", "0", 1, "coil")
    DISCRETE_INPUTS = ("di", "1", 2, "discrete input")
    INPUT_REGISTERS = ("ir", "3", 4, "register")
    HOLDING_REGISTERS = ("hr", "4", 3, "register")

    def __init__(self, prefix: str, digit: str, function: int, noun: str) -> None:
        self.prefix = prefix
        self.digit = digit
        self.function = function
        self.noun = noun
        self.title = self.name.lower().replace("_", " ")
        self.one_bit = function <= 2  # an address holds one bit, not 16
        self.writable = prefix in ("co", "hr")

    def reference(self, address: int) -> str:
        """Return a PDU address as a datasheet prints it: 5 digits as long as they suffice."""
        number = address + 1
        return f"{self.digit}{number:04d}" if number <= 9999 else f"{self.digit}{number:05d}"


@dataclass(frozen=True, slots=True)
class Address:
    """One place in a device."""

    area: Area
    number: int  # PDU address
    bit: int | None = None  # of a register, 0 = least significant


_BY_PREFIX = {area.prefix: area for area in Area}
_BY_DIGIT = {area.digit: area for area in Area}
_PDU = re.compile(r"(co|di|ir|hr):(0x[0-9a-fA-F]{1,4}|[0-9]{1,5})(?:\.([0-9]{1,2}))?")
_REFERENCE = re.compile(r"([0-9])([0-9]{4,5})(?:\.([0-9]{1,2}))?")


def parse(text: str) -> Address:
    """Return the place that `text` names.

    Raises:
        ValueError: it names none; the message says what to write.
    """
    if match := _PDU.fullmatch(text):
        area, number = _BY_PREFIX[match[1]], int(match[2], 16 if match[2].startswith("0x") else 10)
        if number >= ADDRESSES:
            raise ValueError(f"{text!r}: PDU addresses end at 65535")
        return Address(area, number, _bit(text, area, match[3]))
    if match := _REFERENCE.fullmatch(text):
        if match[1] not in _BY_DIGIT:
            raise ValueError(f"{text!r}: a reference begins with 0 (coil), 1 (discrete input), 3 (input), 4 (holding)")
        area, number = _BY_DIGIT[match[1]], int(match[2]) - 1
        if not 0 <= number < ADDRESSES:
            raise ValueError(f"{text!r}: references count from 1 to 65536 after the first digit")
        return Address(area, number, _bit(text, area, match[3]))
    raise ValueError(
        f"{text!r} does not say its convention; write a reference such as 40001 or 400001, "
        "or a PDU address such as hr:0 or hr:0x10 (co: di: ir: hr:), with .3 for a bit of a register"
    )


def _bit(text: str, area: Area, digits: str | None) -> int | None:
    if digits is None:
        return None
    if area.one_bit:
        raise ValueError(f"{text!r}: a {area.noun} is one bit already; leave .{digits} away")
    if int(digits) > 15 or digits != str(int(digits)):
        raise ValueError(f"{text!r}: the bits of a register are .0 (least significant) to .15")
    return int(digits)


def describe(text: str, count: int, order: str) -> str:
    """Return what goes on the wire: "30001 → FC04, address 0, 2 registers, ABCD"."""
    place = parse(text)
    noun = place.area.noun if count == 1 else f"{place.area.noun}s"
    words = [f"FC{place.area.function:02d}", f"address {place.number}", f"{count} {noun}"]
    if place.bit is not None:
        words.append(f"bit {place.bit}")
    if order:
        words.append(order)
    return f"{text} → {', '.join(words)}"
