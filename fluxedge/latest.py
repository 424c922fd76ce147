"""Latest: the last round of each group. A view, not a buffer: live pages, `get` and read-back look here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fluxedge.columns import Value
from fluxedge.model import Flag, Group, Point, Quality, Round


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
    good_at_ns: int  # stamp of the group's last round with a value that could be used; 0 = never
    value_when_good: Value | None  # in that round

    @property
    def id(self) -> str:
        """Return device.point."""
        return f"{self.device}.{self.point.name}"


class Latest:
    """The last round of each group, and the last one that had values."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, Round]] = {}  # device -> group name -> round
        self._usable: dict[str, dict[str, Round]] = {}
        self.listeners: list[Callable[[Round], None]] = []
        self.wanted: Callable[[Group], bool] = lambda _: True  # what is not configured any more passes by

    def update(self, round_: Round) -> None:
        """Take a round in; called by the pipeline only. HISTORICAL ones are not the present state and pass by."""
        group = round_.group
        if round_.flags & Flag.HISTORICAL or not self.wanted(group):
            return
        self._rounds.setdefault(group.device, {})[group.name] = round_
        if not round_.quality or min(round_.quality) < Quality.BAD:
            self._usable.setdefault(group.device, {})[group.name] = round_
        for listener in self.listeners:
            listener(round_)

    def forget(self, device: str, keep: tuple[Group, ...] = ()) -> None:
        """Drop what belongs to `device`, except groups that are still the same."""
        kept = {group.name: group for group in keep}
        for rounds in (self._rounds, self._usable):
            mine = rounds.pop(device, {})
            same = {name: round_ for name, round_ in mine.items() if kept.get(name) == round_.group}
            if same:
                rounds[device] = same

    def rounds(self) -> Iterator[Round]:
        """Iterate over the last round of every group, by device and group."""
        return iter([mine[name] for _, mine in sorted(self._rounds.items()) for name in sorted(mine)])

    def of(self, device: str, group: str) -> Round | None:
        """Return the last round of one group."""
        return self._rounds.get(device, {}).get(group)

    def readings(self, device: str | None = None) -> Iterator[Reading]:
        """Iterate over all points, or a device's, by device and group, then in the order of their groups."""
        if device is None:
            for other in sorted(self._rounds):
                yield from self.readings(other)
            return
        mine = self._rounds.get(device, {})
        for name in sorted(mine):
            for i in range(len(mine[name].group.points)):
                yield self._read(mine[name], i)

    def reading(self, device: str, point: str) -> Reading | None:
        """Return one point, or None when it has not been read yet."""
        for round_ in self._rounds.get(device, {}).values():
            if point in round_.group.names:
                return self._read(round_, round_.group.names.index(point))
        return None

    def _read(self, round_: Round, i: int) -> Reading:
        group = round_.group
        usable = self._usable.get(group.device, {}).get(group.name)
        if usable is not None and usable.group != group:  # of an earlier version of the group: other columns
            usable = None
        return Reading(
            device=group.device,
            point=group.points[i],
            value=round_.values[i],
            raw=round_.raws[i],
            quality=Quality(round_.quality[i]) if round_.quality else Quality.GOOD,
            at_ns=round_.at_ns,
            arrived_mono_ns=round_.arrived_mono_ns,
            good_at_ns=usable.at_ns if usable else 0,
            value_when_good=usable.values[i] if usable else None,
        )
