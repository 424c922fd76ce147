"""Late replies: which answers of a line without transaction ids could belong to an earlier request.

An RTU reply says which unit and function it comes from, and how long it is; not which request it answers. When a
request to unit U for an answer of N bytes went unanswered, the next answer of N bytes from U may be the late one, and
from then on each answer may be that of the request before. It stays so until

* U answered with another length (it answers in turn, so the missing answer will not come any more), or
* nothing unexpected was heard for the time in which an answer is awaited.

Pure bookkeeping: instants are parameters, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SUSPECTS_MAX = 3  # then the line waits out the silence once, else a fast poll would stay UNCERTAIN for ever


@dataclass(slots=True)
class _Missing:
    """What one unit still owes."""

    silence_s: float  # that settles it
    since_s: float  # beginning of the silence
    lengths: set[int] = field(default_factory=set)  # bytes of the answers that may still come
    suspects: int = 0  # answers in a row that could have been late ones


class LateReplies:
    """Remember unanswered requests of one line, per unit."""

    def __init__(self) -> None:
        self._missing: dict[int, _Missing] = {}

    def missed(self, unit: int, reply_bytes: int, timeout_s: float, now_s: float) -> None:
        """Note that an answer of `reply_bytes` did not come (time-out), or was not waited for (cancelled)."""
        entry = self._missing.setdefault(unit, _Missing(timeout_s, now_s))
        entry.silence_s = max(entry.silence_s, timeout_s)
        entry.since_s = now_s
        entry.lengths.add(reply_bytes)

    def heard_stray(self, now_s: float) -> None:
        """Note bytes that nobody asked for: the silence of every unit begins anew."""
        for entry in self._missing.values():
            entry.since_s = now_s

    def possible(self, unit: int, reply_bytes: int, now_s: float) -> bool:
        """Tell whether an answer of this length to a request sent now could be a late one."""
        entry = self._missing.get(unit)
        if entry is None:
            return False
        if now_s - entry.since_s >= entry.silence_s:
            del self._missing[unit]
            return False
        return reply_bytes in entry.lengths

    def quarantine_until_s(self, unit: int, reply_bytes: int) -> float:
        """Return when the line will have been silent long enough, if it is time to wait for that; else -inf."""
        entry = self._missing.get(unit)
        if entry is None or entry.suspects < SUSPECTS_MAX or reply_bytes not in entry.lengths:
            return -math.inf
        return entry.since_s + entry.silence_s

    def answered(self, unit: int, reply_bytes: int, now_s: float) -> None:
        """Note a regular answer."""
        entry = self._missing.get(unit)
        if entry is None:
            return
        if reply_bytes in entry.lengths:
            entry.suspects += 1
            entry.since_s = now_s
        else:
            del self._missing[unit]
