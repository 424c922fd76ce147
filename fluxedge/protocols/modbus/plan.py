"""Read planning: which points share a request. Pure: (spans, limits) -> requests.

    points      ██ ██████   ██       █ ███████
    requests   [██ ██████...██]     [█ ███████]      a hole is read when that is cheaper than another request

Areas never merge; a request spans no barrier; no limit of the specification or the device is exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fluxedge.protocols.modbus.address import Area

MOST_REGISTERS = 125  # MODBUS Application Protocol V1.1b3, 6.3 and 6.4
MOST_BITS = 2000  # 6.1 and 6.2

# A hole is worth reading when its bytes cost less than one more request: PDU 5 + 2 bytes, plus 2 x 3 on RTU and
# 2 x 27 on TCP; (overhead + 1) // 2 registers. The model is dbus-modbus-client's.
GAP_REGISTERS = {"rtu": 7, "tcp": 31}


@dataclass(frozen=True, slots=True)
class Span:
    """Where one point lies: registers, or bits of coils and discrete inputs."""

    area: Area
    start: int
    count: int

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Limits:
    """How requests may be built for one device."""

    max_registers: int = MOST_REGISTERS
    max_bits: int = MOST_BITS
    max_gap: int = 7  # registers in a hole that are read along
    max_bit_gap: int = 64
    barriers: frozenset[tuple[Area, int]] = frozenset()  # no request goes over the edge before this address
    single_requests: bool = False

    def batch(self, area: Area) -> int:
        """Return the longest request of an area."""
        if area.one_bit:
            return min(self.max_bits, MOST_BITS)
        return min(self.max_registers, MOST_REGISTERS)

    def gap(self, area: Area) -> int:
        """Return the longest hole of an area that is read along."""
        return self.max_bit_gap if area.one_bit else self.max_gap


@dataclass(frozen=True, slots=True)
class Request:
    """One read request and the points (indices, ascending) that it answers."""

    area: Area
    start: int
    count: int
    members: tuple[int, ...]

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.start + self.count

    @property
    def data_bytes(self) -> int:
        """Return how many data bytes a regular reply has."""
        return (self.count + 7) // 8 if self.area.one_bit else 2 * self.count

    def place(self) -> str:
        """Return its addresses in words: "registers 0–79 (30001–30080)"."""
        area, last = self.area, self.end - 1
        if self.count == 1:
            return f"{area.noun} {self.start} ({area.reference(self.start)})"
        return f"{area.noun}s {self.start}–{last} ({area.reference(self.start)}–{area.reference(last)})"


def plan(spans: Sequence[Span], limits: Limits) -> tuple[Request, ...]:
    """Return the requests that read all `spans`; members are indices into `spans`.

    A span longer than the limits gets a request of its own; `types` refuses such points when the driver is compiled.
    """
    requests: list[Request] = []
    for area in Area:
        members = sorted((i for i, s in enumerate(spans) if s.area is area), key=lambda i: (spans[i].start, i))
        requests += _plan_area(area, spans, members, limits)
    return tuple(requests)


def _plan_area(area: Area, spans: Sequence[Span], members: Iterable[int], limits: Limits) -> list[Request]:
    barriers = sorted(number for of, number in limits.barriers if of is area)
    gap, batch = limits.gap(area), limits.batch(area)
    blocks: list[tuple[int, int, list[int]]] = []
    for i in members:
        span = spans[i]
        if blocks and not limits.single_requests:
            start, end, inside = blocks[-1]
            longest = max(end, span.end)
            if (
                span.start - end <= gap
                and longest - start <= batch
                and not any(end <= barrier <= span.start for barrier in barriers)
            ):
                blocks[-1] = (start, longest, [*inside, i])
                continue
        blocks.append((span.start, span.end, [i]))
    return [Request(area, start, end - start, tuple(sorted(inside))) for start, end, inside in blocks]


def without_holes(request: Request, spans: Sequence[Span]) -> list[Request]:
    """Return `request` cut at every address that no point covers; one request when there is no hole."""
    longest = Limits(max_gap=0, max_bit_gap=0)
    members = sorted(request.members, key=lambda i: spans[i].start)
    return _plan_area(request.area, spans, members, longest)


def halves(request: Request, spans: Sequence[Span]) -> list[Request]:
    """Return `request` cut between two points, near the middle of its points.

    Points that overlap can land in both halves' addresses; each is a member of one only.
    """
    members = sorted(request.members, key=lambda i: (spans[i].start, i))
    middle = len(members) // 2
    return [_cover(request.area, spans, part) for part in (members[:middle], members[middle:])]


def _cover(area: Area, spans: Sequence[Span], members: Sequence[int]) -> Request:
    start, end = min(spans[i].start for i in members), max(spans[i].end for i in members)
    return Request(area, start, end - start, tuple(sorted(members)))
