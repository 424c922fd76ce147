"""Exports: CSV after RFC 4180, and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import AsyncIterator

import pytest

from fluxedge.log.export import as_object, export_csv, export_jsonl, iso
from fluxedge.log.placing import Places
from fluxedge.model import Event, Flag, Group, Lane, Point, Quality, Record, Round

AT_NS = 1_780_000_000_123_456_789
GROUP = Group(
    "m1",
    "main",
    (Point("flow", "d", unit="m3/h"), Point("name", "s"), Point("on", "?"), Point("count", "Q"), Point("raw", "y")),
)


async def stream(*records: Record) -> AsyncIterator[Record]:
    for record in records:
        yield record


def rounds(*raws: object, quality: bytes = b"", flags: int = 0) -> Record:
    made = GROUP.round(raws, AT_NS, 5_000, quality=quality, flags=flags)  # type: ignore[arg-type]
    return Record(7, Lane.ROUNDS, 42, 3, made)


async def as_csv(*records: Record, lane: Lane = Lane.ROUNDS) -> str:
    written: list[str] = []
    assert await export_csv(stream(*records), written.append, lane) == len(records)
    return "".join(written)


async def test_csv_has_a_line_per_value() -> None:
    text = await as_csv(rounds(1.5, 'says "hi", then\nleaves', True, 2**64 - 1, b"\xff\x00"))
    assert text.split("\r\n")[0] == "at,device,point,value,quality,unit,clock,seq,epoch"
    assert '"says ""hi"", then\nleaves"' in text
    assert text.endswith("\r\n")
    _, *lines = csv.reader(io.StringIO(text, newline=""))
    at = "2026-05-28T20:26:40.123456Z"
    assert lines == [
        [at, "m1", "flow", "1.5", "GOOD", "m3/h", "", "42", "7"],
        [at, "m1", "name", 'says "hi", then\nleaves', "GOOD", "", "", "42", "7"],
        [at, "m1", "on", "true", "GOOD", "", "", "42", "7"],
        [at, "m1", "count", "18446744073709551615", "GOOD", "", "", "42", "7"],
        [at, "m1", "raw", "/wA=", "GOOD", "", "", "42", "7"],
    ]


async def test_csv_of_a_missing_value_is_empty_and_says_why() -> None:
    text = await as_csv(rounds(math.nan, None, None, 5, b"", quality=bytes([0, 3, 2, 1, 0])))
    lines = [line.split(",")[3:5] for line in text.splitlines()[1:]]
    assert lines == [["", "BAD"], ["", "OFFLINE"], ["", "BAD"], ["5", "UNCERTAIN"], ["", "GOOD"]]


async def test_csv_of_events_and_of_nothing() -> None:
    event = Record(7, Lane.EVENTS, 9, 3, Event("audit", "gateway", AT_NS, 1, {"by": "a, b"}))
    text = await as_csv(event, lane=Lane.EVENTS)
    assert text == (
        "at,item,kind,data,clock,seq,epoch\r\n"
        '2026-05-28T20:26:40.123456Z,gateway,audit,"{""by"":""a, b""}",,9,7\r\n'
    )  # fmt: skip
    assert await as_csv() == "at,device,point,value,quality,unit,clock,seq,epoch\r\n"


async def test_large_exports_are_written_in_pieces() -> None:
    pieces: list[str] = []
    record = rounds(1.5, "x" * 1000, True, 1, b"")
    assert await export_csv(stream(*[record] * 500), pieces.append) == 500
    assert len(pieces) > 5
    assert max(len(piece) for piece in pieces) < 100_000
    assert sum(piece.count("\r\n") for piece in pieces) == 2501


async def test_json_lines_hold_one_record_each() -> None:
    written: list[str] = []
    flags = Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME | Flag.HISTORICAL
    good = rounds(1.5, "é\n", True, 2**53 + 1, b"\xff")
    bad = rounds(math.inf, None, False, 5, b"", quality=bytes([0, 3, 0, 1, 0]), flags=flags)
    event = Record(7, Lane.EVENTS, 9, 3, Event("audit", "gateway", AT_NS, 8_000, {"n": 1}, Flag.CLOCK_UNSYNCED))
    assert await export_jsonl(stream(good, bad, event), written.append) == 3
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    one, two, three = (json.loads(line) for line in written)
    head = {"epoch": 7, "lane": "rounds", "seq": 42, "at": "2026-05-28T20:26:40.123456Z", "at_ns": str(AT_NS)}
    assert one == head | {
        "device": "m1",
        "group": "main",
        "values": {"flow": 1.5, "name": "é\n", "on": True, "count": str(2**53 + 1), "raw": "/w=="},
    }
    assert two["quality"] == {"flow": "BAD", "name": "OFFLINE", "count": "UNCERTAIN"}
    assert two["values"]["flow"] is None
    assert two["unsynced"] == {"boot": 3, "mono_us": 5}
    assert two["source_time"]
    assert two["historical"]
    assert three["kind"] == "audit"
    assert three["data"] == {"n": 1}
    assert three["unsynced"] == {"boot": 3, "mono_us": 8}


@pytest.mark.parametrize(
    ("at_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775Z"),
        (-(2**63), "1677-09-21T00:12:43.145224Z"),
    ],
)
def test_stamps_are_rfc_3339(at_ns: int, text: str) -> None:
    assert iso(at_ns) == text


def test_a_round_of_plain_values_is_an_object_without_quality() -> None:
    group = Group("m", "g", (Point("a", "d"), Point("b", "h")))
    body = as_object(Record(1, Lane.ROUNDS, 1, 1, group.round((1.0, 2), 0, 0)))
    assert body["values"] == {"a": 1.0, "b": 2}
    assert "quality" not in body
    assert Quality.GOOD == 0
    assert isinstance(group.round((1.0, 2), 0, 0), Round)


# --- records that were stamped before the clock was set ---------------------------------------------------------------

PLACES = Places([(3, 10, AT_NS // 10**6, "ntp")])  # boot 3 was 10 ms old then


async def placed_csv(lane: Lane, *records: Record) -> list[list[str]]:
    written: list[str] = []
    await export_csv(stream(*records), written.append, lane, PLACES)
    return list(csv.reader(io.StringIO("".join(written), newline="")))[1:]


async def test_an_unsynced_record_stands_where_the_clock_rows_place_it_and_says_so() -> None:
    round_ = rounds(1.5, "", True, 1, b"", flags=Flag.CLOCK_UNSYNCED)  # 5 us after the boot
    event = Record(7, Lane.EVENTS, 9, 3, Event("audit", "gateway", 0, 5_000, flags=Flag.CLOCK_UNSYNCED))
    placed_ns = AT_NS // 10**6 * 10**6 - 10**7 + 5_000
    for record in (round_, event):
        body = as_object(record, PLACES)
        assert (body["at_ns"], body["at"]) == (str(placed_ns), iso(placed_ns))
        assert body["unsynced"] == {"boot": 3, "mono_us": 5, "stamped_ns": str(record.body.at_ns)}
    (line, *_), (event_line,) = await placed_csv(Lane.ROUNDS, round_), await placed_csv(Lane.EVENTS, event)
    assert line == [iso(placed_ns), "m1", "flow", "1.5", "GOOD", "m3/h", "placed", "42", "7"]
    assert event_line == [iso(placed_ns), "gateway", "audit", "{}", "placed", "9", "7"]


async def test_what_nobody_can_place_keeps_its_stamp_and_is_marked() -> None:
    record = Record(7, Lane.EVENTS, 9, 2, Event("audit", "gateway", 0, 5_000, flags=Flag.CLOCK_UNSYNCED))
    assert await placed_csv(Lane.EVENTS, record) == [[iso(0), "gateway", "audit", "{}", "unsynced", "9", "7"]]
    assert as_object(record, PLACES)["unsynced"] == {"boot": 2, "mono_us": 5}


async def test_a_devices_own_time_is_never_moved() -> None:
    record = rounds(1.5, "", True, 1, b"", flags=Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME)
    assert as_object(record, PLACES)["at_ns"] == str(AT_NS)
    assert (await placed_csv(Lane.ROUNDS, record))[0][0] == iso(AT_NS)
