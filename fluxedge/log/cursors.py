"""Cursors: for each uplink, epoch and lane the ranges that have not been acknowledged yet.

A range leaves a cursor on an acknowledgement, quarantine, an announced gap or an operator's drop, and on nothing else.
Changes are kept in memory and ride in the next commit; losing them in a crash costs duplicates, never records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from fluxedge.log.ranges import RangeSet
from fluxedge.model import OPEN_END, Lane

Key = tuple[str, int, Lane]  # uplink, epoch, lane
Changes = list[tuple[Key, list[tuple[int, int]]]]  # cursors whole, as they are to be stored


class Cursors:
    """All cursors of a log, as the loop sees them."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._todo: dict[Key, RangeSet] = {}
        self._dirty: set[Key] = set()

    def load(self, connection: sqlite3.Connection) -> None:
        """Read every cursor, of uplinks that are not configured now too."""
        for uplink, epoch, lane, lo, hi in connection.execute("SELECT uplink, epoch, lane, lo, hi FROM todo"):
            self._todo.setdefault((uplink, epoch, Lane(lane)), RangeSet()).add(lo, hi)

    def known(self, uplink: str, lane: Lane) -> bool:
        """Tell whether the uplink has a cursor in the lane, also when everything is delivered."""
        return any(key[0] == uplink and key[2] is lane for key in self._todo)

    def go_on(self) -> None:
        """Let every known uplink, configured or not, have the records of the current epoch from the first on."""
        for uplink, lane in {(key[0], key[2]) for key in self._todo}:
            if (uplink, self._epoch, lane) not in self._todo:
                self.begin(uplink, lane, self._epoch, 1)

    def turn_to(self, epoch: int) -> None:
        """Begin another epoch, which every known uplink is to have from its first record on."""
        self._epoch = epoch
        self.go_on()

    def take_others(self) -> Changes:
        """Forget the cursors of every epoch but the present one; return them."""
        taken = [(key, list(ranges)) for key, ranges in self._todo.items() if key[1] != self._epoch]
        for key, _ in taken:
            del self._todo[key]
            self._dirty.add(key)
        return taken

    def begin(self, uplink: str, lane: Lane, epoch: int, lo: int, hi: int = OPEN_END) -> None:
        """Let an uplink have lo..hi to deliver."""
        key = (uplink, epoch, lane)
        self._todo.setdefault(key, RangeSet()).add(lo, hi)
        self._dirty.add(key)

    def close_epoch(self, epoch: int, lane: Lane, head: int) -> None:
        """End the open ranges of an epoch that gets no more records at its last seq; what has an end stays."""
        for key, ranges in self._todo.items():
            for lo, hi in list(ranges) if key[1:] == (epoch, lane) else ():
                if hi == OPEN_END and ranges.remove(max(lo, head + 1), OPEN_END):
                    self._dirty.add(key)

    def epochs(self) -> set[tuple[int, Lane]]:
        """Return every (epoch, lane) that some cursor is about."""
        return {(key[1], key[2]) for key in self._todo}

    def settle(self, uplink: str, epoch: int, lane: Lane, lo: int, hi: int) -> None:
        """Take lo..hi out: acknowledged, in quarantine, announced as a gap or dropped by an operator."""
        key = (uplink, epoch, lane)
        ranges = self._todo.get(key)
        if ranges is not None and ranges.remove(lo, hi):
            self._dirty.add(key)

    def of(self, uplink: str, lane: Lane) -> Iterator[tuple[int, RangeSet]]:
        """Iterate over (epoch, ranges) of an uplink's lane, oldest epoch first."""
        found = [(key[1], ranges) for key, ranges in self._todo.items() if key[0] == uplink and key[2] == lane]
        return iter(sorted(found, key=lambda pair: pair[0]))

    def uplinks(self) -> list[str]:
        """Return every uplink that has cursors."""
        return sorted({key[0] for key in self._todo})

    def holders(self, epoch: int, lane: Lane) -> Iterator[tuple[str, RangeSet]]:
        """Iterate over (uplink, ranges) of one epoch and lane."""
        return iter([(key[0], ranges) for key, ranges in self._todo.items() if key[1:] == (epoch, lane)])

    def forget(self, uplink: str) -> None:
        """Drop every cursor of an uplink."""
        for key in [key for key in self._todo if key[0] == uplink]:
            del self._todo[key]
            self._dirty.add(key)

    @property
    def dirty(self) -> bool:
        """Tell whether anything waits to be saved."""
        return bool(self._dirty)

    def take_changes(self) -> Changes:
        """Return the changed cursors whole; they count as saved until `put_back`."""
        changes = [(key, list(self._todo.get(key, ()))) for key in self._dirty]
        self._dirty.clear()
        return changes

    def all(self) -> Changes:
        """Return every cursor whole."""
        return [(key, list(ranges)) for key, ranges in self._todo.items()]

    def put_back(self, changes: Changes) -> None:
        """Mark changes as unsaved again: their commit failed."""
        self._dirty.update(key for key, _ in changes)


def save(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write changed cursors; inside the caller's transaction."""
    for (uplink, epoch, lane), ranges in changes:
        connection.execute("DELETE FROM todo WHERE uplink = ? AND epoch = ? AND lane = ?", (uplink, epoch, lane))
        connection.executemany(
            "INSERT INTO todo (uplink, epoch, lane, lo, hi) VALUES (?, ?, ?, ?, ?)",
            [(uplink, epoch, lane, lo, hi) for lo, hi in ranges],
        )
