"""The move from memory to the disk, step by step, on two connections."""

from __future__ import annotations

import sqlite3

import pytest

from fluxedge.log import migrations, move, segments
from fluxedge.log.body import Row
from fluxedge.log.database import Missing, Opened
from fluxedge.log.move import Move, Tables
from fluxedge.log.segments import SALVAGED, Segment
from fluxedge.model import Lane
from tests.fluxedge.log.fake_clock import group_of

R = Lane.ROUNDS
E1, V, N = 5, 7, 9


def database() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in migrations.statements():
        made.execute(statement)
    return made


def add(connection: sqlite3.Connection, segment: Segment, *seqs: int) -> None:
    segments.create(connection, segment)
    for seq in seqs:
        row = Row(segment.epoch, segment.lane, seq, 1, 1, 0, 0, b"x" * 60, seq, seq)
        segments.append(connection, segment, row, 0)
        segment.grow(row)


def opened(connection: sqlite3.Connection) -> Opened:
    return Opened(connection, E1, 1, segments.load(connection), {}, "", [])


def seqs(connection: sqlite3.Connection, segment: Segment) -> list[int]:
    return [row.seq for row in segments.read(connection, segment, segment.first, 10**9)]


def carry_out(move_: Move, memory: sqlite3.Connection, disk: sqlite3.Connection) -> None:
    move_.prepare(disk, [], [])
    while True:
        page = move_.page(memory)
        move_.put(disk, page)
        if not move_.noted(page):
            break
    move_.finish(disk, tables=Tables.read(memory), gone=set(), compacted={E1: 3}, epoch=N, groups=[], changes=[])


def test_segments_go_behind_those_on_the_disk_and_keep_epoch_and_seqs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(move, "PAGE_BYTES", 150)
    disk, memory = database(), database()
    ours = Segment(R, 4, E1, 1, 0, 0)
    add(disk, ours, 1, 2, 3)
    add(disk, Segment(R, SALVAGED + 1, 3, 1, 0, 0), 1)
    first, second = Segment(R, 2, V, 1, 0, 0), Segment(R, 3, V, 6, 0, 5)
    add(memory, first, *range(1, 6))
    add(memory, second, *range(6, 9))
    move_ = Move([ours, first, second], opened(disk), V)
    carry_out(move_, memory, disk)
    found = move_.moved()
    assert [(s.number, s.epoch, s.first, s.last) for s in found] == [
        (SALVAGED + 1, 3, 1, 1), (4, E1, 1, 3), (5, V, 1, 5), (6, V, 6, 8),
    ]  # fmt: skip
    assert found[1] is ours
    assert [seqs(disk, s) for s in found[2:]] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    assert [(s.number, s.last, s.body_bytes) for s in segments.load(disk) if s.epoch == V] == [(5, 5, 300), (6, 8, 180)]
    assert disk.execute("SELECT v FROM meta WHERE k = 'epoch'").fetchone() == (N,)
    assert disk.execute("SELECT * FROM compacted").fetchall() == [(E1, 3)]


def test_what_an_earlier_attempt_has_left_goes_first() -> None:
    disk, memory = database(), database()
    add(disk, Segment(R, 1, V, 1, 0, 0), 1, 2)
    kept = Segment(R, 2, V, 3, 0, 2)
    add(memory, kept, 3, 4)  # 1 and 2 were evicted in the meantime
    move_ = Move([kept], opened(disk), V)
    carry_out(move_, memory, disk)
    assert [(s.table, s.first, s.last) for s in segments.load(disk)] == [("rounds_001", 3, 4)]


def test_rows_of_a_commit_that_was_reported_as_failed_are_cut_off_and_missing_ones_are_told() -> None:
    disk, memory = database(), database()
    told, there = Segment(R, 1, E1, 1, 0, 0), Segment(Lane.EVENTS, 1, E1, 1, 0, 0)
    add(disk, told, 1, 2, 3)
    add(disk, there, 1)
    found = opened(disk)
    told.last = 2
    there.last = 4
    move_ = Move([told, there], found, V)
    assert move_.missing == [Missing(E1, Lane.EVENTS, 2, 4)]
    assert there.last == 1
    carry_out(move_, memory, disk)
    assert seqs(disk, told) == [1, 2]


def test_every_step_can_be_repeated() -> None:
    disk, memory = database(), database()
    kept = Segment(R, 1, V, 1, 0, 0)
    add(memory, kept, 1, 2)
    memory.execute("INSERT INTO intents VALUES ('k', 1, x'01', NULL)")
    memory.execute("INSERT INTO clock VALUES (1, 2, 3, 'ntp')")
    memory.execute("INSERT INTO quarantine VALUES (1, 'u', 7, 0, 1, 1, 'no', 5, '', x'00', 1, 0)")
    disk.execute("INSERT INTO intents VALUES ('k', 1, x'01', x'02')")
    disk.execute("INSERT INTO groups VALUES (1, x'00', x'00')")
    group = group_of("H")
    move_ = Move([kept], opened(disk), V)
    page = move_.page(memory)
    dumps = []
    for _ in range(2):
        move_.prepare(disk, [(2, group), (3, group)], [])
        move_.put(disk, page)
        tables = Tables.read(memory)
        move_.finish(disk, tables=tables, gone={"x"}, compacted={}, epoch=N, groups=[(2, group)], changes=[])
        dumps.append(sorted(disk.iterdump()))
    assert dumps[0] == dumps[1]
    assert disk.execute("SELECT result FROM intents").fetchall() == [(b"\x02",)], "an answer is not taken back"
    assert disk.execute("SELECT id FROM groups ORDER BY id").fetchall() == [(1,), (2,), (3,)]
