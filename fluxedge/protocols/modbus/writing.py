"""Writing one value: check it before the wire, then the one question that sends it.

coil                  FC05, or FC15 where the driver file says write = "multiple"
one register          FC06, or FC16 for write = "multiple"
several registers     FC16, always in one request
a bit, an 8-bit part  FC22 mask write; a device without it (exception 01), or a driver file that says "single" or
                      "multiple": read, change, write back. That is not atomic: what the device itself changes in
                      the register meanwhile is lost.
"""

from __future__ import annotations

import math
import struct

from fluxedge.columns import Value, unscale
from fluxedge.config.structs import ModbusPointCfg
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.modbus.compile import CompiledPoint
from fluxedge.protocols.modbus.framing import Question
from fluxedge.protocols.modbus.plan import Request
from fluxedge.protocols.modbus.types import Layout, range_of

_ON, _OFF = 0xFF00, 0x0000  # MODBUS Application Protocol V1.1b3, 6.5


def encode_value(point: CompiledPoint, value: Value) -> Value:
    """Return the raw that would be sent for an engineering value.

    Raises:
        ConfigProblem: "command-refused", with the reason.
    """
    try:
        return _raw_of(point, value)
    except (ValueError, OverflowError) as exc:
        raise ConfigProblem("command-refused", f"{point.point.name}: {exc}") from exc


def _raw_of(point: CompiledPoint, value: Value) -> Value:
    layout, cfg = point.layout, point.cfg
    if cfg.write is False:
        raise ValueError("it is not writable; its driver file does not say write = true")
    if layout.wire == "?":
        if value not in (0, 1) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not true, false, 1 or 0")
        return bool(value)
    if layout.wire == "s":
        return _text(layout, value)
    if layout.wire == "y":
        if not isinstance(value, bytes) or len(value) != len(layout.pick):
            raise ValueError(f"it takes exactly {len(layout.pick)} bytes")
        return value
    if isinstance(value, str) and cfg.enum:
        value = _enum_value(cfg, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return _number(point, value)


def _text(layout: Layout, value: Value) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    if len(value.encode()) > len(layout.pick):
        raise ValueError(f"the text has {len(value.encode())} bytes; it takes at most {len(layout.pick)}")
    if value != value.rstrip("\0 "):
        raise ValueError("a text that ends with a space or NUL cannot be read back")
    return value


def _enum_value(cfg: ModbusPointCfg, name: str) -> int:
    for number, known in cfg.enum.items():
        if known == name:
            return int(number, 0)
    raise ValueError(f"{name!r} is not one of {', '.join(cfg.enum.values())}")


def _number(point: CompiledPoint, value: float) -> Value:
    layout, cfg = point.layout, point.cfg
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if cfg.min is not None and value < cfg.min:
        raise ValueError(f"{value:g} is below the smallest value permitted, {cfg.min:g}")
    if cfg.max is not None and value > cfg.max:
        raise ValueError(f"{value:g} is above the largest value permitted, {cfg.max:g}")
    scale, offset = point.point.scale, point.point.offset
    limits = range_of(layout)
    if limits is None:
        raw = unscale(value, scale, offset, layout.wire)
        return float(struct.unpack(f">{layout.wire}", struct.pack(f">{layout.wire}", raw))[0])
    if (cfg.enum or cfg.bits) and value != int(value):
        raise ValueError(f"{value:g} is not an integer")
    number = int(unscale(value, scale, offset, layout.wire))
    if not limits[0] <= number <= limits[1]:
        raise ValueError(f"{value:g} would be the raw value {number}; {layout.type} holds {limits[0]} to {limits[1]}")
    return number


def write_question(unit: int, point: CompiledPoint, raw: Value) -> Question:
    """Return the question that sends `raw`; for a part of a register that is the mask write."""
    layout = point.layout
    start, count = layout.span.start, layout.span.count
    several = point.cfg.write == "multiple"
    if layout.span.area.one_bit:
        if several:  # function, address, quantity, byte count, bits    6.11
            return _question(unit, struct.pack(">BHHBB", 15, start, 1, 1, bool(raw)), 5, point)
        return _question(unit, struct.pack(">BHH", 5, start, _ON if raw else _OFF), 5, point)
    body = layout.encode(raw)
    if layout.partial:  # function, address, AND mask, OR mask: result = (old AND and) OR (or AND NOT and)    6.16
        keep = 0xFFFF & ~layout.mask()
        return _question(unit, struct.pack(">BHH", 22, start, keep) + body, 7, point)
    return _registers(unit, point, body, count > 1 or several)


def _registers(unit: int, point: CompiledPoint, body: bytes, several: bool) -> Question:
    start = point.layout.span.start
    if several:  # function, address, quantity, byte count, values    6.12
        return _question(unit, struct.pack(">BHHB", 16, start, len(body) // 2, len(body)) + body, 5, point)
    return _question(unit, struct.pack(">BH", 6, start) + body, 5, point)


def merge_question(unit: int, point: CompiledPoint, old: bytes, raw: Value) -> Question:
    """Return the question that writes a whole register, `old` with the point's part changed."""
    mask = point.layout.mask()
    word = int.from_bytes(old, "big") & ~mask | int.from_bytes(point.layout.encode(raw), "big")
    return _registers(unit, point, word.to_bytes(2, "big"), point.cfg.write == "multiple")


def _question(unit: int, pdu: bytes, echoed: int, point: CompiledPoint) -> Question:
    span = point.layout.span
    place = Request(span.area, span.start, span.count, ()).place()
    return Question(unit, pdu, pdu[1:echoed], echoed, 1, f"writing {point.point.name}, {place}")


def same(point: CompiledPoint, sent: Value, read_back: Value | None) -> bool:
    """Tell whether a raw that was read back is the one that was sent, within the point's resolution."""
    if read_back is None:
        return False
    if isinstance(sent, float) and isinstance(read_back, float):
        step = 0.0
        if point.point.precision is not None:
            step = 0.5 * 10.0**-point.point.precision / abs(point.point.scale)
        return math.isclose(sent, read_back, rel_tol=1e-6, abs_tol=step)
    return sent == read_back
