"""Cursors: what an uplink has not had acknowledged."""

from __future__ import annotations

import sqlite3
from importlib import resources

import pytest

from fluxedge.log import cursors
from fluxedge.log.cursors import Cursors
from fluxedge.model import OPEN_END, Lane

R, E = Lane.ROUNDS, Lane.EVENTS


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(resources.files("fluxedge.log").joinpath("schema.sql").read_text())
    return made


def ranges(mine: Cursors, uplink: str, lane: Lane = R) -> dict[int, list[tuple[int, int]]]:
    return {epoch: list(found) for epoch, found in mine.of(uplink, lane)}


def reloaded(connection: sqlite3.Connection, mine: Cursors, epoch: int = 5) -> Cursors:
    cursors.save(connection, mine.take_changes())
    again = Cursors(epoch)
    again.load(connection)
    return again


def test_what_is_settled_leaves_and_the_rest_is_loaded_again(connection: sqlite3.Connection) -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 1)
    mine.begin("local", E, 5, 7)
    mine.settle("cloud", 5, R, 1, 10)
    mine.settle("cloud", 5, R, 21, 30)
    again = reloaded(connection, mine)
    assert ranges(again, "cloud") == {5: [(11, 20), (31, OPEN_END)]}
    assert ranges(again, "local", E) == {5: [(7, OPEN_END)]}
    assert again.uplinks() == ["cloud", "local"]
    assert not again.dirty


def test_settling_what_is_not_owed_is_no_change() -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 10)
    mine.take_changes()
    mine.settle("cloud", 5, R, 1, 9)
    mine.settle("cloud", 4, R, 1, 9)
    mine.settle("nobody", 5, R, 1, 9)
    assert not mine.dirty


def test_changes_of_a_failed_commit_are_saved_by_the_next(connection: sqlite3.Connection) -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 1)
    changes = mine.take_changes()
    assert not mine.dirty
    mine.settle("cloud", 5, R, 1, 3)
    mine.take_changes()
    mine.put_back(changes)
    assert mine.dirty
    assert ranges(reloaded(connection, mine), "cloud") == {5: [(4, OPEN_END)]}, "the newest state, not the failed one"


def test_an_old_epoch_ends_at_its_last_seq_and_the_new_one_begins_at_its_first(connection: sqlite3.Connection) -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 3)
    again = reloaded(connection, mine, epoch=9)
    assert again.epochs() == {(5, R)}
    again.close_epoch(5, R, 8)
    again.go_on()
    assert ranges(again, "cloud") == {5: [(3, 8)], 9: [(1, OPEN_END)]}
    again.go_on()
    assert ranges(again, "cloud") == {5: [(3, 8)], 9: [(1, OPEN_END)]}


def test_an_uplink_that_was_away_for_two_epochs_is_still_known(connection: sqlite3.Connection) -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 1)
    for epoch in (6, 7):
        mine = reloaded(connection, mine, epoch)
        for old, lane in mine.epochs():
            if old != epoch:
                mine.close_epoch(old, lane, 0)
        mine.go_on()
    assert mine.known("cloud", R)
    assert ranges(mine, "cloud")[7] == [(1, OPEN_END)]


def test_being_known_in_one_lane_says_nothing_about_the_other() -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 1)
    assert mine.known("cloud", R)
    assert not mine.known("cloud", E)
    assert not mine.known("other", R)


def test_forgetting_an_uplink_removes_its_rows(connection: sqlite3.Connection) -> None:
    mine = Cursors(5)
    mine.begin("cloud", R, 5, 1)
    mine.begin("cloud", E, 4, 1, 9)
    mine.begin("other", R, 5, 1)
    cursors.save(connection, mine.take_changes())
    mine.forget("cloud")
    assert not mine.known("cloud", R)
    assert reloaded(connection, mine).uplinks() == ["other"]


def test_holders_are_found_by_epoch_and_lane() -> None:
    mine = Cursors(5)
    mine.begin("a", R, 5, 1)
    mine.begin("b", R, 5, 9)
    mine.begin("c", E, 5, 1)
    assert {uplink: list(found) for uplink, found in mine.holders(5, R)} == {
        "a": [(1, OPEN_END)], "b": [(9, OPEN_END)],
    }  # fmt: skip
