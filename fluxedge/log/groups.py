"""Groups: the columns of every round in the log, written once before their first use and never changed."""

from __future__ import annotations

import sqlite3

import msgspec

from fluxedge.model import Group

WITNESSED = 256  # groups: 9 KB a minute


class Groups:
    """All groups of a log, by the number that rounds carry."""

    def __init__(self) -> None:
        self.by_id: dict[int, Group] = {}
        self._ids: dict[bytes, int] = {}  # group key -> number
        self._last_id = 0
        self._fresh: list[int] = []  # not in the database yet

    def load(self, connection: sqlite3.Connection) -> None:
        """Read every group. Rounds of one that cannot be read are found damaged; its number is not used again."""
        for number, body in connection.execute("SELECT id, body FROM groups"):
            self._last_id = max(self._last_id, number)
            group = decode(body)
            if group is not None:
                self.by_id[number] = group
                self._ids[group.key] = number

    def number_of(self, group: Group) -> int:
        """Return the group's number, or the one it gets when it is `use`d."""
        return self._ids.get(group.key) or self._last_id + 1

    def use(self, number: int, group: Group) -> None:
        """Note that a round of `group` is on its way to the log."""
        if number > self._last_id:
            self._last_id = number
            self.by_id[number] = group
            self._ids[group.key] = number
            self._fresh.append(number)

    def fresh(self) -> list[tuple[int, Group]]:
        """Return the groups that must be written with the next commit."""
        return [(number, self.by_id[number]) for number in self._fresh]

    def all(self) -> list[tuple[int, Group]]:
        """Return every group."""
        return list(self.by_id.items())

    def witnessed(self) -> dict[int, bytes]:
        """Return the keys of the newest groups that are durable, by number: for the witness."""
        fresh = set(self._fresh)
        return {n: self.by_id[n].key for n in sorted(self.by_id)[-WITNESSED:] if n not in fresh}

    def number_from(self, number: int) -> None:
        """Let new groups have numbers above this one: what is below is not known."""
        self._last_id = max(self._last_id, number)

    def written(self, count: int) -> None:
        """Note that the first `count` of `fresh` are durable."""
        del self._fresh[:count]


def decode(body: bytes) -> Group | None:
    """Return a stored group, None when it is damaged."""
    try:
        return Group.from_bytes(body)
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError):
        return None
