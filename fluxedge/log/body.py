"""The bodies of log rows: one commit's batch of one lane, in raw typed columns. Pure functions.

rounds body, before compression: the rounds one after the other, little-endian
    offset  size
    0       4     group id (row of table groups)
    4       8     at_ns, signed: UTC, ns since 1970-01-01
    12      8     arrived_mono_ns: CLOCK_BOOTTIME
    20      1     flags (model.Flag)
    21      2     q, length of the quality bytes: 0 = all GOOD, else one a point
    23      q     quality bytes
    23+q          columns as fluxedge/columns.py draws them

events body: the events one after the other, each  u32 length | MessagePack of model.Event

codec 0 = as it is, 1 = zlib level 1.  crc = CRC-32 of the stored (compressed) body.
"""

from __future__ import annotations

import struct
import typing
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from fluxedge.model import Event, Group, Lane, Record, Round

_HEAD = struct.Struct("<IqQBH")
_LENGTH = struct.Struct("<I")
_GROUP = struct.Struct("<I")  # the first field of _HEAD
CODEC_PLAIN = 0
CODEC_ZLIB = 1
_PLAIN_BELOW_BYTES = 100  # zlib's own 11 bytes of frame eat the gain below

_event_encoder = msgspec.msgpack.Encoder()
_event_decoder = msgspec.msgpack.Decoder(Event)


class DamagedBody(Exception):
    """A row's body does not match its checksum, or cannot be taken apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a segment: a batch of records of one lane and epoch."""

    epoch: int
    lane: Lane
    seq: int  # of its first record
    count: int
    boot: int
    codec: int
    crc: int
    body: bytes
    from_ns: int = 0  # earliest and latest stamp of its records
    to_ns: int = 0

    @property
    def last(self) -> int:
        """Return the seq of its last record."""
        return self.seq + self.count - 1


def pack_round(group_id: int, round_: Round) -> bytes:
    """Return one round as it stands in a body.

    Raises:
        ValueError: a raw does not fit its wire type, or the stamp its 64 bits.
    """
    quality = round_.quality
    columns = round_.group.codec.pack(round_.raws, quality)
    try:
        head = _HEAD.pack(group_id, round_.at_ns, round_.arrived_mono_ns, round_.flags, len(quality))
    except struct.error as exc:
        raise ValueError(f"stamp {round_.at_ns}, flags {round_.flags}: {exc}") from exc
    return b"".join((head, quality, columns))


def pack_event(event: Event) -> bytes:
    """Return one event as it stands in a body."""
    try:
        body = _event_encoder.encode(event)
    except UnicodeEncodeError:  # names of files that are not UTF-8 come with surrogates
        kind, item, data = _printable(event.kind), _printable(event.item), _printable(event.data)
        body = _event_encoder.encode(msgspec.structs.replace(event, kind=kind, item=item, data=data))
    return _LENGTH.pack(len(body)) + body


