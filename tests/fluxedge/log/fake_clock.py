"""A clock that stands until a test moves it, and short ways to groups, rounds and events."""

from __future__ import annotations

from fluxedge.columns import Value
from fluxedge.model import Event, Group, Point, Round

START_NS = 1_780_000_000 * 10**9
DAY_S = 86_400.0


class FakeClock:
    """UTC and CLOCK_BOOTTIME that move together."""

    def __init__(self, *, trusted: bool = True) -> None:
        self.now_ns = START_NS
        self.up_ns = 10**9
        self.is_trusted = trusted

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return self.up_ns

    def trusted(self) -> bool:
        return self.is_trusted

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 10**9)
        self.up_ns += int(seconds * 10**9)


def group_of(wires: str = "HH", device: str = "m1", name: str = "main", **more: object) -> Group:
    """Return a group of points p0, p1, ... with these wire types."""
    points = tuple(Point(f"p{i}", wire, **more) for i, wire in enumerate(wires))  # type: ignore[arg-type]
    return Group(device, name, points)


def round_of(group: Group, *raws: Value | None, at_ns: int = START_NS, quality: bytes = b"") -> Round:
    return group.round(raws, at_ns, 10**9, quality=quality)


def event_of(kind: str = "audit", item: str = "gateway", at_ns: int = START_NS, **data: object) -> Event:
    return Event(kind, item, at_ns, 10**9, dict(data))
