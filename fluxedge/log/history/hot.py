"""The hot side of a query: samples of points out of log.db, of rounds that are not in the history yet.

    segments --> blocks of row heads (seqs, stamps) --> rows of blocks that can match --> columns of the points

A block is some hundred rows, one commit each. Rows never change, so what was decoded is kept for the next query, up to
a bound. Every statement is read to its end at once: none pins the WAL for longer than a block takes.
"""

from __future__ import annotations

import sqlite3
import struct
import typing
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fluxedge.columns import Value
from fluxedge.log import groups as stored_groups
from fluxedge.log import placing
from fluxedge.log.body import DamagedBody, Row, open_body
from fluxedge.log.history.samples import Samples, engineering, ordered
from fluxedge.log.placing import ClockRow, Places
from fluxedge.log.segments import Segment
from fluxedge.model import Flag, Group, Lane

BLOCK_ROWS = 256
BLOCK_BYTES = 512 << 10  # bodies in memory at once
KEPT_SAMPLES = 200_000  # decoded and kept for the next query: some 25 MB
KEPT_BYTES = 16 << 20  # of rows taken apart, kept for other points of the same groups
_ROUND_BYTES = 64  # what a round costs beside its row's body, about
UNSYNCED_SLACK_MS = 600_000  # a round may be committed so long after it was read, when commits fail
_HEAD = struct.Struct("<IqQBH")  # log/body.py: group, at_ns, mono_ns, flags, quality bytes
_NOWHERE = 2**63 - 1
_UNSYNCED = int(Flag.CLOCK_UNSYNCED)
_OWN_TIME = int(Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME)


class Vanished(Exception):
    """A segment was dropped while it was being read: its rounds are in the history now."""


@dataclass(slots=True)
class Block:
    """Some rows of a segment that follow each other."""

    segment: Segment
    first: int  # seq of its first record and of its last row's first one
    last_row: int
    last: int  # seq of its last record
    from_ns: int
    to_ns: int
    anywhere: bool  # its rounds may be stamped by a clock that was not trusted: they lie where the clock table says

    def can_match(self, from_ns: int, to_ns: int) -> bool:
        """Tell whether it can hold samples with a stamp in [from, to)."""
        return self.anywhere or (self.from_ns < to_ns and self.to_ns >= from_ns)


@dataclass(slots=True)
class _Rounds:
    """Where the rounds of one group stand in the rows of a block."""

    at_ns: array[int] = field(default_factory=lambda: array("q"))
    seqs: array[int] = field(default_factory=lambda: array("q"))
    unsynced: bytearray = field(default_factory=bytearray)
    bodies: list[bytes] = field(default_factory=list)  # plain ones, of whole rows
    columns: array[int] = field(default_factory=lambda: array("q"))  # where in its body a round's columns begin
    quality: array[int] = field(default_factory=lambda: array("q"))  # where its quality begins; -1 = all GOOD


