"""What the demo has seen: values and proof from the broker, totals and problems from the gateway's API. Pure."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field

import msgspec

from fluxedge.columns import Value
from fluxedge.model import Point
from fluxedge.verify import Verifier

Data = typing.Any  # JSON


class _Round(msgspec.Struct):
    device: str
    at_us: int
    values: dict[str, typing.Any]
    quality: dict[str, str] = {}  # points that are not GOOD


class _Rounds(msgspec.Struct):
    lane: str
    records: list[_Round]


class _Other(msgspec.Struct):
    lane: str


@dataclass(frozen=True, slots=True)
class Now:
    """One point as it came from the broker last."""

    value: Value | None
    quality: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of one moment."""

    values: int
    committed: int | None
    acknowledged: int | None
    received: int


@dataclass(slots=True)
class Tally:
    """Everything the screen and the summary show."""

    points: dict[tuple[str, str], Point]  # (device, name) -> point, of the configuration
    verifier: Verifier = field(default_factory=Verifier)
    now: dict[tuple[str, str], Now] = field(default_factory=dict)
    values: int = 0  # that came
    status: Data = None  # the API's latest answer

    def take(self, payload: bytes) -> None:
        """Take a message of the gateway in."""
        if not self.verifier.take(payload) or msgspec.json.decode(payload, type=_Other).lane != "rounds":
            return
        for record in msgspec.json.decode(payload, type=_Rounds).records:
            self.values += len(record.values)
            for name, value in record.values.items():
                quality = record.quality.get(name, "GOOD")
                self.now[record.device, name] = Now(value, quality, record.at_us)

    def totals(self) -> Totals:
        """Return the numbers of this moment."""
        return Totals(self.values, self.committed, self.acknowledged, self.received)

    @property
    def received(self) -> int:
        """Return how many records came."""
        return sum(hi - lo + 1 for ledger in self.verifier.ledgers.values() for lo, hi in ledger.seen)

    @property
    def missing(self) -> int:
        """Return how many are missing since the first one of the epoch: the demo listens from the start."""
        ledgers = self.verifier.ledgers.values()
        return sum(hi - lo + 1 for ledger in ledgers for lo, hi in ledger.missing(since=1))

    @property
    def committed(self) -> int | None:
        """Return how many records the log holds; None before the gateway told."""
        return sum(lane["head"] for lane in self.status["log"]["lanes"]) if self.status else None

    @property
    def acknowledged(self) -> int | None:
        """Return how many records the broker has acknowledged; None before the gateway told."""
        return sum(uplink["records"] for uplink in self.status["uplinks"]) if self.status else None

    @property
    def problems(self) -> list[Data]:
        """Return what the gateway says is wrong."""
        return list(self.status["problems"]) if self.status else []
