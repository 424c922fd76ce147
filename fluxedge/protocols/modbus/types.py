"""Types and byte orders: how one value lies in registers, and back.

    order      wire bytes of the 32-bit value 0xAABBCCDD, as letters      ABCD  AA BB CC DD
                                                                          CDAB  CC DD AA BB
    8 bits     the low byte of a register; order BA: the high byte
    string     UTF-8; two characters a register (order AB or BA), or one in its high or low byte; trailing NUL and
               space are cut; what is not UTF-8 is read as latin-1, so that no byte is lost and the text stays visible
    bcd        one decimal digit a nibble; a nibble above 9 makes the value unusable
    bool       a coil, a discrete input, a bit of a register, or a whole register (true where it is not 0)

A value is described once, as the list `pick` of the byte numbers (inside the point's registers) that form it in
big-endian order. Reading picks bytes, writing puts them back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fluxedge.columns import Value
from fluxedge.config.structs import ModbusPointCfg
from fluxedge.protocols.modbus.address import ADDRESSES, Address
from fluxedge.protocols.modbus.plan import Limits, Span

ORDERS: dict[int, tuple[str, ...]] = {  # bytes of a value -> its orders, big endian first
    2: ("AB", "BA"),
    4: ("ABCD", "CDAB", "BADC", "DCBA"),
    8: ("ABCDEFGH", "BADCFEHG", "HGFEDCBA", "GHEFCDAB", "CDABGHEF", "EFGHABCD"),
}

_NUMBERS = {  # type -> (struct letter, bytes)
    "int8": ("b", 1), "uint8": ("B", 1), "int16": ("h", 2), "uint16": ("H", 2), "int32": ("i", 4), "uint32": ("I", 4),
    "int64": ("q", 8), "uint64": ("Q", 8), "float32": ("f", 4), "float64": ("d", 8),
}  # fmt: skip
_BCD = {"bcd16": ("H", 2), "bcd32": ("I", 4), "bcd64": ("Q", 8)}
TEXTS = ("string", "bytes")

Fix = Callable[[Value], "Value | None"]  # what `struct` returned -> raw, or None where it is unusable


@dataclass(frozen=True, slots=True)
class Layout:
    """One point, compiled."""

    span: Span
    wire: str  # model.Point.wire
    letter: str  # what `struct` unpacks from the picked bytes
    order: str  # letters; "" where there is none
    type: str
    pick: tuple[int, ...] = ()  # bytes inside the registers, most significant first; empty for coils and inputs
    bit: int | None = None  # of a register
    fix: Fix | None = field(default=None, compare=False)

    @property
    def partial(self) -> bool:
        """Tell whether the value shares its register with others (a bit, a byte): written with a mask."""
        return self.bit is not None or self.type in ("int8", "uint8")

    def encode(self, raw: Value) -> bytes:
        """Return the register bytes that hold `raw` (of `wire`'s type, checked before); other bytes are 0."""
        body = bytearray(2 * self.span.count)
        if self.bit is not None:
            return ((1 << self.bit) * bool(raw)).to_bytes(2, "big")
        for place, byte in zip(self.pick, self._packed(raw), strict=True):
            body[place] = byte
        return bytes(body)

    def _packed(self, raw: Value) -> bytes:
        if isinstance(raw, bytes):
            return raw
        if isinstance(raw, str):
            return raw.encode().ljust(len(self.pick), b"\0")
        if self.type in _BCD:
            return bytes.fromhex(f"{raw:0{2 * len(self.pick)}d}")
        return struct.pack(f">{self.letter}", raw)

    def mask(self) -> int:
        """Return the bits of the register that a partial value owns."""
        if self.bit is not None:
            return 1 << self.bit
        return 0xFF00 if self.pick == (0,) else 0x00FF


def compile_point(point: ModbusPointCfg, place: Address, default_order: str, limits: Limits) -> Layout:
    """Return the layout of `point`.

    `default_order` is the device's order of 32-bit values. It says nothing about 64-bit ones: what is sold as "word
    swap" is three different orders there, so such a point must state its own.

    Raises:
        ValueError: ("key", "message"), ...: the point contradicts itself or the limits.
    """
    kind = point.type if isinstance(point.type, str) else _default_type(place)
    if place.area.one_bit:
        return _compile_bit(point, place, kind)
    wrong = list(_misfits(point, place, kind))
    if any(key == "type" for key, _ in wrong):
        raise ValueError(*wrong)
    try:
        layout = _compile_registers(point, place, kind, default_order)
    except ValueError as exc:
        wrong += exc.args
    if wrong:
        raise ValueError(*wrong)
    if layout.span.end > ADDRESSES:
        raise ValueError(("at", f"{layout.span.count} registers from {place.number} go beyond address 65535"))
    most = limits.batch(place.area)
    if layout.span.count > most:
        raise ValueError(("type", f"{kind} needs {layout.span.count} registers; a request has at most {most}"))
    return layout


def _misfits(point: ModbusPointCfg, place: Address, kind: str) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong) for keys that do not go with the type."""
    if (point.length is not None) != (kind in TEXTS):
        yield "length", f"{'give' if kind in TEXTS else 'leave away'} length: {kind} is the type"
    if point.chars != "both" and kind != "string":
        yield "chars", f"only a string has chars, not {kind}"
    if place.bit is not None and kind != "bool":
        yield "type", f"a bit of a register is a bool, not {kind}"


def _default_type(place: Address) -> str:
    return "bool" if place.area.one_bit or place.bit is not None else "uint16"


def _compile_bit(point: ModbusPointCfg, place: Address, kind: str) -> Layout:
    wrong = []
    if kind != "bool":
        wrong.append(("type", f"a {place.area.noun} is a bool, not {kind}"))
    for key, given in (("order", point.order), ("length", point.length is not None), ("chars", point.chars != "both")):
        if given:
            wrong.append((key, f"a {place.area.noun} has no {key}"))
    if wrong:
        raise ValueError(*wrong)
    return Layout(Span(place.area, place.number, 1), "?", "?", "", "bool")


def _compile_registers(point: ModbusPointCfg, place: Address, kind: str, default_order: str) -> Layout:
    def span(count: int) -> Span:
        return Span(place.area, place.number, count)

    if kind in TEXTS:
        return _compile_text(point, kind, span)
    if kind == "bool":
        order = _order(point, 2, default_order)
        if place.bit is None:
            return Layout(span(1), "?", "H", order, kind, _picks(order), fix=bool)
        if point.order:
            raise ValueError(("order", "a bit has no order: bit 0 is the least significant one of the register"))
        byte, bit = 1 - place.bit // 8, place.bit % 8
        return Layout(span(1), "?", "B", "", kind, (byte,), place.bit, _BIT[bit].__getitem__)  # type: ignore[arg-type]
    if kind in _BCD:
        letter, size = _BCD[kind]
        order = _order(point, size, default_order)
        return Layout(span(size // 2), letter, f"{size}s", order, kind, _picks(order), fix=_decode_bcd)
    letter, size = _NUMBERS[kind]
    order = _order(point, max(size, 2), default_order)
    return Layout(span((size + 1) // 2), letter, letter, order, kind, _picks(order)[-size:])


def _compile_text(point: ModbusPointCfg, kind: str, span: Callable[[int], Span]) -> Layout:
    length = point.length or 0
    if point.chars == "both":
        order = _order(point, 2, "")
        swap = 1 if order == "BA" else 0
        count, pick = (length + 1) // 2, tuple(i ^ swap for i in range(length))
    else:
        if point.order:
            raise ValueError(("order", f'chars = "{point.chars}" says already which byte holds the character'))
        order, count = "", length
        pick = tuple(2 * i + (point.chars == "low") for i in range(length))
    if kind == "bytes":
        return Layout(span(count), "y", f"{length}s", order, kind, pick)
    return Layout(span(count), "s", f"{length}s", order, kind, pick, fix=_decode_text)


def _order(point: ModbusPointCfg, size: int, default_order: str) -> str:
    """Return the byte order of a value of `size` bytes."""
    if point.order:
        if point.order not in ORDERS[size]:
            orders = ", ".join(ORDERS[size])
            raise ValueError(("order", f"{point.order!r} is not an order of {8 * size} bits: {orders}"))
        return point.order
    if size == 4 and default_order:
        return default_order
    if size == 8 and default_order not in ("", "ABCD"):
        orders = ", ".join(ORDERS[8])
        words = f"the device's order {default_order} is one of 32-bit values; say which of {orders} this value has"
        raise ValueError(("order", words))
    return ORDERS[size][0]


def _picks(order: str) -> tuple[int, ...]:
    return tuple(order.index(letter) for letter in sorted(order))


_BIT = [tuple(bool(byte >> bit & 1) for byte in range(256)) for bit in range(8)]


def _decode_bcd(body: Value) -> int | None:
    text = body.hex()  # type: ignore[union-attr]
    return int(text) if text.isdecimal() else None


def _decode_text(body: Value) -> str:
    cut = body.rstrip(b"\0 ")  # type: ignore[union-attr,arg-type]
    try:
        return cut.decode()  # type: ignore[union-attr]
    except UnicodeDecodeError:
        return cut.decode("latin-1")  # type: ignore[union-attr]


def range_of(layout: Layout) -> tuple[int, int] | None:
    """Return the smallest and largest raw of an integer type; None for other types."""
    if layout.type in _BCD:
        return 0, 10 ** (2 * len(layout.pick)) - 1
    if layout.wire in "bhiq":
        half = 1 << (8 * struct.calcsize(f">{layout.wire}") - 1)
        return -half, half - 1
    if layout.wire in "BHIQ":
        return 0, (1 << 8 * struct.calcsize(f">{layout.wire}")) - 1
    return None


def is_number(layout: Layout) -> bool:
    """Tell whether scaling means something for this point."""
    return layout.wire not in "?sy"
