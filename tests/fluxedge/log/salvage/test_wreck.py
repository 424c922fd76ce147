"""A damaged log, read both ways."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fluxedge.log import Batch
from fluxedge.log.body import checked
from fluxedge.log.database import read_witness, write_witness
from fluxedge.log.salvage.wreck import Found, Wreck
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of

GROUP = group_of("H" * 30)


@pytest.fixture
async def folder(open_log: OpenLog, tmp_path: Path) -> Path:
    """Leave a log of three segments a lane behind; it lies as if it had been set aside."""
    log = open_log(segment_bytes=1500)
    log.begin_uplink("up", [Lane.ROUNDS], "oldest")
    for i in range(30):
        batch = Batch()
        log.add_round(batch, round_of(GROUP, *[(i * k * 7919) % 65536 for k in range(30)]))
        log.add_round(batch, round_of(GROUP, *[(i * k * 104729) % 65536 for k in range(30)]))
        log.add_event(batch, event_of(number=i, text="x" * 90))
        await log.commit(batch)
    log.cursors.settle("up", log.epoch, Lane.ROUNDS, 1, 7)
    await log.close()
    return tmp_path


def opened(folder: Path, **how: bool) -> Wreck:
    wreck = Wreck(folder, **how)
    for _ in wreck.look_around({GROUP.key: GROUP}):
        pass
    return wreck


def execute(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "log.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def all_rows(wreck: Wreck, segment: Segment) -> list[Found]:
    found, after, more = list[Found](), 0, True
    while more and after != OPEN_END:
        some, after, more = wreck.rows(segment, after, 600)
        found += some
    return found


def test_segments_groups_and_rows_are_those_that_were_written(folder: Path) -> None:
    wreck = opened(folder)
    assert wreck.broken == set()
    assert list(wreck.groups.values()) == [GROUP]
    rounds = [s for s in wreck.segments if s.lane is Lane.ROUNDS]
    assert len(rounds) >= 3
    seqs = [f.row.seq for s in rounds for f in all_rows(wreck, s)]
    assert seqs == list(range(1, 61, 2))
    assert wreck.last_of(rounds[0].epoch, Lane.ROUNDS) == 60
    wreck.close()


def test_by_hand_the_same_is_found(folder: Path) -> None:
    wreck, without = opened(folder), opened(folder, by_hand=True)
    assert [(s.lane, s.number, s.epoch, s.first) for s in without.segments] == [
        (s.lane, s.number, s.epoch, s.first) for s in wreck.segments
    ]
    assert without.groups == wreck.groups
    wanted = {(f.row.lane, f.row.seq): f.row.body for s in wreck.segments for f in all_rows(wreck, s)}
    found = {(f.row.lane, f.row.seq): f.row.body for some in without.scan(without.segments) for f in some}
    assert found == wanted
    wreck.close()


def test_a_blind_one_knows_what_the_witness_knows(folder: Path) -> None:
    wreck = opened(folder, blind=True)
    witness = read_witness(folder / "log.witness")
    assert witness is not None
    assert wreck.segments == []
    assert wreck.last_of(witness.epoch, Lane.ROUNDS) == 60
    owed, readable = wreck.owed({"up": [Lane.ROUNDS], "new": [Lane.EVENTS]})
    assert not readable
    assert owed == {
        ("up", witness.epoch, Lane.ROUNDS): [(1, OPEN_END)], ("new", witness.epoch, Lane.EVENTS): [(1, OPEN_END)],
    }  # fmt: skip


def test_cursors_that_can_be_read_hold(folder: Path) -> None:
    wreck = opened(folder)
    ((key, ranges),), readable = list(wreck.owed({"up": [Lane.ROUNDS], "new": [Lane.EVENTS]})[0].items()), True
    assert readable
    assert key[0] == "up"
    assert ranges == [(8, OPEN_END)]
    wreck.close()


def test_without_the_table_of_segments_those_of_the_witness_epoch_are_made_up(folder: Path) -> None:
    before = opened(folder)
    execute(folder, "DROP TABLE segments")
    wreck = opened(folder)
    assert [(s.lane, s.number, s.epoch, s.first) for s in wreck.segments] == [
        (s.lane, s.number, s.epoch, s.first) for s in before.segments
    ]
    wreck.close()
    before.close()


def test_a_table_that_may_be_of_an_older_epoch_is_not_taken_for_the_newest(folder: Path) -> None:
    execute(folder, "DROP TABLE segments", "DELETE FROM rounds_002")
    witness = read_witness(folder / "log.witness")
    assert witness is not None
    heads = {lane: witness.heads[lane.label] for lane in Lane}
    write_witness(folder / "log.witness", folder / "log.db", witness.epoch + 1, heads)  # stamps are from before it
    wreck = opened(folder)
    rounds = [s for s in wreck.segments if s.lane is Lane.ROUNDS]
    assert rounds
    assert all(s.number > 2 for s in rounds), "behind a hole nothing says which epoch it was"
    wreck.close()


def test_without_their_bodies_groups_are_known_by_their_keys(folder: Path) -> None:
    execute(folder, "UPDATE groups SET body = x'00'")
    wreck = Wreck(folder)
    wreck.broken.add("groups")
    for _ in wreck.look_around({GROUP.key: GROUP}):
        pass
    assert list(wreck.groups.values()) == [GROUP]
    wreck.close()


@pytest.mark.parametrize(
    "change",
    [
        "crc = crc + 1",
        "n = n + 1",
        "n = -1",
        "n = 1 << 40",
        "body = substr(body, 2)",
        "codec = 9",
        "seq = 1 << 60",
    ],
)
def test_a_row_that_is_not_whole_is_left_out_and_the_others_are_not(folder: Path, change: str) -> None:
    execute(folder, f"UPDATE rounds_001 SET {change} WHERE seq = 5")
    wreck = opened(folder)
    seqs = [f.row.seq for f in all_rows(wreck, wreck.segments[0])]
    assert seqs == [seq for seq in range(1, wreck.segments[1].first, 2) if seq != 5]
    assert wreck.last_of(wreck.segments[0].epoch, Lane.ROUNDS) == 60, "a number that is wrong tells no end"
    wreck.close()


def test_stamps_are_made_anew(folder: Path) -> None:
    execute(folder, "UPDATE rounds_001 SET from_ns = 1, to_ns = 2")
    wreck = opened(folder)
    row = all_rows(wreck, wreck.segments[0])[0].row
    assert checked(row, wreck.groups, {number: number for number in wreck.groups}).from_ns > 10**18
    wreck.close()


def test_a_folder_with_nothing_in_it_is_no_traceback(tmp_path: Path) -> None:
    wreck = opened(tmp_path)
    assert (wreck.segments, wreck.groups, wreck.owed({})) == ([], {}, ({}, False))
    wreck.close()
