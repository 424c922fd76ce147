"""The data that travels: points, groups, rounds, events.

A group is an immutable list of columns; a round is one read of it: a tuple of raw values as on the wire, the same in
engineering units, one quality per point. Columnar on purpose: a round of 500 points is one object and one queue item.
"""

from __future__ import annotations

import enum
import hashlib
import typing
import weakref
from dataclasses import dataclass, field

import msgspec

from fluxedge.columns import Codec, Value

OPEN_END = 2**63 - 1  # "hi" of a range that grows with the log


class Quality(enum.IntEnum):
    """How far a value can be trusted."""

    GOOD = 0
    UNCERTAIN = 1  # a value, but not a trustworthy one: late reply possible, outside its validity limits
    BAD = 2  # the device answered, but this value cannot be used
    OFFLINE = 3  # the device did not answer


class Lane(enum.IntEnum):
    """The two lanes of the log, each with a seq of its own."""

    ROUNDS = 0
    EVENTS = 1

    @property
    def label(self) -> str:
        """Return "rounds" or "events", as topics and messages name it."""
        return self.name.lower()


class Flag(enum.IntEnum):
    """What is special about a round's stamp; bits of an int. (IntFlag's own operators cost 0.7 us each, measured.)"""

    SOURCE_TIME = 1  # the device's own time
    HISTORICAL = 2  # not the present state of the device
    CLOCK_UNSYNCED = 4  # our clock was not trusted


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a group: what the log and every reader must know about it.

    `wire` is the raw type as stored: a `struct` letter of "?bBhHiIqQfd", "s" (text) or "y" (bytes).
    engineering value = raw * scale + offset, rounded to `precision` decimals where that is set.
    """

    name: str
    wire: str
    label: str = ""
    unit: str = ""  # UCUM
    scale: float = 1.0
    offset: float = 0.0
    precision: int | None = None
    low: float | None = None  # validity limits: outside, the value is UNCERTAIN
    high: float | None = None
    enum: dict[int, str] = {}  # integer -> name
    bits: dict[int, str] = {}  # bit number, 0 = least significant -> name


@dataclass(frozen=True, slots=True)
class Round:
    """What one read of a group returned: columns, one stamp."""

    group: Group
    raws: tuple[Value | None, ...]  # as on the wire, in the order of group.points
    values: tuple[Value | None, ...]  # engineering; None exactly when BAD or OFFLINE
    quality: bytes  # one Quality per point, same order; empty = all GOOD
    at_ns: int  # UTC, ns since 1970-01-01: the device's own time, else arrival of the last byte
    arrived_mono_ns: int  # CLOCK_BOOTTIME
    flags: int = 0  # of Flag


# 75 kB a device at 500 points if each group had its own.
class _Columns:
    """Points, their names and their codec, shared by groups with equal points."""

    __slots__ = ("__weakref__", "codec", "names", "points")

    def __init__(self, points: tuple[Point, ...]) -> None:
        self.points = points
        self.names = tuple(point.name for point in points)
        self.codec = Codec(points)


_shared: weakref.WeakValueDictionary[bytes, _Columns] = weakref.WeakValueDictionary()


def _encode(body: object) -> bytes:
    """Return MessagePack that is the same for equal bodies."""
    plain = msgspec.to_builtins(body, str_keys=True)  # msgspec sorts only keys that are text
    return msgspec.msgpack.Encoder(order="deterministic").encode(plain)


@dataclass(frozen=True, eq=False)
class Group:
    """Points of one device that are read together: an immutable list of columns.

    Two groups with equal `key` are the same group; the log stores a group before its first use and never changes it.
    """

    device: str
    name: str
    points: tuple[Point, ...]
    label: str = ""  # the device's
    key: bytes = field(init=False)  # digest of everything above
    names: tuple[str, ...] = field(init=False)
    codec: Codec = field(init=False)
    _columns: _Columns = field(init=False, repr=False)  # keeps what is shared alive

    def __post_init__(self) -> None:
        columns = _encode(self.points)
        shared = _shared.get(columns)
        if shared is None:
            shared = _shared[columns] = _Columns(self.points)
        digest = hashlib.blake2b(_encode([self.device, self.name, self.label]) + columns, digest_size=16).digest()
        object.__setattr__(self, "key", digest)
        object.__setattr__(self, "_columns", shared)
        object.__setattr__(self, "points", shared.points)
        object.__setattr__(self, "names", shared.names)
        object.__setattr__(self, "codec", shared.codec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def to_bytes(self) -> bytes:
        """Return the group as the log keeps it (MessagePack, deterministic)."""
        return _encode({"device": self.device, "name": self.name, "label": self.label, "points": self.points})

    @classmethod
    def from_bytes(cls, body: bytes) -> Group:
        """Return the group that `to_bytes` made."""
        raw = msgspec.msgpack.decode(body)
        points = msgspec.convert(raw["points"], tuple[Point, ...], str_keys=True)
        return cls(raw["device"], raw["name"], points, raw["label"])

    def round(
        self,
        raws: tuple[Value | None, ...],
        at_ns: int,
        mono_ns: int,
        *,
        quality: bytes = b"",
        flags: int = 0,
    ) -> Round:
        """Make a round: scale the raws, judge finiteness and validity limits.

        `quality` is what the protocol knows (empty = all GOOD); a raw of None must be BAD or OFFLINE there.
        """
        if len(raws) != len(self.points):
            raise ValueError(f"{len(raws)} raws for the {len(self.points)} points of {self.device}/{self.name}")
        values, judged = self.codec.judge(raws, quality)
        return Round(self, raws, values, judged, at_ns, mono_ns, flags)

    def silent_round(self, quality: Quality, at_ns: int, mono_ns: int, flags: int = 0) -> Round:
        """Make a round without any value: every point BAD or OFFLINE."""
        nothing: tuple[None, ...] = (None,) * len(self.points)
        return Round(self, nothing, nothing, bytes([quality]) * len(self.points), at_ns, mono_ns, flags)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything worth keeping that is not a round.

    kinds: "problem" (raised, cleared), "command-intent", "command-result", "device-state", "channel-state",
    "uplink-state", "gap", "dropped", "clock-set", "config", "start", "stop", "audit"; docs/mqtt.md says what they carry
    """

    kind: str
    item: str  # "device:meter-1", "uplink:cloud", "log", "gateway"
    at_ns: int
    mono_ns: int
    data: dict[str, typing.Any] = {}
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One round or one event with its place in the log."""

    epoch: int
    lane: Lane
    seq: int
    boot: int
    body: Round | Event
