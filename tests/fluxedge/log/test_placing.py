"""Placing: records that were stamped before the clock was set find their place, and no other record moves."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, placing
from fluxedge.log.placing import NOWHERE, ClockRow, Places
from fluxedge.model import Event, Flag, Lane, Record
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import event_of, group_of

S = 10**9
UTC_S = 1_780_000_000
ROWS: list[ClockRow] = [
    (3, 600_000, UTC_S * 1000, "ntp"),
    (3, 5_000_000, (UTC_S + 4_400 + 3_600) * 1000, "step"),
    (4, 20_000, (UTC_S + 9_000) * 1000, "rtc"),
]


@pytest.fixture
def table() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE clock (boot INTEGER, mono_ms INTEGER, utc_ms INTEGER, source TEXT)")
    return connection


@pytest.mark.parametrize(
    ("boot", "mono_s", "utc_s"),
    [
        (3, 600, UTC_S),
        (3, 0, UTC_S - 600),  # before the first row: by the first
        (3, 4_999, UTC_S + 4_399),
        (3, 5_000, UTC_S + 8_000),  # from the step on: by the step
        (3, 6_000, UTC_S + 9_000),
        (4, 0, UTC_S + 8_980),
    ],
)
def test_an_instant_is_placed_by_the_row_before_it(boot: int, mono_s: int, utc_s: int) -> None:
    assert Places(ROWS).place(boot, mono_s * S) == utc_s * S
    assert Places(ROWS[::-1]).place(boot, mono_s * S) == utc_s * S


def test_a_boot_whose_clock_was_never_set_has_no_place() -> None:
    assert Places(ROWS).place(2, 600 * S) is None
    assert NOWHERE.place(3, 600 * S) is None


def test_of_two_rows_at_one_instant_the_later_one_holds() -> None:
    assert Places([(1, 0, 1000, "rtc"), (1, 0, 2000, "ntp")]).place(1, 0) == 2 * S


@pytest.mark.parametrize("flags", [0, Flag.SOURCE_TIME, Flag.SOURCE_TIME | Flag.CLOCK_UNSYNCED, Flag.HISTORICAL])
def test_a_stamp_that_holds_is_left_alone(flags: int) -> None:
    event = Record(1, Lane.EVENTS, 1, 3, Event("audit", "gateway", 7, 600 * S, flags=flags))
    round_ = Record(1, Lane.ROUNDS, 1, 3, group_of("H").round((1,), 7, 600 * S, flags=flags))
    assert [Places(ROWS).of(record) for record in (event, round_)] == [None, None]


@pytest.mark.parametrize("flags", [Flag.CLOCK_UNSYNCED, Flag.CLOCK_UNSYNCED | Flag.HISTORICAL])
def test_an_unsynced_record_is_placed_by_its_own_instant(flags: int) -> None:
    event = Record(1, Lane.EVENTS, 1, 3, Event("audit", "gateway", 7, 590 * S, flags=flags))
    round_ = Record(1, Lane.ROUNDS, 1, 3, group_of("H").round((1,), 7, 580 * S, flags=flags))
    assert [Places(ROWS).of(record) for record in (event, round_)] == [(UTC_S - 10) * S, (UTC_S - 20) * S]


def test_a_row_can_be_noted_twice(table: sqlite3.Connection) -> None:
    for row in (*ROWS, ROWS[0]):
        placing.note(table, row)
    assert sorted(placing.rows_of(table)) == sorted(ROWS)
    assert placing.load(table).place(4, 20 * S) == (UTC_S + 9_000) * S


def test_rows_of_boots_whose_records_are_gone_are_forgotten(table: sqlite3.Connection) -> None:
    for row in ROWS:
        placing.note(table, row)
    placing.forget(table, (UTC_S + 8_000) * 1000)
    assert placing.rows_of(table) == ROWS  # the last row of boot 3 is not older
    placing.forget(table, (UTC_S + 10_000) * 1000)
    assert placing.rows_of(table) == ROWS[2:]  # this boot runs


async def test_a_log_that_lies_still_is_read_without_its_gateway(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    for row in ROWS:
        await log.write(partial(placing.note, row=row))
    assert (await placing.load_file(log.path)).place(3, 600 * S) == UTC_S * S
    await log.close()
    assert (await placing.load_file(log.path)).place(3, 600 * S) == UTC_S * S
    (tmp_path / "other.db").write_bytes(b"no database at all")
    for name in ("none.db", "other.db"):
        assert (await placing.load_file(tmp_path / name)).place(3, 600 * S) is None


async def test_the_boot_of_the_last_record_is_known(open_log: OpenLog) -> None:
    log: Log = open_log()
    batch = Batch()
    log.add_event(batch, event_of())
    await log.commit(batch)
    (segment,) = [s for s in log.segments() if s.lane is Lane.EVENTS]
    assert await log.look(lambda c: placing.boot_of(c, segment.table, segment.last)) == log.boot
    assert await log.look(lambda c: placing.boot_of(c, segment.table, 0)) is None
