"""The quarantine's table: bounded, repeatable, and what leaves it is announced."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from fluxedge.log import Batch, migrations, quarantine, retention
from fluxedge.log.quarantine import Total
from fluxedge.model import Lane
from fluxedge.spi import Message
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import event_of

R, E = Lane.ROUNDS, Lane.EVENTS


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in migrations.statements():
        made.execute(statement)
    yield made
    made.close()


def refusal(
    lo: int, hi: int, *, uplink: str = "cloud", at_ms: int = 5, payload: bytes = b"{}", why: str = "no"
) -> tuple:  # type: ignore[type-arg]
    return (uplink, 9, R, lo, hi, why, at_ms, "application/json", payload)


def test_what_was_refused_is_found_with_its_payload(connection: sqlite3.Connection) -> None:
    assert quarantine.add(connection, [refusal(3, 4, payload=b"\xff\x00")], 7) == []
    (kept,) = quarantine.page(connection)
    assert (kept.uplink, kept.epoch, kept.lane, kept.lo, kept.hi) == ("cloud", 9, R, 3, 4)
    assert (kept.reason, kept.tries, kept.again, kept.payload_bytes, kept.records) == ("no", 1, False, 2, 2)
    assert quarantine.find(connection, kept.id) == (kept, b"\xff\x00")
    assert quarantine.find(connection, kept.id + 1) is None


def test_a_commit_that_is_repeated_changes_nothing(connection: sqlite3.Connection) -> None:
    quarantine.add(connection, [refusal(3, 4)], 7)
    before = quarantine.page(connection)
    quarantine.add(connection, [refusal(3, 4)], 7)
    assert quarantine.page(connection) == before


def test_records_that_are_refused_again_keep_their_row(connection: sqlite3.Connection) -> None:
    quarantine.add(connection, [refusal(3, 4)], 7)
    (first,) = quarantine.page(connection)
    quarantine.mark(connection, [first.id])
    quarantine.add(connection, [refusal(3, 4, at_ms=8, why="still no")], 9)
    (again,) = quarantine.page(connection)
    assert (again.id, again.tries, again.again, again.reason) == (first.id, 2, False, "still no")


def test_a_marked_row_is_wanted_until_it_is_delivered_or_refused(connection: sqlite3.Connection) -> None:
    quarantine.add(connection, [refusal(1, 1), refusal(2, 2, payload=b"two"), refusal(3, 3, uplink="site")], 7)
    one, two, other = quarantine.page(connection)
    assert quarantine.wanted(connection, "cloud", 0, 10) == []
    assert [kept.id for kept in quarantine.mark(connection, [one.id, two.id, 99])] == [one.id, two.id]
    found = quarantine.wanted(connection, "cloud", 0, 10)
    assert [(kept.id, payload) for kept, payload in found] == [(one.id, b"{}"), (two.id, b"two")]
    assert [kept.id for kept, _ in quarantine.wanted(connection, "cloud", one.id, 10)] == [two.id]
    quarantine.delivered(connection, one.id)
    for _ in range(2):
        quarantine.refused(connection, two.id, "not yet", 11)
    assert quarantine.wanted(connection, "cloud", 0, 10) == []
    left = {kept.id: (kept.tries, kept.reason) for kept in quarantine.page(connection)}
    assert left == {two.id: (2, "not yet"), other.id: (1, "no")}


def test_what_is_dropped_leaves_a_gap_that_is_to_be_announced(connection: sqlite3.Connection) -> None:
    quarantine.add(connection, [refusal(1, 5), refusal(8, 8)], 7)
    one, two = quarantine.page(connection)
    found, gaps = quarantine.drop(connection, [one.id, 77], 12)
    assert found == [one]
    assert [(gap.uplink, gap.epoch, gap.lane, gap.lo, gap.hi, gap.why) for gap in gaps] == [
        ("cloud", 9, R, 1, 5, "dropped")
    ]
    assert retention.unannounced(connection) == gaps
    assert quarantine.page(connection) == [two]


def test_totals_and_pages_are_of_one_uplink_or_of_all(connection: sqlite3.Connection) -> None:
    quarantine.add(connection, [refusal(i, i + 1, payload=b"1234") for i in range(1, 10, 2)], 7)
    quarantine.add(connection, [refusal(1, 1, uplink="site")], 7)
    assert quarantine.totals(connection) == {"cloud": Total(5, 10, 20), "site": Total(1, 1, 2)}
    first = quarantine.page(connection, "cloud", 0, 3)
    rest = quarantine.page(connection, "cloud", first[-1].id, 3)
    assert [kept.lo for kept in first + rest] == [1, 3, 5, 7, 9]
    assert [kept.uplink for kept in quarantine.page(connection)] == ["cloud"] * 5 + ["site"]


@pytest.mark.parametrize("bound", ["MOST_ROWS", "MOST_BYTES"])
def test_a_full_table_lets_the_oldest_go_as_announced_gaps(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(quarantine, bound, {"MOST_ROWS": 3, "MOST_BYTES": 12}[bound])
    quarantine.add(connection, [refusal(i, i, payload=b"1234") for i in (1, 2, 3)], 7)
    assert quarantine.add(connection, [], 8) == []
    gaps = quarantine.add(connection, [refusal(i, i, payload=b"1234") for i in (4, 5)], 8)
    assert [(gap.lo, gap.hi, gap.why) for gap in gaps] == [(1, 1, "quarantine-full"), (2, 2, "quarantine-full")]
    assert [kept.lo for kept in quarantine.page(connection)] == [3, 4, 5]
    repeated = quarantine.add(connection, [refusal(i, i, payload=b"1234") for i in (4, 5)], 8)
    assert repeated == gaps, "a repeated commit must not forget to announce them"


def test_one_payload_that_is_larger_than_the_bound_goes_itself(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_BYTES", 3)
    gaps = quarantine.add(connection, [refusal(1, 9, payload=b"1234")], 7)
    assert [(gap.lo, gap.hi) for gap in gaps] == [(1, 9)]
    assert quarantine.page(connection) == []


async def test_a_log_announces_what_its_full_quarantine_let_go(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_ROWS", 1)
    log = open_log()
    for seq in (1, 2):
        log.quarantine("cloud", Message(log.epoch, R, seq, seq, b"x", ""), "no")
    await log.commit(Batch())
    assert [(gap.uplink, gap.lo, gap.why) for gap in log.unannounced] == [("cloud", 1, "quarantine-full")]


async def test_dropping_an_event_that_announced_a_gap_announces_the_gap_again(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R, E], "oldest")
    log.lose("cloud", log.epoch, R, 1, 4, "backlog")
    await log.commit(Batch())
    (gap,) = log.unannounced
    batch = Batch()
    log.add_event(batch, event_of("gap"))
    batch.announced.append((gap.id, 0))
    await log.commit(batch)
    assert log.unannounced == []
    log.lose("cloud", log.epoch, E, 1, 1, "dropped")
    await log.commit(Batch())
    assert sorted((gap.lane, gap.lo, gap.hi, gap.why) for gap in log.unannounced) == [
        (R, 1, 4, "backlog"), (E, 1, 1, "dropped"),
    ]  # fmt: skip
