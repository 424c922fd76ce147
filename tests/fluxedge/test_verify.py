"""The proof that nothing is missing finds what is."""

from __future__ import annotations

import itertools
import json
import random
import typing

import pytest

from fluxedge.model import Event, Group, Lane, Point, Record
from fluxedge.uplinks import formats
from fluxedge.verify import Ledger, Verifier

GROUP = Group("m", "main", (Point("n", "H"),))


def rounds(
    lo: int, hi: int, *, gateway: str = "gw", epoch: int = 5, form: str = "json", historical: bool = False
) -> bytes:
    records = [Record(epoch, Lane.ROUNDS, seq, 1, GROUP.round((1,), 1, 1)) for seq in range(lo, hi + 1)]
    return formats.message(gateway, form, records, formats.Marks(historical)).payload


def gap(seq: int, lo: int, hi: int, uplink: str = "cloud") -> bytes:
    data = {"uplink": uplink, "epoch": 5, "lane": "rounds", "lo": lo, "hi": hi, "why": "damaged"}
    return formats.message("gw", "json", [Record(5, Lane.EVENTS, seq, 1, Event("gap", "log", 1, 1, data))]).payload


def ledger_of(verifier: Verifier, lane: str = "rounds") -> Ledger:
    return verifier.ledgers["gw", 5, lane]


@pytest.mark.parametrize("form", ["json", "json-columns"])
def test_a_complete_stream_misses_nothing(form: str) -> None:
    verifier = Verifier()
    for lo, hi in ((1, 4), (5, 5), (6, 20)):
        assert verifier.take(rounds(lo, hi, form=form))
    ledger = ledger_of(verifier)
    assert (ledger.first, ledger.last, ledger.records, ledger.messages) == (1, 20, 20, 3)
    assert (verifier.missing, ledger.duplicate_records, ledger.out_of_order, verifier.unreadable) == (0, 0, 0, 0)


def test_holes_are_found() -> None:
    verifier = Verifier()
    for lo, hi in ((3, 4), (7, 7), (10, 12)):
        verifier.take(rounds(lo, hi))
    assert ledger_of(verifier).missing() == [(5, 6), (8, 9)]
    assert ledger_of(verifier).missing(since=1) == [(1, 2), (5, 6), (8, 9)]
    assert verifier.missing == 4


def test_duplicates_are_counted_and_hide_no_hole() -> None:
    verifier = Verifier()
    for lo, hi in ((1, 5), (4, 8), (1, 2), (10, 10)):
        verifier.take(rounds(lo, hi))
    ledger = ledger_of(verifier)
    assert ledger.duplicate_records == 4
    assert list(ledger.duplicates) == [(1, 2), (4, 5)]
    assert ledger.missing() == [(9, 9)]


def test_a_late_first_publication_is_out_of_order_and_a_repetition_is_not() -> None:
    verifier = Verifier()
    for lo, hi in ((1, 5), (10, 12), (6, 9), (10, 12)):
        verifier.take(rounds(lo, hi))
    assert (ledger_of(verifier).out_of_order, verifier.missing) == (1, 0)


def test_the_order_of_the_backlog_and_of_what_is_live_are_two_orders() -> None:
    verifier = Verifier()
    for lo, hi, historical in ((10, 12, False), (1, 5, True), (13, 13, False), (6, 9, True), (14, 14, False)):
        verifier.take(rounds(lo, hi, historical=historical))
    assert (ledger_of(verifier).out_of_order, verifier.missing) == (0, 0)
    verifier.take(rounds(30, 31, historical=True))
    verifier.take(rounds(20, 29, historical=True))
    assert ledger_of(verifier).out_of_order == 1


def test_an_announced_gap_is_not_missing() -> None:
    verifier = Verifier()
    verifier.take(rounds(1, 2))
    verifier.take(gap(1, 3, 5))
    verifier.take(rounds(7, 9))
    assert ledger_of(verifier).missing() == [(6, 6)]
    assert list(ledger_of(verifier).gaps) == [(3, 5)]


def test_a_gap_of_another_uplink_excuses_nothing() -> None:
    verifier = Verifier("here")
    verifier.take(rounds(1, 2))
    verifier.take(gap(1, 3, 3, "elsewhere"))
    verifier.take(gap(2, 4, 4, "here"))
    verifier.take(rounds(5, 5))
    assert ledger_of(verifier).missing() == [(3, 3)]


