"""Verification: from received messages to missing, duplicated and gap ranges per (gateway, epoch, lane). Pure.

Whoever subscribes to a gateway's topics can prove with this that nothing is missing: every record carries its seq, a
lane has no holes, and what the gateway gave up is announced by an event "gap".

A gap belongs to one uplink. Every broker is told of all of them, but what one uplink gave up should have come through
the others: only the gaps of the uplink that leads to this broker explain holes here.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field

import msgspec

from fluxedge.log.ranges import RangeSet

Stream = tuple[str, int, str]  # gateway, epoch, lane


Seq = typing.Annotated[int, msgspec.Meta(ge=1)]


class _Gap(msgspec.Struct):
    epoch: int
    lane: str
    lo: Seq
    hi: Seq
    uplink: str = ""
    why: str = ""


class _EventRecord(msgspec.Struct):
    kind: str
    item: str = ""
    data: dict[str, typing.Any] = {}


class _Group(msgspec.Struct):
    rows: list[msgspec.Raw]


class _Envelope(msgspec.Struct):
    gateway: str
    epoch: int
    lane: typing.Literal["rounds", "events"]
    seq: Seq
    n: Seq
    historical: bool = False
    records: list[msgspec.Raw] = []
    groups: list[_Group] = []

    def holds_what_it_says(self) -> bool:
        return self.n == len(self.records) + sum(len(group.rows) for group in self.groups)


@dataclass(slots=True)
class Ledger:
    """What has come of one stream."""

    seen: RangeSet = field(default_factory=RangeSet)
    announced: dict[str, RangeSet] = field(default_factory=dict)  # uplink -> what it gave up
    gaps: RangeSet = field(default_factory=RangeSet)  # the part of it that explains holes here
    first: int = 0  # lowest seq that came
    last: int = 0  # highest seq that came
    records: int = 0
    messages: int = 0
    duplicates: RangeSet = field(default_factory=RangeSet)
    duplicate_records: int = 0
    out_of_order: int = 0  # messages that began below the highest seq of their stream, without being duplicates
    highest: dict[bool, int] = field(default_factory=dict)  # of the backlog (True) and of what is live

    def take(self, lo: int, hi: int, *, historical: bool = False) -> None:
        """Note that lo..hi came, of the backlog or live."""
        repeated = self.seen.intersect(lo, hi)
        for a, b in repeated:
            self.duplicates.add(a, b)
            self.duplicate_records += b - a + 1
        if lo < self.highest.get(historical, 0) and not repeated:
            self.out_of_order += 1
        self.highest[historical] = max(self.highest.get(historical, 0), hi)
        self.seen.add(lo, hi)
        self.first = min(self.first or lo, lo)
        self.last = max(self.last, hi)
        self.records += hi - lo + 1
        self.messages += 1

    def missing(self, since: int | None = None) -> list[tuple[int, int]]:
        """Return what should have come and did not: holes between `since` (default: the first seq) and the last seq."""
        wanted = RangeSet([(self.first if since is None else since, self.last)]) if self.last else RangeSet()
        for held in (self.seen, self.gaps):
            for lo, hi in list(held):
                wanted.remove(lo, hi)
        return list(wanted)


class Verifier:
    """Take messages in, keep a ledger per stream."""

    def __init__(self, uplink: str = "") -> None:
        """Count the gaps of `uplink` only.

        Empty: those of a gateway's only uplink. Which of several leads here cannot be told from what comes, so then
        none counts.
        """
        self.uplink = uplink
        self.uplinks: dict[str, set[str]] = {}  # gateway -> those that its events named
        self.ledgers: dict[Stream, Ledger] = {}
        self.unreadable = 0  # messages that are none of ours

    def take(self, payload: bytes) -> bool:
        """Note one message; tell whether it was one of ours."""
        try:
            envelope = msgspec.json.decode(payload, type=_Envelope)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.unreadable += 1
            return False
        if not envelope.holds_what_it_says():
            self.unreadable += 1
            return False
        last = envelope.seq + envelope.n - 1
        ledger = self._ledger(envelope.gateway, envelope.epoch, envelope.lane)
        ledger.take(envelope.seq, last, historical=envelope.historical)
        if envelope.lane == "events":
            for raw in envelope.records:
                self._event(envelope.gateway, raw)
        return True

    def _event(self, gateway: str, raw: msgspec.Raw) -> None:
        try:
            event = msgspec.json.decode(raw, type=_EventRecord)
            gap = msgspec.convert(event.data, _Gap) if event.kind == "gap" else None
        except msgspec.MsgspecError:
            self.unreadable += 1
            return
        if event.item.startswith("uplink:"):
            self._know(gateway, event.item.removeprefix("uplink:"))
        if gap is not None:
            ledger = self._ledger(gateway, gap.epoch, gap.lane)
            ledger.announced.setdefault(gap.uplink, RangeSet()).add(gap.lo, gap.hi)
            self._know(gateway, gap.uplink)
            if self.counts(gateway, gap.uplink):
                ledger.gaps.add(gap.lo, gap.hi)

    def _know(self, gateway: str, uplink: str) -> None:
        """Note that a gateway has an uplink; a second one makes the gaps of both worthless as an explanation."""
        known = self.uplinks.setdefault(gateway, set())
        known.add(uplink)
        if self.ambiguous(gateway):
            for (owner, _, _), ledger in self.ledgers.items():
                if owner == gateway:
                    ledger.gaps = RangeSet()

    def ambiguous(self, gateway: str) -> bool:
        """Tell whether it is unknown which uplink of a gateway leads here."""
        return not self.uplink and len(self.uplinks.get(gateway, ())) > 1

    def counts(self, gateway: str, uplink: str) -> bool:
        """Tell whether what `uplink` gave up explains holes here."""
        return uplink == self.uplink if self.uplink else not self.ambiguous(gateway)

    def _ledger(self, gateway: str, epoch: int, lane: str) -> Ledger:
        return self.ledgers.setdefault((gateway, epoch, lane), Ledger())

    @property
    def missing(self) -> int:
        """Return how many records are missing over all streams."""
        return sum(hi - lo + 1 for ledger in self.ledgers.values() for lo, hi in ledger.missing())
