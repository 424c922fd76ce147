"""Copying: the hours of a day are kept together, a damaged chunk costs itself only, groups are taken in parts."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

from fluxedge.log.history import copying
from fluxedge.log.history.copying import Copier, _parts, write_rollups
from fluxedge.log.history.day_writer import DayWriter
from fluxedge.log.history.days import DayReader
from fluxedge.log.history.rows import LogRows
from fluxedge.log.history.units import Placer, Unit
from fluxedge.model import Group, Point
from tests.fluxedge.log.history.test_days import DAY, HOUR_NS, chunk, written

GROUP = Group("m1", "main", (Point("t", "h", scale=0.1), Point("on", "?"), Point("s", "s"))[:2])


def roll(path: Path, *hours: int) -> None:
    writer = DayWriter(path)
    writer.begin()
    number = writer.number_of(GROUP)
    write_rollups(writer, [(hour, number) for hour in hours], writer.groups())
    writer.commit()
    writer.close()


def hours_of(path: Path) -> list[tuple[int, int]]:
    with DayReader(path) as reader:
        rollup = reader.rollup(3600, DAY, next(iter(reader.groups())))
        return [(row.start_ns // HOUR_NS, row.rounds) for row in rollup.rows] if rollup else []


def test_groups_are_taken_in_parts_that_fit() -> None:
    assert list(_parts({1: 5, 2: 5, 3: 1, 4: 50, 5: 2}, 10)) == [{1, 2}, {3}, {4}, {5}]
    assert list(_parts({}, 10)) == []


def test_hours_of_a_day_are_added_and_replaced(tmp_path: Path) -> None:
    first = DAY * 24
    path = written(tmp_path, (GROUP, first + 5, 1))
    roll(path, first + 5)
    written(tmp_path, (GROUP, first + 2, 4))
    roll(path, first + 2)
    assert hours_of(path) == [(first + 2, 3), (first + 5, 3)]
    written(tmp_path, (GROUP, first + 5, 7))
    roll(path, first + 5)
    assert hours_of(path) == [(first + 2, 3), (first + 5, 6)]


def test_an_hour_that_was_taken_away_has_no_rollup(tmp_path: Path) -> None:
    first = DAY * 24
    path = written(tmp_path, (GROUP, first, 1), (GROUP, first + 1, 4))
    roll(path, first, first + 1)
    writer = DayWriter(path)
    writer.begin()
    touched = writer.leftovers(7, 3)
    write_rollups(writer, touched, writer.groups())
    writer.commit()
    writer.close()
    assert hours_of(path) == [(first, 3)]


def test_minutes_are_kept_where_they_are_smaller_than_the_rounds(tmp_path: Path) -> None:
    first = DAY * 24
    path = written(tmp_path, (GROUP, first, 1))
    writer = DayWriter(path)
    writer.begin()
    writer.write_chunk(GROUP, *chunk(GROUP, first + 1, 100, count=4))
    writer.commit()
    writer.close()
    roll(path, first, first + 1)
    with DayReader(path) as reader:
        number = next(iter(reader.groups()))
        assert reader.rollup(60, first, number) is None  # three rounds in its minute
        minutes = reader.rollup(60, first + 1, number)
        assert minutes is not None
        assert [row.rounds for row in minutes.rows] == [4]


def test_a_damaged_chunk_costs_the_rollups_its_own_rounds_only(tmp_path: Path) -> None:
    first = DAY * 24
    path = written(tmp_path, (GROUP, first, 1), (GROUP, first, 4))
    writer = DayWriter(path)
    writer.connection.execute("UPDATE chunks SET body = CAST(substr(body, 1, 60) || 'xx' AS BLOB) WHERE first = 4")
    writer.close()
    roll(path, first)
    assert hours_of(path) == [(first, 3)]


def readings(sizes: dict[int, int], folder: Path) -> int:
    """Return how often the rows of a unit with groups of these sizes are read."""
    read = 0

    class Rows(LogRows):
        def __init__(self) -> None:
            self.groups = {}

        def read(self, *_: object) -> Iterator[typing.Any]:
            nonlocal read
            read += 1
            return iter(())

    class Everywhere(Placer):
        def __init__(self) -> None:
            self._hours = {}

    unit = Unit(7, 0, 100)
    unit.sizes.update(sizes)
    Copier(Rows(), Everywhere(), folder).copy(unit)
    return read


def test_a_large_hour_is_read_some_times_not_once_for_each_group(tmp_path: Path) -> None:
    megabyte = 1 << 20
    assert readings(dict.fromkeys(range(20), megabyte // 4), tmp_path) == 1
    assert readings(dict.fromkeys(range(200), megabyte), tmp_path) <= copying.READINGS + 2
    assert readings(dict.fromkeys(range(200), 7 * megabyte), tmp_path) <= 25  # 100,000 points/s
    assert readings(dict.fromkeys(range(400), 7 * megabyte), tmp_path) >= 400 * 7 // 64  # memory stays bounded
