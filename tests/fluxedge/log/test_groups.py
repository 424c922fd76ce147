"""Groups keep their numbers for ever."""

from __future__ import annotations

import sqlite3
from importlib import resources

import pytest

from fluxedge.log import groups as groups_module
from fluxedge.log.groups import Groups, decode
from tests.fluxedge.log.fake_clock import group_of


def stored(groups: Groups) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(resources.files("fluxedge.log").joinpath("schema.sql").read_text())
    rows = [(number, group.key, group.to_bytes()) for number, group in groups.fresh()]
    connection.executemany("INSERT INTO groups VALUES (?, ?, ?)", rows)
    return connection


def used(*names: str) -> Groups:
    groups = Groups()
    for name in names:
        group = group_of("H", name)
        groups.use(groups.number_of(group), group)
    return groups


def test_a_group_gets_a_number_at_its_first_use_and_keeps_it() -> None:
    groups = used("a", "b", "a")
    assert [(number, group.device) for number, group in groups.fresh()] == [(1, "a"), (2, "b")]
    assert groups.number_of(group_of("H", "a")) == 1
    assert groups.number_of(group_of("H", "c")) == 3
    assert groups.number_of(group_of("I", "a")) == 3, "another column is another group"


def test_what_is_durable_is_not_written_again() -> None:
    groups = used("a", "b")
    groups.written(1)
    assert [number for number, _ in groups.fresh()] == [2]


def test_loaded_groups_go_on_with_their_numbers() -> None:
    again = Groups()
    again.load(stored(used("a", "b")))
    assert again.fresh() == []
    assert again.number_of(group_of("H", "b")) == 2
    assert again.by_id[1] == group_of("H", "a")


def test_the_number_of_a_damaged_group_is_not_used_again() -> None:
    connection = stored(used("a", "b"))
    connection.execute("UPDATE groups SET body = x'c1' WHERE id = 2")
    again = Groups()
    again.load(connection)
    assert set(again.by_id) == {1}
    assert again.number_of(group_of("H", "b")) == 3


def test_garbage_is_no_group() -> None:
    body = group_of("Hs", "a", scale=0.1).to_bytes()
    assert decode(body) == group_of("Hs", "a", scale=0.1)
    for bad in (b"", b"\xc1", b"\x80", b"\x90", body[:-1], b"\xc0", body.replace(b"\xa1H", b"\xa1!")):
        assert decode(bad) is None


def test_the_witness_gets_the_newest_groups_that_are_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = used("a", "b", "c")
    groups.written(2)
    keys = [group_of("H", name).key for name in "ab"]
    assert groups.witnessed() == {1: keys[0], 2: keys[1]}, "the number of a third may become another one's"
    groups.written(1)
    monkeypatch.setattr(groups_module, "WITNESSED", 2)
    assert list(groups.witnessed()) == [2, 3]
