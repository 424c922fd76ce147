"""Batches and the transaction that writes one."""

from __future__ import annotations

import sqlite3
from importlib import resources

import pytest

from fluxedge.log.batch import Batch, Commit, Place
from fluxedge.log.segments import Segment
from fluxedge.model import OPEN_END, Lane
from tests.fluxedge.log.fake_clock import group_of

R, E = Lane.ROUNDS, Lane.EVENTS


def test_a_batch_is_something_when_anything_must_be_written() -> None:
    assert not Batch()
    assert Batch(intents=[("k", 1, b"")])
    assert Batch(results=[("k", b"")])
    assert Batch(state={"k": None})
    batch = Batch()
    batch.add(E, b"abc", 7)
    assert batch


def test_a_batch_knows_its_size_and_the_span_of_its_stamps() -> None:
    batch = Batch()
    for at_ns in (5, -3, 9, 4):
        batch.add(R, b"12345", at_ns)
    batch.add(E, b"1", 100)
    assert batch.packed_bytes == 21
    assert batch.stamps == {R: (-3, 9), E: (100, 100)}


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(resources.files("fluxedge.log").joinpath("schema.sql").read_text())
    return made


def dump(connection: sqlite3.Connection) -> list[str]:
    return sorted(connection.iterdump())


def test_a_commit_can_be_written_twice_and_once_is_enough(connection: sqlite3.Connection) -> None:
    batch = Batch(intents=[("k", 1, b"ask")], results=[("k", b"done")], state={"a": b"1", "b": None})
    batch.add(R, b"round", 5)
    batch.add(E, b"event", 6)
    batch.add(E, b"gap", 6)
    connection.execute("INSERT INTO gap (uplink, epoch, lane, lo, hi, why, at_ms) VALUES ('u', 9, 0, 1, 2, 'age', 0)")
    batch.announced.append((1, 1))
    group = group_of("H")
    places = {
        lane: Place(Segment(lane, 1, 9, 11, 0, 10), 11, new=True, closing=None) for lane in (R, E)
    }  # fmt: skip
    commit = Commit(
        epoch=9, boot=2, now_ms=3, mono_ms=4, batch=batch, places=places, groups=[(1, group)],
        changes=[(("u", 9, R), [(5, 6), (8, OPEN_END)])], aside=[("u", 9, R, 3, 4, "no", 5, "text/plain", b"payload")],
        lost=[("u", 9, R, 7, 7, "damaged")],
    )  # fmt: skip
    first = commit.write(connection)
    once = dump(connection)
    second = commit.write(connection)
    assert dump(connection) == once
    assert first == second
    assert [(row.seq, row.count, row.last) for row, _ in first.rows] == [(11, 1, 11), (11, 2, 12)]
    assert [(gap.lo, gap.hi) for gap in first.gaps] == [(7, 7)]
    said = connection.execute("SELECT said_epoch, said_seq FROM gap ORDER BY id").fetchall()
    assert said == [(9, 12), (0, 0)], "the event's own seq"


def test_a_new_segment_closes_the_one_before(connection: sqlite3.Connection) -> None:
    batch = Batch()
    batch.add(R, b"round", 5)
    old, new = Segment(R, 1, 9, 1, 0, 0), Segment(R, 2, 9, 2, 0, 1)
    for place in (Place(old, 1, new=True), Place(new, 2, new=True, closing=old)):
        commit = Commit(9, 1, 0, 0, batch, {R: place}, [], [], [], [])
        for row, _ in commit.write(connection).rows:
            place.segment.grow(row)
    assert connection.execute("SELECT number, last, from_ns FROM segments").fetchall() == [(1, 1, 5), (2, None, None)]
