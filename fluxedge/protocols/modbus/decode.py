"""From the replies of one group's requests to raws, compiled once per plan.

    replies    [........]   [........]     data bytes, one piece per request
    picked     ........ ........           each point's bytes, most significant first, nothing between
    struct     one unpack for the whole group, then fix-ups for what `struct` does not know

Picking permutes up to 256 bytes with one bytes.translate: the reply is the table, the list of places is the text.
That is about 1 ns a byte, and holes, orders, overlapping points and the order of the driver file all come free.
"""

from __future__ import annotations

import itertools
import operator
import struct
import typing
from collections.abc import Callable, Iterator, Sequence

from fluxedge.columns import Raws
from fluxedge.protocols.modbus.plan import Request
from fluxedge.protocols.modbus.types import Layout

_BITS = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]  # lowest bit first, as FC01 and FC02 send
Pick = Callable[[bytes], bytes]


class Decoder:
    """The compiled decoding of a group whose points are read by `requests`."""

    def __init__(self, layouts: Sequence[Layout], requests: Sequence[Request]) -> None:
        order = [i for request in requests for i in request.members]
        if sorted(order) != list(range(len(layouts))):
            raise ValueError("the requests do not cover every point exactly once")
        self._picks = [_pick_of(layouts, request) for request in requests]
        self._struct = struct.Struct(">" + "".join(_runs([layouts[i].letter for i in order])))
        self._reorder: Callable[[Raws], Raws] | None = None
        if order != list(range(len(order))):  # two points at least: itemgetter returns a tuple
            places = sorted(range(len(order)), key=order.__getitem__)
            self._reorder = typing.cast("Callable[[Raws], Raws]", operator.itemgetter(*places))
        self.fallible = any(layout.type.startswith("bcd") for layout in layouts)  # decode can return None
        self._fixes = [(i, layout.fix) for i, layout in enumerate(layouts) if layout.fix is not None]

    def decode(self, replies: Sequence[bytes]) -> Raws:
        """Return the raws in the order of the points; None where the bytes are no value of the type."""
        picked = b"".join([pick(data) for pick, data in zip(self._picks, replies, strict=True)])
        raws: Raws = self._struct.unpack(picked)
        if self._reorder is not None:
            raws = self._reorder(raws)
        if self._fixes:
            fixed = list(raws)
            for i, fix in self._fixes:
                fixed[i] = fix(fixed[i])  # type: ignore[arg-type]
            raws = tuple(fixed)
        return raws


def _runs(letters: list[str]) -> Iterator[str]:
    """Yield "500f" for 500 letters: `struct` keeps 32 bytes for each item of its format."""
    for letter, run in itertools.groupby(letters):
        count = len(list(run))
        yield f"{count}{letter}" if len(letter) == 1 else letter * count


def _pick_of(layouts: Sequence[Layout], request: Request) -> Pick:
    if request.area.one_bit:
        return _pick_bits([layouts[i].span.start - request.start for i in request.members])
    places = [2 * (layouts[i].span.start - request.start) + byte for i in request.members for byte in layouts[i].pick]
    if places == list(range(request.data_bytes)):
        return _whole
    chosen = bytes(places)  # a reply has at most 250 data bytes
    return lambda data: chosen.translate(data.ljust(256, b"\0"))


def _whole(data: bytes) -> bytes:
    return data


def _pick_bits(places: Sequence[int]) -> Pick:
    start, stop = places[0], places[-1] + 1
    if list(places) == list(range(start, stop)):
        return lambda data: b"".join(map(_BITS.__getitem__, data))[start:stop]
    choose = operator.itemgetter(*places)
    return lambda data: bytes(choose(b"".join(map(_BITS.__getitem__, data))))
