"""Export: records as CSV (RFC 4180, one line per value) or as JSON lines (one object per record).

A record that was stamped before the clock was set stands where the clock rows place it, and says so.
"""

from __future__ import annotations

import base64
import csv
import datetime
import io
import typing
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from fluxedge.columns import Value, json_value
from fluxedge.log.placing import NOWHERE, Places
from fluxedge.model import Event, Flag, Lane, Quality, Record, Round

ROUND_COLUMNS = ("at", "device", "point", "value", "quality", "unit", "clock", "seq", "epoch")
EVENT_COLUMNS = ("at", "item", "kind", "data", "clock", "seq", "epoch")
_NAMES = [quality.name for quality in Quality]
_json = msgspec.json.Encoder()

Write = Callable[[str], object]


def iso(at_ns: int) -> str:
    """Return a stamp as RFC 3339, in UTC and microseconds."""
    seconds, rest_ns = divmod(at_ns, 10**9)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # a device's own time, outside the years 1 to 9999
        return str(at_ns)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


async def export_csv(
    records: AsyncIterator[Record], write: Write, lane: Lane = Lane.ROUNDS, places: Places = NOWHERE
) -> int:
    """Write one line per point, or per event, below a line of names; return the number of records."""
    buffer = io.StringIO()
    lines = csv.writer(buffer)  # "excel": comma, doubled quotes, CR LF
    lines.writerow(ROUND_COLUMNS if lane is Lane.ROUNDS else EVENT_COLUMNS)
    count = 0
    async for record in records:
        lines.writerows(_lines(record, places))
        count += 1
        if buffer.tell() > 1 << 16:
            write(buffer.getvalue())
            buffer.seek(0)
            buffer.truncate()
    write(buffer.getvalue())
    return count


async def export_jsonl(records: AsyncIterator[Record], write: Write, places: Places = NOWHERE) -> int:
    """Write one object per record and line; return the number of records."""
    count = 0
    async for record in records:
        write(_json.encode(as_object(record, places)).decode() + "\n")
        count += 1
    return count


def _lines(record: Record, places: Places) -> Iterator[tuple[typing.Any, ...]]:
    body = record.body
    placed_ns = places.of(record)
    at = iso(body.at_ns if placed_ns is None else placed_ns)
    clock = "" if not body.flags & Flag.CLOCK_UNSYNCED else "unsynced" if placed_ns is None else "placed"
    if isinstance(body, Event):
        yield at, body.item, body.kind, _json.encode(body.data).decode(), clock, record.seq, record.epoch
        return
    quality = body.quality or bytes(len(body.values))
    device, seq, epoch = body.group.device, record.seq, record.epoch
    for point, value, mark in zip(body.group.points, body.values, quality, strict=True):
        yield at, device, point.name, _text(value), _NAMES[mark], point.unit, clock, seq, epoch


def _text(value: Value | None) -> str | float | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def as_object(record: Record, places: Places = NOWHERE) -> dict[str, typing.Any]:
    """Return a record as JSON has it: bytes as base64, integers beyond 2^53 as text, quality only where not GOOD."""
    body = record.body
    placed_ns = places.of(record)
    at_ns = body.at_ns if placed_ns is None else placed_ns
    head: dict[str, typing.Any] = {"epoch": record.epoch, "lane": record.lane.label, "seq": record.seq}
    head |= {"at": iso(at_ns), "at_ns": str(at_ns)}
    if isinstance(body, Event):
        head |= {"item": body.item, "kind": body.kind, "data": body.data}
    else:
        head |= _round(body)
    if body.flags & Flag.CLOCK_UNSYNCED:
        mono_ns = body.arrived_mono_ns if isinstance(body, Round) else body.mono_ns
        head["unsynced"] = {"boot": record.boot, "mono_us": mono_ns // 1000}
        if placed_ns is not None:
            head["unsynced"]["stamped_ns"] = str(body.at_ns)
    if body.flags & Flag.SOURCE_TIME:
        head["source_time"] = True
    if body.flags & Flag.HISTORICAL:
        head["historical"] = True
    return head


def _round(round_: Round) -> dict[str, typing.Any]:
    group = round_.group
    values = round_.values if group.codec.plain else [json_value(value) for value in round_.values]
    found: dict[str, typing.Any] = {
        "device": group.device, "group": group.name, "values": dict(zip(group.names, values, strict=True)),
    }  # fmt: skip
    if round_.quality:
        marks = zip(group.names, round_.quality, strict=True)
        found["quality"] = {name: _NAMES[mark] for name, mark in marks if mark}
    return found
