"""Values as people read them."""

from __future__ import annotations

from fluxedge.columns import Value
from fluxedge.model import Point

_MOST_BYTES = 16


def shown(point: Point, value: Value | None) -> str:
    """Return an engineering value in the digits that its type is worth; enums and bits with their names."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value[:_MOST_BYTES].hex(" ") + (" …" if len(value) > _MOST_BYTES else "")
    if isinstance(value, str):
        return value
    if point.enum:
        return f"{value:g} {point.enum.get(int(value), '?')}"
    if point.bits:
        names = [name for bit, name in sorted(point.bits.items()) if int(value) >> bit & 1]
        return f"{int(value)} {' '.join(names)}".rstrip()
    return number(point, value)


def number(point: Point, value: float) -> str:
    """Return a number without digits that its type does not have."""
    if point.precision is not None:
        return f"{value:.{point.precision}f}"
    if isinstance(value, int):
        return str(value)
    return f"{value:.7g}" if point.wire == "f" else f"{value:.10g}"
