"""One simulated unit: the registers and coils of a driver file, and what requests may do with them."""

from __future__ import annotations

import itertools
import math
import random
import struct
import time
from collections.abc import Callable, Sequence

from fluxedge.columns import Value
from fluxedge.config.mistakes import path_text
from fluxedge.config.structs import DeviceCfg, DriverCfg
from fluxedge.model import Group
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.modbus.address import Area
from fluxedge.protocols.modbus.compile import compile_device
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.plan import Request
from fluxedge.protocols.modbus.types import Layout
from fluxedge.simulate.motion import Motion, motion_of, raw_of

REFRESH_S = 0.25  # the image moves at most so often, however many requests come
ILLEGAL_ADDRESS, ILLEGAL_VALUE = 2, 3  # MODBUS Application Protocol V1.1b3, 7


class DriverSimulator:
    """One simulated unit: the registers and coils of a driver file."""

    def __init__(
        self, driver: DriverCfg, seed: int = 1, *, clock: Callable[[], float] = time.monotonic, holes: int = 0
    ) -> None:
        """`clock` counts seconds; one that stands still freezes the values. Holes up to `holes` addresses read as 0.

        Raises:
            ConfigProblem: "config-invalid": the driver file cannot be used.
        """
        if driver.protocol != "modbus":
            raise ConfigProblem("config-invalid", f"{driver.id} is a {driver.protocol} driver; Modbus can be simulated")
        compiled = compile_device(driver.id or "simulated", DeviceCfg(driver=driver.id), driver, framing="tcp")
        if compiled.findings:
            first = compiled.findings[0]
            raise ConfigProblem("config-invalid", f"{driver.id}: {path_text(first.path)}: {first.message}", first.hint)
        self.driver = driver
        self._limits = compiled.limits
        self._points = compiled.points
        self._image: dict[Area, dict[int, int]] = {area: {} for area in Area}
        self._writable: dict[Area, set[int]] = {area: set() for area in Area}
        self._clock = clock
        self._start_s = clock()
        self._moved_s = -math.inf
        self._moving: dict[str, Motion] = {}
        rng = random.Random(f"{driver.id}/{seed}")
        for name, point in self._points.items():
            self._moving[name] = motion = motion_of(point, rng)
            self._put(point.layout, motion(0.0))
            if point.cfg.write is not False:
                span = point.layout.span
                self._writable[span.area].update(range(span.start, span.end))
                del self._moving[name]
        for area in Area:
            _fill(self._image[area], holes)

    @property
    def points(self) -> tuple[str, ...]:
        """Return the names of the points, in the order of the driver file."""
        return tuple(self._points)

    def get(self, point: str) -> Value | None:
        """Return a point's engineering value as the registers hold it now; None where they hold none of its type."""
        self._move()
        compiled = self._points[point]
        span = compiled.layout.span
        words = [self._image[span.area][address] for address in range(span.start, span.end)]
        data = bytes(words) if span.area.one_bit else struct.pack(f">{len(words)}H", *words)
        decoder = Decoder([compiled.layout], [Request(span.area, span.start, span.count, (0,))])
        raws = decoder.decode([data])
        quality = b"" if raws[0] is not None else b"\x02"
        return Group("", "", (compiled.point,)).round(raws, 0, 0, quality=quality).values[0]

    def set(self, point: str, value: Value) -> None:
        """Hold a point at an engineering value (an enum also by its name) until the end.

        Raises:
            ValueError: its type cannot hold the value.
        """
        compiled = self._points[point]
        self._put(compiled.layout, raw_of(compiled, value))
        self._moving.pop(point, None)

    def words(self, area: Area, start: int, count: int) -> list[int]:
        """Return registers (or bits as 0 and 1) as a request would read them.

        Raises:
            KeyError: one of the addresses is not in the map.
        """
        self._move()
        image = self._image[area]
        return [image[address] for address in range(start, start + count)]

    def read(self, area: Area, start: int, count: int) -> list[int] | int:
        """Answer a read request: the values, or an exception code."""
        if count > self._limits.batch(area):
            return ILLEGAL_VALUE
        if any(of is area and start < number < start + count for of, number in self._limits.barriers):
            return ILLEGAL_ADDRESS
        try:
            return self.words(area, start, count)
        except KeyError:
            return ILLEGAL_ADDRESS

    def write(self, area: Area, start: int, values: Sequence[int]) -> int | None:
        """Answer a write request: only what the driver file calls writable takes a value; else an exception code."""
        if not self._writable[area].issuperset(range(start, start + len(values))):
            return ILLEGAL_ADDRESS
        self._image[area].update(enumerate(map(int, values), start))
        return None

    def _move(self) -> None:
        now_s = self._clock()
        if now_s - self._moved_s < REFRESH_S:
            return
        self._moved_s = now_s
        elapsed_s = now_s - self._start_s
        for name, motion in self._moving.items():
            self._put(self._points[name].layout, motion(elapsed_s))

    def _put(self, layout: Layout, raw: Value) -> None:
        span = layout.span
        image = self._image[span.area]
        if span.area.one_bit:
            image[span.start] = int(bool(raw))
            return
        words = struct.unpack(f">{span.count}H", layout.encode(raw))
        if layout.partial:
            words = (image.get(span.start, 0) & ~layout.mask() & 0xFFFF | words[0],)
        image.update(enumerate(words, span.start))


def _fill(image: dict[int, int], holes: int) -> None:
    known = sorted(image)
    for before, after in itertools.pairwise(known):
        if after - before - 1 <= holes:
            image.update(dict.fromkeys(range(before + 1, after), 0))
