"""Which records kill the connection: suspected, sent alone, split in halves, set aside. A table of states; pure.

A death counts when the peer ended the connection, after it had answered in it, without giving a reason of its own,
while records were unacknowledged. Whatever else ends a session (no broker, no answer, throttling, a clash, our stop)
changes nothing here; a link that flaps is not suspicious as long as the oldest unacknowledged record is acknowledged
in the next session.

    FREE     sent: everything, as usual
        death           the oldest unacknowledged record is blamed; when it is under way at the next death, too (perhaps
                        behind younger ones that are live): all that was under way is suspected, TESTING
    TESTING  sent: the first suspect, alone
        acknowledged    it is innocent: TESTING the next, FREE when none is left; a rest that must be guilty is split
        death           several records: TESTING the first half; one record: it is set aside when the peer has taken
                        another record of its lane since, else CONTROL
    CONTROL  sent: another record of the suspect's lane, alone: the newest that was delivered, else the newest
                        that waits; while there is none, the other lanes
        acknowledged    the suspect is set aside; TESTING the next, FREE when none is left
        death           the peer takes nothing of this lane, so nobody is guilty: FREE

n suspected records cost log2(n) + 2 connections at most, and one for the control. The control is there for brokers that
end the connection instead of refusing a topic (AWS IoT does): without it, record after record would be set aside.
Records of the quarantine that are sent once more (`row`) are never split: they are what one message was.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, replace

from fluxedge.model import Lane

SUSPECTS = 64  # of one death


class State(enum.Enum):
    """See the table."""

    FREE = "free"
    TESTING = "testing"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Piece:
    """Records lo..hi that were one message."""

    epoch: int
    lane: Lane
    lo: int
    hi: int
    row: int = 0  # of the quarantine; 0 = records of the log
    guilty: bool = False  # it, or a part of it, must be what kills

    def begins_in(self, other: Piece) -> bool:
        """Tell whether the first record of this one is in another one."""
        same = (self.epoch, self.lane, self.row) == (other.epoch, other.lane, other.row)
        return same and other.lo <= self.lo <= other.hi


class Suspicion:
    """What is suspected of killing connections. Lives as long as the forwarder, over its sessions."""

    def __init__(self) -> None:
        self.state = State.FREE
        self._blamed: Piece | None = None
        self._suspects: deque[Piece] = deque()
        self._vouched: set[Lane] = set()  # lanes of which the peer takes records since the suspicion began

    @property
    def suspect(self) -> Piece | None:
        """Return what is to be sent alone; in CONTROL another record of its lane is."""
        return self._suspects[0] if self._suspects else None

    def died(self, in_flight: list[Piece]) -> Piece | None:
        """Note a death that counts; `in_flight` in the order of sending. Return what is to be set aside."""
        if not in_flight:
            return None
        if self.state is State.FREE:
            self._blame(in_flight)
            return None
        if self.state is State.CONTROL:
            self._free()
            return None
        suspect = self._suspects.popleft()
        self._suspects = deque([replace(other, guilty=False) for other in self._suspects])
        if suspect.hi > suspect.lo and not suspect.row:
            self._suspects.extendleft(reversed(_halves(suspect)))
            return None
        if suspect.lane in self._vouched:
            self._next()
            return suspect
        self._suspects.appendleft(replace(suspect, guilty=True))
        self.state = State.CONTROL
        return None

    def _blame(self, in_flight: list[Piece]) -> None:
        if self._blamed is not None and any(self._blamed.begins_in(piece) for piece in in_flight):
            self.state = State.TESTING
            self._suspects.extend(in_flight[:SUSPECTS])
            self._vouched.clear()
        self._blamed = in_flight[0]

    def passed(self, piece: Piece) -> Piece | None:
        """Note that the peer took what was sent alone, or refused it in words. Return what is to be set aside."""
        self._vouched.add(piece.lane)
        suspect = self._suspects.popleft()
        if self.state is State.CONTROL:
            self._next()
            return suspect
        if piece.hi < suspect.hi and not suspect.row:
            self._suspects.appendleft(replace(suspect, lo=piece.hi + 1))
        self._next()
        return None

    def gone(self) -> None:
        """Note that the suspect is not there any more: delivered, dropped, or lost as a gap."""
        self._suspects.popleft()
        self._next()

    def _next(self) -> None:
        """Go on to the next suspect; one that is guilty as a whole is split at once."""
        if not self._suspects:
            self._free()
            return
        self.state = State.TESTING
        if self._suspects[0].guilty and self._suspects[0].hi > self._suspects[0].lo:
            self._suspects.extendleft(reversed(_halves(self._suspects.popleft())))

    def _free(self) -> None:
        self.state = State.FREE
        self._blamed = None
        self._suspects.clear()


def _halves(piece: Piece) -> tuple[Piece, Piece]:
    """Return both halves; when the first is innocent, the second is guilty."""
    middle = (piece.lo + piece.hi) // 2
    return replace(piece, hi=middle, guilty=False), replace(piece, lo=middle + 1, guilty=True)
