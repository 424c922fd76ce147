"""Jobs that fill the new log: each may run twice, and none is seen before its time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.log import segments
from fluxedge.log.body import Row, close_body
from fluxedge.log.database import open_log
from fluxedge.log.ranges import RangeSet
from fluxedge.log.salvage import takeover
from fluxedge.log.salvage.takeover import Account, Small
from fluxedge.log.salvage.wreck import Found
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import Lane
from tests.fluxedge.log.fake_clock import FakeClock, group_of

OLD = 1_600_000_000_000
GROUP = group_of("H")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_log(tmp_path / "log.db", tmp_path / "log.witness", FakeClock()).connection
    yield opened
    opened.close()


def rows(connection: sqlite3.Connection, question: str) -> list[tuple[object, ...]]:
    return connection.execute(question).fetchall()


def found(seq: int, count: int = 2) -> Found:
    codec, crc, body = close_body([b"x" * 30])
    return Found(Row(OLD, Lane.ROUNDS, seq, count, 1, codec, crc, body, seq, seq + 5), 77, 1)


def source(first: int = 1) -> Segment:
    return Segment(Lane.ROUNDS, 3, OLD, first, 9, first - 1)


def test_commands_and_state_are_written_once_for_a_folder(connection: sqlite3.Connection) -> None:
    small = Small([("k", 1, b"{}", None)], [("a", b"1")], [(1, 5, 6, "ntp")], [(OLD, 30)], [])
    assert takeover.write_small(connection, "folder", small, 1)
    connection.execute("DELETE FROM state")  # it was changed since
    connection.execute("UPDATE intents SET result = x'01'")
    assert not takeover.write_small(connection, "folder", small, 1)
    assert takeover.write_small(connection, "another", Small(small.intents, [], small.clock, [(OLD, 20)], []), 1)
    assert rows(connection, "SELECT * FROM state") == []
    assert rows(connection, "SELECT key, result FROM intents") == [("k", b"\x01")], "what is known stays"
    assert rows(connection, "SELECT * FROM clock") == [(1, 5, 6, "ntp")]
    assert rows(connection, "SELECT * FROM compacted") == [(OLD, 30)]


def test_the_clock_of_boots_that_are_counted_anew_is_left_out(connection: sqlite3.Connection) -> None:
    takeover.write_small(connection, "folder", Small(clock=[(1, 5, 6, "ntp"), (7, 5, 6, "ntp")]), 1)
    assert rows(connection, "SELECT * FROM clock") == []


def test_a_plan_is_made_once_and_its_tables_have_numbers_of_their_own(connection: sqlite3.Connection) -> None:
    plan = takeover.make_plan(connection, "folder", [source(1), source(11)])
    assert [target.number for target in plan.targets] == [SALVAGED + 1, SALVAGED + 2]
    assert takeover.make_plan(connection, "folder", []) == plan


def test_a_new_plan_drops_what_a_folder_left_that_is_gone(connection: sqlite3.Connection) -> None:
    segments.create(connection, Segment(Lane.ROUNDS, SALVAGED + 5, OLD, 1, 0, 0))  # of a salvage that is done
    plan = takeover.make_plan(connection, "gone", [source()])
    target = Segment(Lane.ROUNDS, plan.targets[0].number, OLD, 1, 0, 0)
    assert target.number == SALVAGED + 6
    takeover.write_rows(connection, target, [found(1)], [])
    takeover.make_plan(connection, "folder", [source()])
    names = [name for (name,) in rows(connection, "SELECT name FROM sqlite_master WHERE name LIKE 'rounds%'")]
    assert names == [f"rounds_{SALVAGED + 5}"]


def test_rows_that_are_written_twice_are_there_once_and_nobody_sees_them(connection: sqlite3.Connection) -> None:
    target = Segment(Lane.ROUNDS, SALVAGED + 1, OLD, 1, 0, 0)
    for _ in range(2):
        takeover.write_rows(connection, target, [found(1), found(3), found(9)], [(4, GROUP)])
    assert segments.load(connection) == []
    held = RangeSet()
    assert takeover.grow(target, takeover.count_rows(connection, target, 0), held) == 9
    assert takeover.count_rows(connection, target, 9) == []
    assert list(held) == [(1, 4), (9, 10)]
    assert (target.last, target.body_bytes, target.from_ns, target.to_ns) == (10, 90, 1, 14)
    assert rows(connection, "SELECT id, key FROM groups") == [(4, GROUP.key)]


def test_a_table_that_was_not_made_holds_nothing(connection: sqlite3.Connection) -> None:
    assert takeover.count_rows(connection, Segment(Lane.EVENTS, SALVAGED + 9, OLD, 1, 0, 0), 0) == []


def test_taking_in_names_segments_keeps_cursors_and_tells_what_must_be_announced(
    connection: sqlite3.Connection,
) -> None:
    plan = takeover.make_plan(connection, "folder", [source(1), source(11)])
    target = Segment(Lane.ROUNDS, plan.targets[0].number, OLD, 1, 9, 0)
    empty = Segment(Lane.ROUNDS, plan.targets[1].number, OLD, 11, 9, 10)
    takeover.write_rows(connection, target, [found(1), found(3)], [])
    takeover.write_rows(connection, empty, [], [])
    takeover.grow(target, takeover.count_rows(connection, target, 0), RangeSet())
    gaps = [("up", OLD, 0, 90, 95, "age", 5, 0, 0), ("up", OLD, 0, 80, 85, "age", 5, OLD, 3)]
    account = Account(
        [target], [(("up", OLD, Lane.ROUNDS), [(2, 4)])], [("up", OLD, Lane.EVENTS, 3, 4, "damaged")], gaps
    )
    told = takeover.take_in(connection, account, 50)
    assert sorted((gap.lane, gap.lo, gap.hi, gap.why) for gap in told) == [
        (Lane.ROUNDS, 80, 85, "age"),  # its event is lost
        (Lane.ROUNDS, 90, 95, "age"),
        (Lane.EVENTS, 3, 4, "damaged"),
    ]
    (held,) = segments.load(connection)
    assert (held.number, held.epoch, held.first, held.last, held.unsummed) == (target.number, OLD, 1, 4, 0)
    assert rows(connection, "SELECT uplink, lo, hi FROM todo") == [("up", 2, 4)]
    assert rows(connection, "SELECT v FROM meta WHERE k LIKE 'salvage%'") == []
    assert rows(connection, f"SELECT name FROM sqlite_master WHERE name = '{empty.table}'") == []


def test_nothing_is_written_while_the_log_is_in_memory(connection: sqlite3.Connection) -> None:
    memory = sqlite3.connect(":memory:")
    job = takeover.on_disk(lambda c: c.execute("SELECT 5").fetchone())
    assert job(connection) == (5,)
    with pytest.raises(sqlite3.OperationalError, match="in memory"):
        job(memory)
    memory.close()


def test_quarantine_is_there_once(connection: sqlite3.Connection) -> None:
    row = ("up", OLD, 0, 1, 2, "0x99", 5, "application/json", b"[]")
    for _ in range(2):
        takeover.write_quarantine(connection, [row])
    assert rows(connection, "SELECT uplink, lo, hi, tries FROM quarantine") == [("up", 1, 2, 1)]
