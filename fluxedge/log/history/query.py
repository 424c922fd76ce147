"""Questions about points: samples of a range, the value at an instant, buckets; of the log and the history as one.

An answer is lines of JSON: a head, rows point by point in the order of time, an end.

    {"head": {"kind": "buckets", "from_us": …, "to_us": …, "points": [{"id": "boiler.flow_temp", "unit": "Cel", …}]}}
    {"point": "boiler.flow_temp", "from_us": …, "to_us": …, "count": 86, "last": 61.5, "min": …, "max": …, "mean": …}
    {"end": {"rows": 1000, "damaged": []}}

What the aggregates mean stands in buckets.py. An answer without an end is not whole.
"""

from __future__ import annotations

import sqlite3
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fluxedge.columns import Value, json_value
from fluxedge.log.history import buckets, days
from fluxedge.log.history.buckets import DAY_NS, HOUR_NS, MINUTE_NS, Bucket, Fold, Piece
from fluxedge.log.history.chunks import DamagedChunk
from fluxedge.log.history.days import DamagedDay
from fluxedge.log.history.hot import Vanished
from fluxedge.log.history.samples import Samples, is_number
from fluxedge.log.history.scan import Hour, Scan, Sides, before
from fluxedge.model import Point, Quality

AGGREGATES = ("count", "last", "min", "max", "mean")
MINUTES, HOURS = 60, 3600  # levels of rollups
LINES = 500  # rows encoded at once
_NAMES = [quality.name for quality in Quality]
_encoder = msgspec.json.Encoder()

Row = dict[str, typing.Any]


