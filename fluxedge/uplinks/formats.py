"""Payload formats: records of one lane become JSON. Pure functions; schemas/ publishes what they make.

    json           one object per round
        {"gateway","epoch","lane","seq","n","records":[{"seq","device","group","at_us","values":{...},...}]}
    json-columns   the names once per group, then rows of values; a third of the bytes
        {"gateway","epoch","lane","seq","n","groups":[{"device","group","points":[...],"rows":[[seq,at_us,[...]],...]}]}
    events         the same for both: {"gateway","epoch","lane","seq","n","records":[{"seq","kind","item","at_us",...}]}

`seq` is the first record's; (gateway, epoch, lane, seq of the record) identifies a record for ever. Integers beyond
2^53 are strings, bytes are base64, a value that is not there is null and its quality says why.
"""

from __future__ import annotations

import base64
import typing
from collections.abc import Sequence

import msgspec

from fluxedge.columns import Value
from fluxedge.model import Event, Flag, Group, Lane, Quality, Record, Round
from fluxedge.spi import Message

JSON = "application/json"
_SAFE = 2**53
_QUALITY = [quality.name for quality in Quality]
_encoder = msgspec.json.Encoder()

Body = dict[str, typing.Any]


def envelope(gateway: str, records: Sequence[Record]) -> Body:
    """Return what stands around every payload."""
    first = records[0]
    return {"gateway": gateway, "epoch": first.epoch, "lane": first.lane.label, "seq": first.seq, "n": len(records)}


def message(gateway: str, form: str, records: Sequence[Record]) -> Message:
    """Encode records of one epoch and lane whose seqs follow each other without a hole."""
    body = envelope(gateway, records)
    first = records[0]
    points = 0
    if first.lane is Lane.EVENTS:
        body["records"] = [_event(record) for record in records]
    elif form == "json-columns":
        body["groups"] = _groups(records)
        points = sum(len(typing.cast(Round, record.body).values) for record in records)
    else:
        body["records"] = [_round(record) for record in records]
        points = sum(len(typing.cast(Round, record.body).values) for record in records)
    return Message(
        epoch=first.epoch,
        lane=first.lane,
        lo=first.seq,
        hi=records[-1].seq,
        payload=_encoder.encode(body),
        content_type=JSON,
        points=points,
        oldest_ns=first.body.at_ns,
    )


def _round(record: Record) -> Body:
    round_ = typing.cast(Round, record.body)
    group = round_.group
    body: Body = {
        "seq": record.seq,
        "device": group.device,
        "group": group.name,
        "at_us": round_.at_ns // 1000,
        "values": dict(zip(group.names, _plain(group, round_.values), strict=True)),
    }
    _add_quality(body, round_, dict)
    _add_stamp(body, record, round_.flags, round_.arrived_mono_ns)
    return body


def _groups(records: Sequence[Record]) -> list[Body]:
    found: dict[bytes, Body] = {}
    for record in records:
        round_ = typing.cast(Round, record.body)
        group = round_.group
        body = found.get(group.key)
        if body is None:
            body = found[group.key] = {
                "device": group.device,
                "group": group.name,
                "points": group.names,
                "units": [point.unit for point in group.points],
                "rows": [],
            }
        row: list[typing.Any] = [record.seq, round_.at_ns // 1000, _plain(group, round_.values)]
        extra: Body = {}
        _add_quality(extra, round_, list)
        _add_stamp(extra, record, round_.flags, round_.arrived_mono_ns)
        if extra:
            row.append(extra)
        body["rows"].append(row)
    return list(found.values())


def _event(record: Record) -> Body:
    event = typing.cast(Event, record.body)
    body: Body = {
        "seq": record.seq, "kind": event.kind, "item": event.item, "at_us": event.at_ns // 1000, "data": event.data,
    }  # fmt: skip
    _add_stamp(body, record, event.flags, event.mono_ns)
    return body


def _add_quality(body: Body, round_: Round, shape: type) -> None:
    """Say which points are not GOOD; silence means that all are."""
    if not round_.quality:
        return
    if shape is list:
        body["quality"] = list(round_.quality)
    else:
        marks = zip(round_.group.names, round_.quality, strict=True)
        body["quality"] = {name: _QUALITY[mark] for name, mark in marks if mark}


def _add_stamp(body: Body, record: Record, flags: int, mono_ns: int) -> None:
    """Add what lets a reader place a record whose clock was not trusted, and the other flags."""
    if not flags:
        return
    if flags & Flag.CLOCK_UNSYNCED:
        body["unsynced"] = {"boot": record.boot, "mono_us": mono_ns // 1000}
    if flags & Flag.SOURCE_TIME:
        body["source_time"] = True
    if flags & Flag.HISTORICAL:
        body["historical"] = True


def _plain(group: Group, values: tuple[Value | None, ...]) -> Sequence[typing.Any]:
    """Return values that JSON can carry."""
    if group.codec.plain:
        return values
    return [_one(value) for value in values]


def _one(value: Value | None) -> typing.Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int) and not -_SAFE <= value <= _SAFE:
        return str(value)
    return value
