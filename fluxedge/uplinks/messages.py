"""From rows of the log to messages: cut to size, encoded on the log's reader thread, a little ahead of the window.

    rows (a batch each) --> records --> messages of about `target` bytes, none above `most`

A read may hold a hundred messages; they are made eight, or 1 MiB, at a time; of a backlog one at a time, because
live records wait until the thread is free.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fluxedge.log.body import DamagedBody, Row, records
from fluxedge.model import Group, Record, Round
from fluxedge.spi import Message
from fluxedge.uplinks import formats
from fluxedge.uplinks.formats import UNMARKED, Marks

AHEAD_MESSAGES = 8
AHEAD_BYTES = 1 << 20
RECORDS_MOST = 1000  # of a message


@dataclass(slots=True)
class Cut:
    """Some messages that follow each other, and what could not become one."""

    messages: list[Message] = field(default_factory=list)
    too_large: list[Message] = field(default_factory=list)  # one record each, above `most`
    damaged: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0  # the last seq that is in one of the three; 0 when nothing was read
    more: bool = False  # `next` goes on
    epoch: int = 0  # set by who asked for it


@dataclass(frozen=True, slots=True)
class Size:
    """How large messages shall be."""

    target: int  # bytes of payload
    most: int = 0  # a larger payload is never sent; 0 = no limit
    ahead: int = AHEAD_MESSAGES  # made at once


class Cutter:
    """Make messages of one lane. Used on the reader's thread only."""

    def __init__(self, gateway: str, form: str) -> None:
        self._gateway = gateway
        self._form = form
        self._pieces: Iterator[Message | tuple[int, int]] = iter(())
        self._most = 0
        self._ahead = AHEAD_MESSAGES
        self._marks = UNMARKED
        self._ratio = 1.0  # bytes of payload per guessed byte, of the last message

    def start(
        self, rows: Sequence[Row], groups: Mapping[int, Group], lo: int, hi: int, size: Size, marks: Marks = UNMARKED
    ) -> Cut:
        """Begin with rows of which lo..hi are wanted."""
        self._most, self._ahead, self._marks = size.most, size.ahead, marks
        self._pieces = self._cut(rows, groups, lo, hi, size.target)
        return self.next(rows, groups)

    def next(self, _rows: Sequence[Row], _groups: Mapping[int, Group]) -> Cut:
        """Go on where the last cut ended."""
        cut = Cut()
        payload_bytes = 0
        for piece in self._pieces:
            if isinstance(piece, tuple):
                cut.damaged.append(piece)
                cut.end = piece[1]
                continue
            cut.end = piece.hi
            if 0 < self._most < len(piece.payload):
                cut.too_large.append(piece)
                continue
            cut.messages.append(piece)
            payload_bytes += len(piece.payload)
            if len(cut.messages) >= self._ahead or payload_bytes >= AHEAD_BYTES:
                cut.more = True
                break
        return cut

    def _cut(
        self, rows: Sequence[Row], groups: Mapping[int, Group], lo: int, hi: int, target: int
    ) -> Iterator[Message | tuple[int, int]]:
        pending: list[Record] = []
        weight, expected = 0, lo  # the guess of what is pending, in bytes; the next seq
        for row in rows:
            if row.seq > hi:
                break
            if row.seq > expected:  # rows are missing in between
                yield from self._encode(pending, weight)
                yield expected, row.seq - 1
                pending, weight, expected = [], 0, row.seq
            try:
                for record in records(row, groups, expected):
                    if record.seq > hi:
                        break
                    more = _weight(record)
                    if pending and ((weight + more) * self._ratio > target or len(pending) >= RECORDS_MOST):
                        yield from self._encode(pending, weight)
                        pending, weight = [], 0
                    pending.append(record)
                    weight += more
                    expected = record.seq + 1
            except DamagedBody:
                yield from self._encode(pending, weight)
                yield expected, min(hi, row.last)
                pending, weight, expected = [], 0, row.last + 1
        yield from self._encode(pending, weight)

    def _encode(self, pending: list[Record], weight: int) -> Iterator[Message]:
        """Yield one message, or several when it came out above `most`."""
        if not pending:
            return
        message = formats.message(self._gateway, self._form, pending, self._marks)
        self._ratio = len(message.payload) / weight
        if 0 < self._most < len(message.payload) and len(pending) > 1:
            half = len(pending) // 2
            for part in (pending[:half], pending[half:]):
                yield from self._encode(part, sum(map(_weight, part)))
        else:
            yield message


def _weight(record: Record) -> int:
    """Guess the bytes of a record as JSON; what was guessed wrong is learnt as a ratio."""
    body = record.body
    if not isinstance(body, Round):
        return 150 + len(repr(body.data))
    guess = 100 + 20 * len(body.values)
    texts = _texts(body.group)
    return guess + sum([len(typing.cast(str, body.values[i] or "")) for i in texts]) if texts else guess


@functools.lru_cache(maxsize=16384)
def _texts(group: Group) -> tuple[int, ...]:
    """Return the columns whose size only their values tell."""
    return tuple(i for i, point in enumerate(group.points) if point.wire in "sy")