Kind = typing.Literal["raw", "buckets", "at"]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for."""

    kind: Kind
    points: tuple[str, ...]  # DEVICE.POINT
    from_ns: int  # UTC; of "at": the instant
    to_ns: int
    now_ns: int  # beyond it no value holds
    count: int = 0  # buckets
    aggregates: tuple[str, ...] = AGGREGATES
    limit: int = 0  # of "raw": samples of each point; 0 = all


class Refused(Exception):
    """A question that cannot be answered; the text says why."""

    def __init__(self, text: str, code: str = "not-available") -> None:
        super().__init__(text)
        self.code = code  # "not-found", "not-available"


class Reading:
    """The log and the history of one state directory, open for reading. Blocking; used by one thread."""

    def __init__(self, state_dir: Path) -> None:
        """Open the log.

        Raises:
            Refused: there is none, or it cannot be read.
        """
        self._path = state_dir / "log.db"
        self._inode = _inode(self._path)
        if not self._inode:
            raise Refused(f"there is no log at {self._path}")
        try:
            self._log = connect(self._path)
        except sqlite3.Error as exc:
            raise Refused(f"{self._path}: {exc}") from exc
        self._sides = Sides(self._log, days.folder_of(state_dir))

    @property
    def current(self) -> bool:
        """Tell whether the log is still the file that was opened."""
        return _inode(self._path) == self._inode

    def close(self) -> None:
        """Close all files."""
        self._sides.past.close()
        self._log.close()

    def answer(self, asked: Question) -> Iterator[bytes]:
        """Yield the lines of an answer, many at a time.

        Raises:
            Refused: nobody has ever recorded such a point, or the log cannot be read.
        """
        try:
            self._sides.begin(asked.points)
            points = {name: self._point(name) for name in asked.points}
            yield _lines([{"head": _head(asked, points)}])
            count = 0
            for name, point in points.items():
                for rows in self._rows(asked, name, point):
                    for start in range(0, len(rows), LINES):
                        yield _lines(rows[start : start + LINES])
                    count += len(rows)
            yield _lines([{"end": {"rows": count, "damaged": self._sides.damaged}}])
        except Vanished as exc:
            raise Refused(f"the log changes faster than it can be read: {exc}") from exc
        except sqlite3.Error as exc:
            raise Refused(f"the log cannot be read: {exc}") from exc
        except OSError as exc:  # a folder without permission, for instance
            raise Refused(f"the history cannot be read: {exc}") from exc

    def _point(self, name: str) -> Point:
        """Return what the log, or else the newest history, says of a point."""
        device, _, wanted = name.partition(".")
        for group in reversed(self._sides.hot.groups.values()):
            if group.device == device and wanted in group.names:
                return group.points[group.names.index(wanted)]
        past = self._sides.past
        for day in reversed(past.days(0, 2**63 - 1)):
            for group, number in past.point(day, name).values():
                return group.points[number]
        raise Refused(f'nothing was ever recorded of the point "{name}"', "not-found")

    def _rows(self, asked: Question, name: str, point: Point) -> Iterator[list[Row]]:
        if asked.kind == "at":
            found = before(self._sides, name, asked.from_ns + 1)
            yield [] if found is None else _raw_rows(name, found)
        elif asked.kind == "raw":
            yield from self._raw(asked, name)
        else:
            for done in self.buckets(asked, name, point):
                yield [_bucket_row(name, bucket, asked.aggregates) for bucket in done]

    def _raw(self, asked: Question, name: str) -> Iterator[list[Row]]:
        left = asked.limit or 2**63
        for parts in Scan(self._sides, name, asked.from_ns, asked.to_ns).each(Hour.parts):
            for part in parts:
                for start in range(0, min(left, len(part)), LINES):
                    yield _raw_rows(name, part.cut(start, min(start + LINES, left, len(part))))
                left -= len(part)
                if left <= 0:
                    return

    def buckets(self, asked: Question, name: str, point: Point) -> Iterator[list[Bucket]]:
        """Yield the buckets of a point, some at a time."""
        numeric = is_number(point)
        edges = buckets.edges(asked.from_ns, asked.to_ns, asked.count)
        earlier = before(self._sides, name, asked.from_ns)
        held = earlier.values[0] if earlier is not None and (earlier.numeric or not numeric) else None
        fold = Fold(edges, asked.now_ns, numeric=numeric, held=held)
        pieces = _Pieces(self._sides, edges, asked.now_ns, numeric)
        for found in Scan(self._sides, name, asked.from_ns, asked.to_ns).each(pieces.of):
            for part in found:
                if isinstance(part, Piece):
                    fold.roll(part)
                else:
                    fold.feed(part.at_ns, part.values if part.numeric or not numeric else [None] * len(part))
            if done := fold.take():
                yield done
        yield fold.finish()


class _Pieces:
    """Take rollups for the hours that they fit, samples for the others."""

    def __init__(self, sides: Sides, edges: Sequence[int], now_ns: int, numeric: bool) -> None:
        self._numeric = numeric
        self._past = sides.past
        self._now_ns = now_ns
        self._inner = edges[1:-1]
        self._cuts: dict[int, bool] = {}  # hour with an edge in it -> do all its edges lie on whole minutes
        for edge in self._inner:
            if edge % HOUR_NS:
                hour = edge // HOUR_NS
                self._cuts[hour] = self._cuts.get(hour, True) and edge % MINUTE_NS == 0
        self._day: tuple[int, int] | None = None  # day and group number of ...
        self._hours: dict[int, Piece] = {}  # ... these: where an hour begins -> its piece

    def of(self, hour: Hour) -> list[Samples] | list[Piece]:
        """Return what an hour of a point has, in order."""
        return self._rolled(hour) or hour.parts()

    def _rolled(self, hour: Hour) -> list[Piece]:
        """Return an hour's rollups; none where only its samples will do."""
        groups = {head.grp for head in hour.heads}
        if not hour.whole or len(groups) != 1 or hour.to_ns > self._now_ns:
            return []
        minutes = self._cuts.get(hour.start_ns // HOUR_NS)
        if minutes is False or hour.hot():
            return []
        day, number = hour.start_ns // DAY_NS, groups.pop()
        group, point = hour.numbers[number]
        if is_number(group.points[point]) != self._numeric:
            return []
        try:
            if minutes:
                pieces = list(self._read(day, MINUTES, hour.start_ns // HOUR_NS, number, point).values())
            else:
                if self._day != (day, number):
                    self._hours = self._read(day, HOURS, day, number, point)
                    self._day = day, number
                pieces = [self._hours[hour.start_ns]] if hour.start_ns in self._hours else []
        except (DamagedChunk, DamagedDay):
            return []  # the chunks have it
        rounds = sum(head.n for head in hour.heads)  # else a chunk was damaged when the rollup was made
        return pieces if sum(piece.count for piece in pieces) == rounds else []

    def _read(self, day: int, level: int, start: int, number: int, point: int) -> dict[int, Piece]:
        reader = self._past.reader(day)
        rollup = None if reader is None else reader.rollup(level, start, number, self._past.upto)
        return dict(rollup.pieces(point) or ()) if rollup is not None else {}


def connect(path: Path) -> sqlite3.Connection:
    """Open a log read-only.

    SQLite reads beside a writer by the files -wal and -shm, and makes them when there are none; in a folder that we
    cannot write, a log without them is at rest and is read as it lies there.
    """
    uri = path.absolute().as_uri()
    for how in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{uri}?{how}", uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("SELECT k FROM meta LIMIT 1").fetchall()
        except sqlite3.Error:
            connection.close()
            if how != "mode=ro" or path.with_name(f"{path.name}-wal").exists():
                raise
            continue
        return connection
    raise AssertionError("unreachable")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _lines(rows: Sequence[Row]) -> bytes:
    return _encoder.encode_lines(rows)


def _head(asked: Question, points: dict[str, Point]) -> Row:
    head: Row = {"kind": asked.kind, "from_us": asked.from_ns // 1000, "to_us": asked.to_ns // 1000}
    if asked.kind == "at":
        head = {"kind": "at", "at_us": asked.from_ns // 1000}
    head["points"] = [_described(name, point) for name, point in points.items()]
    return head


def _described(name: str, point: Point) -> Row:
    found: Row = {"id": name, "label": point.label, "unit": point.unit, "number": is_number(point)}
    if point.enum:
        found["enum"] = {str(number): text for number, text in point.enum.items()}
    return found


def _raw_rows(name: str, part: Samples) -> list[Row]:
    marks = part.marks or bytes(len(part))
    columns = zip(part.at_ns, part.values, marks, part.epochs, part.seqs, strict=True)
    rows: list[Row] = [
        {
            "point": name, "at_us": at_ns // 1000, "value": json_value(value), "quality": _NAMES[mark],
            "epoch": epoch, "seq": seq,
        }
        for at_ns, value, mark, epoch, seq in columns
    ]  # fmt: skip
    for row, unsynced in zip(rows, part.unsynced, strict=False):
        if unsynced:
            row["unsynced"] = True
    return rows


def _bucket_row(name: str, bucket: Bucket, aggregates: Sequence[str]) -> Row:
    row: Row = {"point": name, "from_us": bucket.from_ns // 1000, "to_us": bucket.to_ns // 1000}
    for aggregate in aggregates:
        value: Value | None = getattr(bucket, aggregate)
        row[aggregate] = value if type(value) is float else json_value(value)
    return row