class Hot:
    """Read the rounds of a log for a few points; one query at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` is read-only and in autocommit."""
        self._connection = connection
        self.groups: dict[int, Group] = {}
        self._last_group_id = 0
        self._blocks: dict[int, list[Block]] = {}  # segment number -> its blocks, in order
        self._kept: OrderedDict[tuple[int, int, int, str], list[Samples]] = OrderedDict()
        self._kept_samples = 0
        self._parsed: OrderedDict[tuple[int, int, int], tuple[dict[int, _Rounds], int]] = OrderedDict()  # and bytes
        self._parsed_bytes = 0
        self.compacted: dict[int, int] = {}
        self._clock: list[ClockRow] = []
        self.places = placing.NOWHERE
        self._bad: dict[tuple[int, int, int], set[str]] = {}  # block -> what of it is damaged
        self.damaged: set[str] = set()  # what was come across; the asker clears it

    def refresh(self) -> list[Segment]:
        """Read what changes: groups, clock, the seam; return the segments of rounds, oldest first."""
        fetch = self._fetch
        for number, body in fetch("SELECT id, body FROM groups WHERE id > ? ORDER BY id", self._last_group_id):
            self._last_group_id = number
            group = stored_groups.decode(body)
            if group is not None:
                self.groups[number] = group
        self.compacted = dict(fetch("SELECT epoch, upto FROM compacted"))
        clock = placing.rows_of(self._connection)
        if clock != self._clock:  # samples lie elsewhere now
            self._clock, self.places = clock, placing.Places(clock)
            self._blocks.clear()
            self._kept.clear()
            self._kept_samples = 0
            self._parsed.clear()
            self._parsed_bytes = 0
        found = []
        for number, epoch, first, last, from_ns, to_ns in fetch(
            "SELECT number, epoch, first, last, from_ns, to_ns FROM segments WHERE lane = ? ORDER BY number",
            Lane.ROUNDS,
        ):
            segment = Segment(Lane.ROUNDS, number, epoch, first, 0, _NOWHERE if last is None else last)
            segment.from_ns, segment.to_ns = (-_NOWHERE, _NOWHERE) if last is None else (from_ns, to_ns)
            found.append(segment)
        for gone in set(self._blocks) - {segment.number for segment in found}:
            del self._blocks[gone]
        return found

    def blocks(self, segment: Segment, from_ns: int, to_ns: int) -> list[Block]:
        """Return the blocks of a segment that can hold samples with a stamp in [from, to) and are not in the history.

        Raises:
            Vanished: it was dropped.
        """
        upto = self.compacted.get(segment.epoch, 0)
        if segment.last <= upto:
            return []
        unsynced = self._unsynced_until()
        if not (segment.from_ns < to_ns and segment.to_ns >= from_ns) and not self._may_be_unsynced(segment, unsynced):
            return []
        known = self._blocks.setdefault(segment.number, [])
        if known and known[-1].last != segment.last:
            known.pop()  # it may have grown, or lost a row that was written again behind it
        after = known[-1].last_row if known else 0
        while True:
            heads = self._fetch(
                f"SELECT seq, n, boot, mono_ms, from_ns, to_ns FROM {segment.table} WHERE seq > ? ORDER BY seq LIMIT ?",
                after, BLOCK_ROWS,
            )  # fmt: skip
            if heads:
                known.append(_block(segment, heads, unsynced))
                after = heads[-1][0]
            if len(heads) < BLOCK_ROWS:
                break
        return [block for block in known if block.last > upto and block.can_match(from_ns, to_ns)]

    def _unsynced_until(self) -> dict[int, int]:
        """Return boot -> until when, on its own clock, rounds may have been stamped by a clock that was not trusted."""
        found: dict[int, int] = {}
        for boot, mono_ms, *_ in sorted(self._clock):
            found.setdefault(boot, mono_ms + UNSYNCED_SLACK_MS)
        return found

    def _may_be_unsynced(self, segment: Segment, unsynced: Mapping[int, int]) -> bool:
        if not unsynced:
            return False
        ends = self._fetch(
            f"SELECT boot, mono_ms FROM {segment.table} WHERE seq IN"
            f" ((SELECT min(seq) FROM {segment.table}), (SELECT max(seq) FROM {segment.table})) ORDER BY seq"
        )
        if not ends:
            return False
        (boot, mono_ms), (last_boot, _) = ends[0], ends[-1]
        return any(mono_ms <= unsynced.get(b, -1) if b == boot else b in unsynced for b in range(boot, last_boot + 1))

    def samples(self, block: Block, point: str, points: Iterable[str]) -> list[Samples]:
        """Return a point's samples of a block behind the seam, a part for each of its groups.

        All `points` of the query are decoded at once.

        Raises:
            Vanished: the segment was dropped.
        """
        where = (block.segment.number, block.first, block.last)
        kept = self._kept.get((*where, point))
        if kept is None:
            for name, parts in self._decode(block, set(points)).items():
                self._keep((*where, name), parts)
                if name == point:
                    kept = parts
        assert kept is not None
        self.damaged |= self._bad.get(where, set())
        upto = self.compacted.get(block.segment.epoch, 0)
        if block.first > upto:
            return kept
        return [part.picked([i for i, seq in enumerate(part.seqs) if seq > upto]) for part in kept]

    def _keep(self, key: tuple[int, int, int, str], parts: list[Samples]) -> None:
        self._kept_samples += sum(map(len, parts)) - sum(map(len, self._kept.pop(key, [])))
        self._kept[key] = parts
        while self._kept_samples > KEPT_SAMPLES and len(self._kept) > 1:
            self._kept_samples -= sum(map(len, self._kept.popitem(last=False)[1]))

    def _decode(self, block: Block, points: set[str]) -> dict[str, list[Samples]]:
        wanted = {number: found for number, group in self.groups.items() if (found := _points_of(group, points))}
        parsed = self._parse(block, wanted)
        made: dict[str, list[Samples]] = {name: [] for name in points}
        for number, names in wanted.items():
            rounds = parsed[number]
            for name, point in names.items():
                if rounds.seqs:
                    made[name].append(_samples(rounds, self.groups[number], point, block.segment.epoch))
        return made

    def _parse(self, block: Block, wanted: Collection[int]) -> dict[int, _Rounds]:
        """Return where the rounds of some groups are; from the last query where that looked for them too."""
        key = block.segment.number, block.first, block.last
        kept, kept_bytes = self._parsed.get(key, ({}, 0))
        if kept.keys() >= set(wanted):
            if key in self._parsed:
                self._parsed.move_to_end(key)
            return kept
        parsed = {number: _Rounds() for number in {*wanted, *kept}}
        size, bad = 0, set()
        for row in self._rows(block):
            try:
                size += _gather(row, open_body(row), self.groups, parsed, self.places)
            except DamagedBody as damage:
                bad.add(str(damage))
            except (struct.error, LookupError, ValueError) as exc:
                bad.add(f"{Lane.ROUNDS.label} {row.seq}: {exc!r}")
        if bad:
            self._bad[key] = bad
        self._parsed[key] = parsed, size
        self._parsed_bytes += size - kept_bytes
        while self._parsed_bytes > KEPT_BYTES and len(self._parsed) > 1:
            self._parsed_bytes -= self._parsed.popitem(last=False)[1][1]
        return parsed

    def _rows(self, block: Block) -> Iterator[Row]:
        """Yield the rows of a block, some at a time."""
        at, limit = block.first, BLOCK_ROWS
        table = block.segment.table
        while at <= block.last_row:
            rows = self._fetch(
                f"SELECT seq, n, boot, codec, crc, body FROM {table} WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
                at, block.last_row, limit,
            )  # fmt: skip
            if not rows:
                raise Vanished(table)
            for row in rows:
                yield Row(block.segment.epoch, Lane.ROUNDS, *row)
            at = rows[-1][0] + 1
            size = sum(len(row[5]) for row in rows) // len(rows)
            limit = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, size)))

    def _fetch(self, sql: str, *values: object) -> list[typing.Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table: rounds_" in str(exc):
                raise Vanished(str(exc)) from exc
            raise


def _block(segment: Segment, heads: list[tuple[int, int, int, int, int, int]], unsynced: Mapping[int, int]) -> Block:
    seq, count, *_ = heads[-1]
    return Block(
        segment,
        first=heads[0][0],
        last_row=seq,
        last=seq + count - 1,
        from_ns=min(head[4] for head in heads),
        to_ns=max(head[5] for head in heads),
        anywhere=bool(unsynced) and any(head[3] <= unsynced.get(head[2], -1) for head in heads),
    )


def _points_of(group: Group, points: set[str]) -> dict[str, int]:
    """Return which of these points a group has: id -> number in the group."""
    named = {f"{group.device}.{point.name}": i for i, point in enumerate(group.points)}
    return {name: i for name, i in named.items() if name in points}


def _gather(row: Row, plain: bytes, groups: Mapping[int, Group], parsed: Mapping[int, _Rounds], places: Places) -> int:
    """Note where the rounds of a row are; return the bytes that are kept by that.

    Raises where the row is damaged: what came before stays noted.
    """
    at, seq, found = 0, row.seq, False
    for _ in range(row.count):
        group_id, at_ns, mono_ns, flags, quality_bytes = _HEAD.unpack_from(plain, at)
        codec = groups[group_id].codec
        if quality_bytes not in (0, codec.count):
            raise ValueError(f"{quality_bytes} qualities for {codec.count} points")
        start = at + _HEAD.size
        at = codec.skip(plain, start + quality_bytes)
        rounds = parsed.get(group_id)
        if rounds is not None:
            found = True
            if flags & _OWN_TIME == _UNSYNCED:
                placed_ns = places.place(row.boot, mono_ns)
                at_ns = at_ns if placed_ns is None else placed_ns
            rounds.at_ns.append(at_ns)
            rounds.seqs.append(seq)
            rounds.unsynced.append(flags & _UNSYNCED)
            rounds.bodies.append(plain)
            rounds.columns.append(start + quality_bytes)
            rounds.quality.append(start if quality_bytes else -1)
        seq += 1
    if at != len(plain):
        raise ValueError(f"{len(plain) - at} bytes behind the last record")
    return len(plain) + _ROUND_BYTES if found else 0


def _samples(rounds: _Rounds, group: Group, number: int, epoch: int) -> Samples:
    """Take one point out of rounds."""
    point = group.points[number]
    places = zip(rounds.bodies, rounds.columns, strict=True)
    raws: list[Value] = []
    if point.wire in "sy":
        raws = [raw for body, at in places if (raw := group.codec.unpack(body, at)[0][number]) is not None]
    else:
        offset = struct.calcsize("<" + "".join(other.wire for other in group.points[:number] if other.wire not in "sy"))
        unpack = struct.Struct("<" + point.wire).unpack_from
        for body, at in places:
            raws += unpack(body, at + offset)
    marks = bytes([body[at + number] if at >= 0 else 0 for body, at in zip(rounds.bodies, rounds.quality, strict=True)])
    marks = marks if any(marks) else b""
    values = engineering(point, raws, marks)
    unsynced = bytes(map(bool, rounds.unsynced)) if any(rounds.unsynced) else b""
    return ordered(Samples(point, rounds.at_ns.tolist(), values, marks, [epoch] * len(values), rounds.seqs, unsynced))
