"""The demo's tally: values and proof from messages, totals from the gateway's own status."""

from __future__ import annotations

import msgspec

from fluxedge.cli.demo_tally import Tally
from fluxedge.model import Point

STATUS = {
    "log": {"lanes": [{"head": 7}, {"head": 3}]},
    "uplinks": [{"records": 9}],
    "problems": [{"item": "log", "code": "disk-low", "message": "m"}],
}


def rounds(seq: int, *records: dict[str, object]) -> bytes:
    body = {"gateway": "demo", "epoch": 1, "lane": "rounds", "seq": seq, "n": len(records), "records": records}
    return msgspec.json.encode(body)


def tally() -> Tally:
    return Tally({("m", "u"): Point("u", "f"), ("m", "i"): Point("i", "f")})


def test_the_latest_value_of_each_point_is_kept_with_its_quality() -> None:
    found = tally()
    found.take(rounds(1, {"device": "m", "at_us": 5, "values": {"u": 1.0, "i": 2.0}}))
    found.take(rounds(2, {"device": "m", "at_us": 6, "values": {"u": None}, "quality": {"u": "OFFLINE"}}))
    assert (found.now["m", "u"].value, found.now["m", "u"].quality, found.now["m", "u"].at_us) == (None, "OFFLINE", 6)
    assert (found.now["m", "i"].value, found.now["m", "i"].quality) == (2.0, "GOOD")
    assert found.values == 3


def test_what_lies_before_the_first_record_is_missing_too() -> None:
    found = tally()
    found.take(rounds(3, {"device": "m", "at_us": 5, "values": {}}))
    assert (found.received, found.missing) == (1, 2)


def test_a_record_that_came_twice_counts_once() -> None:
    found = tally()
    for _ in range(2):
        found.take(rounds(1, {"device": "m", "at_us": 5, "values": {"u": 1.0}}))
    assert found.received == 1


def test_totals_are_unknown_until_the_gateway_answers() -> None:
    found = tally()
    assert (found.committed, found.acknowledged, found.problems) == (None, None, [])
    found.status = STATUS
    assert (found.committed, found.acknowledged, len(found.problems)) == (10, 9, 1)
    assert found.totals().committed == 10


def test_foreign_messages_change_nothing() -> None:
    found = tally()
    found.take(b"hello")
    assert (found.values, found.received) == (0, 0)
