"""Payload formats: records of one lane become JSON. Pure functions; schemas/ publishes what they make.

    json           one object per round
        {"gateway","epoch","lane","seq","n","records":[{"seq","device","group","at_us","values":{...},...}]}
    json-columns   the names once for all rounds that have the same, then rows of values; half the bytes
        {"gateway","epoch","lane","seq","n","groups":[{"group","points","units","rows":[[seq,device,at_us,[...]],...]}]}
    events         the same for both: {"gateway","epoch","lane","seq","n","records":[{"seq","kind","item","at_us",...}]}

Every form has "historical": true when the records were behind as their session began, and "durable": false when they
are in memory only. `seq` is the first record's; (gateway, epoch, lane, seq of the record) identifies a record for ever.
Integers beyond 2^53 are strings, bytes are base64, a value that is not there is null and its quality says why.

A round's values are encoded from a msgspec struct whose fields are the group's names, made once: 37 ns a point on
floats against 72 for dict(zip()) and 66 for keys spliced between encoded columns (500 points, x86-64, 2 cores).
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fluxedge.columns import Value, json_value
from fluxedge.model import Event, Flag, Group, Lane, Quality, Record, Round
from fluxedge.spi import Message

JSON = "application/json"
_QUALITY = [quality.name for quality in Quality]
_STRUCT_POINTS = 32768  # a struct of 500 fields takes 200 KiB and 3 ms to make; further lists of names use a dict
_SHAPES = 16384
_encoder = msgspec.json.Encoder()

Body = dict[str, typing.Any]
Form = typing.Literal["json", "json-columns"]


class Marks(typing.NamedTuple):
    """What a message says of all its records."""

    historical: bool = False  # they were behind when the session began
    durable: bool = True  # False: in memory only, because the disk takes nothing


UNMARKED = Marks()


class _Round(msgspec.Struct, omit_defaults=True, gc=False):
    seq: int
    device: str
    group: str
    at_us: int
    values: typing.Any
    quality: dict[str, str] | None = None  # what is not GOOD
    unsynced: dict[str, int] | None = None
    source_time: bool = False
    historical: bool = False


class _Event(msgspec.Struct, omit_defaults=True, gc=False):
    seq: int
    kind: str
    item: str
    at_us: int
    data: typing.Any
    unsynced: dict[str, int] | None = None
    source_time: bool = False
    historical: bool = False


class _Extra(msgspec.Struct, omit_defaults=True, gc=False):
    """The fourth item of a row, where there is something to say."""

    quality: list[int] | None = None  # one a point
    unsynced: dict[str, int] | None = None
    source_time: bool = False
    historical: bool = False


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the values of a group become JSON."""

    heading: int  # groups of equal name, points and units, whatever the device, have the same
    named: typing.Any  # values -> something that is encoded as an object; None = dict(zip())
    wide: tuple[int, ...]  # columns of bytes or 64-bit integers, which JSON cannot carry as they are


_shapes: dict[bytes, _Shape] = {}  # by group.key; the log's reader thread is the only one that encodes
_structs: dict[tuple[str, ...], typing.Any] = {}  # by names: the groups of one driver share them
_headings: dict[tuple[object, ...], int] = {}


def message(gateway: str, form: str, records: Sequence[Record], marks: Marks = UNMARKED) -> Message:
    """Encode records of one epoch and lane whose seqs follow each other without a hole."""
    first = records[0]
    body: Body = {
        "gateway": gateway,
        "epoch": first.epoch,
        "lane": first.lane.label,
        "seq": first.seq,
        "n": len(records),
    }
    if marks.historical:
        body["historical"] = True
    if not marks.durable:
        body["durable"] = False
    points = 0
    if first.lane is Lane.EVENTS:
        body["records"] = [_event(record) for record in records]
    else:
        rounds = typing.cast("Sequence[Round]", [record.body for record in records])
        points = sum([len(round_.values) for round_ in rounds])
        if form == "json-columns":
            body["groups"] = _groups(records)
        else:
            body["records"] = [_round(record) for record in records]
    return Message(
        epoch=first.epoch,
        lane=first.lane,
        lo=first.seq,
        hi=records[-1].seq,
        payload=_encoder.encode(body),
        content_type=JSON,
        points=points,
        oldest_ns=first.body.at_ns,
        historical=marks.historical,
        durable=marks.durable,
    )