def _printable(value: typing.Any) -> typing.Any:
    """Return the data of an event with what no UTF-8 text can hold escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(inner) for inner in value]
    return value


def close_body(parts: list[bytes]) -> tuple[int, int, bytes]:
    """Return (codec, crc, stored body) of a batch."""
    plain = b"".join(parts)
    if len(plain) < _PLAIN_BELOW_BYTES:
        return CODEC_PLAIN, zlib.crc32(plain), plain
    packed = zlib.compress(plain, 1)
    return CODEC_ZLIB, zlib.crc32(packed), packed


def open_body(row: Row) -> bytes:
    """Return the plain body of a row.

    Raises:
        DamagedBody: wrong checksum, or it cannot be decompressed.
    """
    if zlib.crc32(row.body) != row.crc:
        raise DamagedBody(f"{row.lane.label} {row.seq}: checksum")
    if row.codec == CODEC_PLAIN:
        return row.body
    if row.codec != CODEC_ZLIB:
        raise DamagedBody(f"{row.lane.label} {row.seq}: unknown codec {row.codec}")
    try:
        return zlib.decompress(row.body)
    except zlib.error as exc:
        raise DamagedBody(f"{row.lane.label} {row.seq}: {exc}") from exc


def records(row: Row, groups: Mapping[int, Group], lo: int = 0, only: Container[int] | None = None) -> Iterator[Record]:
    """Iterate over the records of a row whose seq is not below `lo`; of rounds, those whose group id is in `only`.

    Raises:
        DamagedBody: the body is not what this module wrote; what came before the damage has been yielded.
    """
    plain = open_body(row)
    try:
        if row.lane is Lane.EVENTS:
            bodies: Iterator[Round | Event | None] = _events(plain, row.count)
        else:
            bodies = _rounds(plain, row.count, groups, only)
        for seq, body in enumerate(bodies, row.seq):
            if seq >= lo and body is not None:
                yield Record(row.epoch, row.lane, seq, row.boot, body)
    except (struct.error, msgspec.MsgspecError, LookupError, ValueError, ArithmeticError) as exc:
        raise DamagedBody(f"{row.lane.label} {row.seq}: {exc!r}") from exc


class RawRound(typing.NamedTuple):
    """One round as it stands in a body."""

    group_id: int
    at_ns: int
    mono_ns: int
    flags: int
    quality: bytes
    columns: bytes  # as fluxedge/columns.py draws them

    @property
    def size_bytes(self) -> int:
        """Return what it takes of a body."""
        return _HEAD.size + len(self.quality) + len(self.columns)


def raw_rounds(row: Row, groups: Mapping[int, Group], only: Container[int] | None = None) -> list[tuple[int, RawRound]]:
    """Return (seq, round) of a row, columns as they are stored; those whose group id is in `only`.

    Raises:
        DamagedBody: the body is not what this module wrote.
    """
    plain = open_body(row)
    found = []
    at = 0
    try:
        for seq in range(row.seq, row.seq + row.count):
            group_id, at_ns, mono_ns, flags, quality_bytes = _HEAD.unpack_from(plain, at)
            codec = groups[group_id].codec
            if quality_bytes not in (0, codec.count):
                raise ValueError(f"{quality_bytes} qualities for {codec.count} points")
            start = at + _HEAD.size + quality_bytes
            end = codec.skip(plain, start)
            if only is None or group_id in only:
                quality, columns = plain[at + _HEAD.size : start], plain[start:end]
                found.append((seq, RawRound(group_id, at_ns, mono_ns, flags, quality, columns)))
            at = end
        _end(plain, at)
    except (struct.error, LookupError, ValueError) as exc:
        raise DamagedBody(f"{row.lane.label} {row.seq}: {exc!r}") from exc
    return found


def checked(row: Row, groups: Mapping[int, Group], numbers: Mapping[int, int]) -> Row:
    """Return a salvaged row as another log takes it: records counted, stamps made anew, groups under `numbers` there.

    Raises:
        DamagedBody: the body is not what this module wrote, or not of so many records.
    """
    plain = open_body(row)
    try:
        if row.lane is Lane.EVENTS:
            stamps = [event.at_ns for event in _events(plain, row.count)]
            return replace(row, from_ns=min(stamps), to_ns=max(stamps))
        moved, stamps = _renumbered(plain, row.count, groups, numbers)
    except (struct.error, msgspec.MsgspecError, LookupError, ValueError, ArithmeticError) as exc:
        raise DamagedBody(f"{row.lane.label} {row.seq}: {exc!r}") from exc
    row = replace(row, from_ns=min(stamps), to_ns=max(stamps))
    if moved == plain:
        return row
    codec, crc, body = close_body([moved])
    return replace(row, codec=codec, crc=crc, body=body)


def _renumbered(
    plain: bytes, count: int, groups: Mapping[int, Group], numbers: Mapping[int, int]
) -> tuple[bytes, list[int]]:
    """Return rounds with their groups under other numbers, and their stamps."""
    moved, stamps, at = bytearray(plain), [], 0
    for _ in range(count):
        group_id, at_ns, _, _, quality_bytes = _HEAD.unpack_from(plain, at)
        codec = groups[group_id].codec
        if quality_bytes not in (0, codec.count):
            raise ValueError(f"{quality_bytes} qualities for {codec.count} points")
        _GROUP.pack_into(moved, at, numbers[group_id])
        stamps.append(at_ns)
        at = codec.skip(plain, at + _HEAD.size + quality_bytes)
    _end(plain, at)
    return bytes(moved), stamps


def _rounds(
    plain: bytes, count: int, groups: Mapping[int, Group], only: Container[int] | None
) -> Iterator[Round | None]:
    at = 0
    for _ in range(count):
        group_id, at_ns, mono_ns, flags, quality_bytes = _HEAD.unpack_from(plain, at)
        at += _HEAD.size
        group = groups[group_id]
        if quality_bytes not in (0, group.codec.count):
            raise ValueError(f"{quality_bytes} qualities for {group.codec.count} points")
        if only is not None and group_id not in only:
            at = group.codec.skip(plain, at + quality_bytes)
            yield None
            continue
        quality = plain[at : at + quality_bytes]
        raws, at = group.codec.unpack(plain, at + quality_bytes)
        yield Round(group, raws, group.codec.values(raws, quality), quality, at_ns, mono_ns, flags)
    _end(plain, at)


def _events(plain: bytes, count: int) -> Iterator[Event]:
    at = 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(plain, at)
        at += _LENGTH.size
        yield _event_decoder.decode(plain[at : at + length])
        at += length
    _end(plain, at)


def _end(plain: bytes, at: int) -> None:
    if at != len(plain):
        raise ValueError(f"{len(plain) - at} bytes behind the last record")