def state_of(uplink: str, seq: int = 9) -> bytes:
    event = Event("uplink-state", f"uplink:{uplink}", 1, 1, {"state": "connected"})
    return formats.message("gw", "json", [Record(5, Lane.EVENTS, seq, 1, event)]).payload


@pytest.mark.parametrize("events", list(itertools.permutations([gap(1, 3, 3), gap(2, 5, 5, "backup"), rounds(1, 2)])))
def test_of_two_uplinks_no_gap_explains_a_hole_unless_one_is_named(events: tuple[bytes, ...]) -> None:
    missing = {"": [(3, 3), (5, 5)], "cloud": [(5, 5)], "backup": [(3, 3)], "other": [(3, 3), (5, 5)]}
    for uplink, holes in missing.items():
        verifier = Verifier(uplink)
        for payload in (*events, rounds(4, 4), rounds(6, 6)):
            verifier.take(payload)
        assert ledger_of(verifier).missing() == holes
        assert {name: list(ranges) for name, ranges in ledger_of(verifier).announced.items()} == {
            "cloud": [(3, 3)], "backup": [(5, 5)],
        }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
def test_an_uplink_that_any_event_names_makes_the_gaps_of_another_worthless(first: bool) -> None:
    verifier = Verifier()
    for payload in (state_of("backup"), gap(1, 3, 3))[:: 1 if first else -1]:
        verifier.take(payload)
    verifier.take(rounds(1, 2))
    verifier.take(rounds(4, 4))
    assert verifier.ambiguous("gw")
    assert ledger_of(verifier).missing() == [(3, 3)]


def test_the_uplinks_of_another_gateway_make_nothing_ambiguous() -> None:
    verifier = Verifier()
    for payload in (gap(1, 3, 3), rounds(1, 2), rounds(4, 4), state_of("elsewhere").replace(b'"gw"', b'"other"')):
        verifier.take(payload)
    assert verifier.uplinks == {"gw": {"cloud"}, "other": {"elsewhere"}}
    assert verifier.missing == 0


def test_streams_are_apart_by_gateway_epoch_and_lane() -> None:
    verifier = Verifier()
    verifier.take(rounds(1, 3))
    verifier.take(rounds(7, 9, gateway="other"))
    verifier.take(rounds(1, 1, epoch=6))
    verifier.take(gap(1, 90, 91))
    assert {stream: (x.first, x.last) for stream, x in verifier.ledgers.items()} == {
        ("gw", 5, "rounds"): (1, 3), ("other", 5, "rounds"): (7, 9), ("gw", 6, "rounds"): (1, 1),
        ("gw", 5, "events"): (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0}, {"n": 0}, {"n": -1}, {"n": 2}, {"seq": "1"}, {"lane": "other"}, {"records": []}, {"epoch": None},
    ],
)  # fmt: skip
def test_a_message_that_contradicts_itself_is_counted_as_unreadable(change: dict[str, typing.Any]) -> None:
    verifier = Verifier()
    assert not verifier.take(json.dumps(json.loads(rounds(1, 1)) | change).encode())
    assert (verifier.unreadable, verifier.ledgers) == (1, {})


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"[]", b'{"gateway":"gw","state":"online"}'])
def test_foreign_messages_are_counted_and_do_no_harm(payload: bytes) -> None:
    verifier = Verifier()
    assert not verifier.take(payload)
    assert verifier.unreadable == 1


def test_any_loss_is_found_whatever_is_repeated() -> None:
    rng = random.Random(3)
    for _ in range(50):
        ranges = [(lo, lo + 4) for lo in range(1, 200, 5)]
        lost = rng.sample(ranges[1:-1], 3)
        sent = [r for r in ranges if r not in lost]
        verifier = Verifier()
        for lo, hi in sent + rng.sample(sent, 5):
            verifier.take(rounds(lo, hi))
        missing = {seq for lo, hi in ledger_of(verifier).missing() for seq in range(lo, hi + 1)}
        assert missing == {seq for lo, hi in lost for seq in range(lo, hi + 1)}
