"""Segments on a real database."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator

import pytest

from fluxedge.log import segments
from fluxedge.log.body import Row
from fluxedge.log.database import SCHEMA, open_log
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from tests.fluxedge.log.fake_clock import START_NS, FakeClock


@pytest.fixture
def connection(tmp_path) -> Iterator[sqlite3.Connection]:  # type: ignore[no-untyped-def]
    assert SCHEMA == 2
    opened = open_log(tmp_path / "log.db", tmp_path / "log.witness", FakeClock()).connection
    yield opened
    opened.close()


def row(seq: int, count: int, size: int = 10, at_ns: int = START_NS) -> Row:
    return Row(5, Lane.ROUNDS, seq, count, 1, 0, 0, bytes(size), at_ns, at_ns + count)


def filled(connection: sqlite3.Connection, number: int = 1, first: int = 1, rows: int = 4) -> Segment:
    """Make a segment of `rows` rows of 10 records."""
    segment = Segment(Lane.ROUNDS, number, 5, first, 0, first - 1)
    segments.create(connection, segment)
    for i in range(rows):
        made = row(first + 10 * i, 10)
        segments.append(connection, segment, made, 77)
        segment.grow(made)
    return segment


def test_reading_begins_with_the_row_that_holds_the_seq(connection: sqlite3.Connection) -> None:
    segment = filled(connection)
    for seq, firsts in ((1, [1, 11, 21, 31]), (10, [1, 11, 21, 31]), (11, [11, 21, 31]), (40, [31]), (41, [])):
        assert [found.seq for found in segments.read(connection, segment, seq, 10**6)] == firsts


def test_reading_stops_at_the_byte_limit_but_gives_at_least_one_row(connection: sqlite3.Connection) -> None:
    segment = filled(connection)
    assert [found.seq for found in segments.read(connection, segment, 1, 25)] == [1, 11]
    assert [found.seq for found in segments.read(connection, segment, 15, 0)] == [11]


def test_a_row_comes_back_with_all_its_columns(connection: sqlite3.Connection) -> None:
    segment = filled(connection, rows=1)
    assert segments.read(connection, segment, 1, 100) == [row(1, 10)]


def test_a_hole_does_not_bring_the_reader_to_a_halt(connection: sqlite3.Connection) -> None:
    segment = filled(connection)
    connection.execute(f"DELETE FROM {segment.table} WHERE seq = 11")
    assert [found.seq for found in segments.read(connection, segment, 15, 0)] == [21]


def test_open_and_closed_segments_are_loaded_alike(connection: sqlite3.Connection) -> None:
    one, two = filled(connection), filled(connection, 2, 41, 2)
    segments.close(connection, one)
    empty = Segment(Lane.EVENTS, 1, 5, 9, 123, 8)
    segments.create(connection, empty)
    unsummed = dataclasses.replace(two, body_bytes=0, from_ns=START_NS, unsummed=two.last)  # the sums come later
    assert segments.load(connection) == [one, unsummed, empty]
    assert segments.some_sums(connection, unsummed, 0) == (51, two.body_bytes, two.from_ns, two.to_ns)
    assert segments.some_sums(connection, unsummed, 51) is None
    assert (one.first, one.last, one.body_bytes, one.from_ns, one.to_ns) == (1, 40, 40, START_NS, START_NS + 10)
    connection.execute(f"DELETE FROM {one.table}")
    assert segments.load(connection)[0] == one, "a closed segment's rows are not looked into"


def test_stamps_before_1970_are_kept(connection: sqlite3.Connection) -> None:
    segment = Segment(Lane.ROUNDS, 1, 5, 1, 0, 0)
    segment.grow(row(1, 1, at_ns=-500))
    segment.grow(row(2, 1, at_ns=-700))
    assert (segment.from_ns, segment.to_ns) == (-700, -499)


def test_everything_can_be_repeated(connection: sqlite3.Connection) -> None:
    segment = filled(connection, rows=1)
    segments.create(connection, segment)
    segments.append(connection, segment, row(1, 10), 77)
    assert len(segments.read(connection, segment, 1, 10**6)) == 1
    segments.drop(connection, segment)
    segments.drop(connection, segment)
    assert segments.load(connection) == []


def test_closing_removes_a_row_that_a_failed_commit_left_behind(connection: sqlite3.Connection) -> None:
    segment = filled(connection, rows=2)
    segments.append(connection, segment, row(21, 5), 77)  # not known to have been committed
    segments.close(connection, segment)
    assert [found.seq for found in segments.read(connection, segment, 1, 10**6)] == [1, 11]