def _round(record: Record) -> _Round:
    round_ = typing.cast(Round, record.body)
    group = round_.group
    shape = _shape(group)
    values = _carried(shape, round_.values)
    named = shape.named(*values) if shape.named is not None else dict(zip(group.names, values, strict=True))
    body = _Round(record.seq, group.device, group.name, round_.at_ns // 1000, named)
    if round_.quality:
        marks = zip(group.names, round_.quality, strict=True)
        body.quality = {name: _QUALITY[mark] for name, mark in marks if mark} or None
    if round_.flags:
        _stamp(body, record, round_.flags, round_.arrived_mono_ns)
    return body


def _groups(records: Sequence[Record]) -> list[Body]:
    found: dict[int, Body] = {}
    for record in records:
        round_ = typing.cast(Round, record.body)
        group = round_.group
        shape = _shape(group)
        body = found.get(shape.heading)
        if body is None:
            units = [point.unit for point in group.points]
            body = found[shape.heading] = {"group": group.name, "points": group.names, "units": units, "rows": []}
        row: list[typing.Any] = [record.seq, group.device, round_.at_ns // 1000, _carried(shape, round_.values)]
        if round_.flags or any(round_.quality):
            extra = _Extra(quality=list(round_.quality) if any(round_.quality) else None)
            _stamp(extra, record, round_.flags, round_.arrived_mono_ns)
            row.append(extra)
        body["rows"].append(row)
    return list(found.values())


def _event(record: Record) -> _Event:
    event = typing.cast(Event, record.body)
    body = _Event(record.seq, event.kind, event.item, event.at_ns // 1000, _deep(event.data))
    if event.flags:
        _stamp(body, record, event.flags, event.mono_ns)
    return body


def _stamp(body: _Round | _Event | _Extra, record: Record, flags: int, mono_ns: int) -> None:
    """Add what lets a reader place a record whose clock was not trusted, and the other flags."""
    if flags & Flag.CLOCK_UNSYNCED:
        body.unsynced = {"boot": record.boot, "mono_us": mono_ns // 1000}
    body.source_time = bool(flags & Flag.SOURCE_TIME)
    body.historical = bool(flags & Flag.HISTORICAL)


def _shape(group: Group) -> _Shape:
    shape = _shapes.get(group.key)
    if shape is None:
        if len(_shapes) >= _SHAPES:
            _shapes.clear()
            _headings.clear()
        heading = (group.name, group.names, tuple(point.unit for point in group.points))
        wide = () if group.codec.plain else tuple(i for i, point in enumerate(group.points) if point.wire in "qQy")
        shape = _shapes[group.key] = _Shape(_headings.setdefault(heading, len(_headings)), _named(group.names), wide)
    return shape


def _named(names: tuple[str, ...]) -> typing.Any:
    """Return a struct whose fields are encoded under these names; None when too many are kept already."""
    found = _structs.get(names)
    if found is None and sum(map(len, _structs)) + len(names) <= _STRUCT_POINTS:
        fields = [f"p{i}" for i in range(len(names))]
        found = msgspec.defstruct(
            "Values", [(field, object) for field in fields], rename=dict(zip(fields, names, strict=True)), gc=False
        )
        _structs[names] = found
    return found


def _carried(shape: _Shape, values: tuple[Value | None, ...]) -> Sequence[typing.Any]:
    """Return values that JSON can carry."""
    if not shape.wide:
        return values
    carried: list[typing.Any] = list(values)
    for i in shape.wide:
        carried[i] = json_value(carried[i])
    return carried


def _deep(value: typing.Any) -> typing.Any:
    """Return an event's data so that JSON can carry it."""
    if isinstance(value, dict):
        return {str(key): _deep(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_deep(item) for item in value]
    return json_value(value)
