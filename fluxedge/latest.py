"""Latest: the last round of each group. A view, not a buffer: live pages, `get` and read-back look here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fluxedge.columns import Value
from fluxedge.model import Group, Point, Quality, Round


@dataclass(frozen=True, slots=True)
class Reading:
    """One point as it is now."""

    device: str
    point: Point
    value: Value | None
    raw: Value | None
    quality: Quality
    at_ns: int
    arrived_mono_ns: int
    good_at_ns: int  # when the group last had a round that was not OFFLINE; 0 = never
    value_when_good: Value | None  # of that round

    @property
    def id(self) -> str:
        """Return device.point."""
        return f"{self.device}.{self.point.name}"


class Latest:
    """The last round of each group, and the last one that had values."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], Round] = {}  # (device, group name)
        self._answered: dict[tuple[str, str], Round] = {}
        self.listeners: list[Callable[[Round], None]] = []

    def update(self, round_: Round) -> None:
        """Take a round in; called by the pipeline only."""
        key = (round_.group.device, round_.group.name)
        self._rounds[key] = round_
        if not round_.quality or round_.quality[0] != Quality.OFFLINE:
            self._answered[key] = round_
        for listener in self.listeners:
            listener(round_)

    def forget(self, device: str, keep: tuple[Group, ...] = ()) -> None:
        """Drop what belongs to `device`, except groups that are still the same."""
        names = {group.name: group for group in keep}
        for rounds in (self._rounds, self._answered):
            for key in [k for k in rounds if k[0] == device]:
                if names.get(key[1]) != rounds[key].group:
                    del rounds[key]

    def rounds(self) -> Iterator[Round]:
        """Iterate over the last round of every group, by device and group."""
        return iter([self._rounds[key] for key in sorted(self._rounds)])

    def of(self, device: str, group: str) -> Round | None:
        """Return the last round of one group."""
        return self._rounds.get((device, group))

    def readings(self, device: str | None = None) -> Iterator[Reading]:
        """Iterate over all points, by device, then in the order of their groups."""
        for round_ in self.rounds():
            if device is None or round_.group.device == device:
                yield from self._read(round_)

    def reading(self, device: str, point: str) -> Reading | None:
        """Return one point, or None when it has not been read yet."""
        for reading in self.readings(device):
            if reading.point.name == point:
                return reading
        return None

    def _read(self, round_: Round) -> Iterator[Reading]:
        group = round_.group
        answered = self._answered.get((group.device, group.name))
        for i, point in enumerate(group.points):
            quality = Quality(round_.quality[i]) if round_.quality else Quality.GOOD
            yield Reading(
                device=group.device,
                point=point,
                value=round_.values[i],
                raw=round_.raws[i],
                quality=quality,
                at_ns=round_.at_ns,
                arrived_mono_ns=round_.arrived_mono_ns,
                good_at_ns=answered.at_ns if answered else 0,
                value_when_good=answered.values[i] if answered else None,
            )
