"""Writing a day file: settings that SQLite took, chunks replaced by their key, leftovers taken away."""

from __future__ import annotations

from pathlib import Path

from fluxedge.log.history import days
from fluxedge.log.history.day_writer import PAGE_BYTES, DayWriter
from fluxedge.log.history.days import DayReader
from tests.fluxedge.log.fake_clock import group_of
from tests.fluxedge.log.history.test_days import DAY, chunk, killed_while_writing, written


def test_the_settings_are_those_that_a_power_cut_asks_for(tmp_path: Path) -> None:
    writer = DayWriter(days.path_of(tmp_path, DAY))
    for name, value in (("journal_mode", "delete"), ("synchronous", 3), ("page_size", PAGE_BYTES), ("auto_vacuum", 2)):
        assert writer.connection.execute(f"PRAGMA {name}").fetchone() == (value,)
    writer.close()


def test_a_file_has_its_tables_from_the_first_moment_on(tmp_path: Path) -> None:
    (tmp_path / "2024-10-04.new").write_bytes(b"a start that was cut short")
    DayWriter(days.path_of(tmp_path, DAY)).close()
    with DayReader(days.path_of(tmp_path, DAY)) as reader:
        assert reader.groups() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["2024-10-04.db"]


def test_a_journal_of_a_file_that_is_gone_is_not_rolled_back_into_a_new_one(tmp_path: Path) -> None:
    group = group_of()
    path = written(tmp_path, (group, DAY * 24, 1))
    killed_while_writing(path)
    journal = path.with_name(f"{path.name}-journal")
    assert journal.exists()
    path.unlink()
    written(tmp_path, (group, DAY * 24 + 1, 5))
    assert not journal.exists()
    with DayReader(path) as reader:
        assert [head.first for head in reader.heads(reader.groups(), 0, 2**62)] == [5]


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    path = days.path_of(tmp_path, DAY)
    writer = DayWriter(path)
    writer.begin()
    writer.write_chunk(group_of(), *chunk(group_of(), DAY * 24, 1))
    writer.close()
    with DayReader(path) as reader:
        assert reader.groups() == {}


def test_a_chunk_with_the_same_key_is_replaced_and_leftovers_go(tmp_path: Path) -> None:
    group = group_of()
    path = written(tmp_path, (group, DAY * 24, 1), (group, DAY * 24, 4), (group, DAY * 24 + 3, 7))
    writer = DayWriter(path)
    number = writer.number_of(group)
    writer.begin()
    writer.write_chunk(group, *chunk(group, DAY * 24, 1, count=2))
    assert writer.leftovers(7, 3) == [(DAY * 24, number), (DAY * 24 + 3, number)]
    assert writer.leftovers(8, 0) == []
    writer.write_rollup(60, 5, number, b"a")
    writer.write_rollup(60, 5, number, b"b")
    assert writer.rollup_body(60, 5, number) == b"b"
    writer.write_rollup(60, 5, number, None)
    assert writer.rollup_body(60, 5, number) is None
    writer.commit()
    assert len(writer.bodies(DAY * 24, number)) == 1
    assert writer.groups() == {number: group}
    writer.close()
    with DayReader(path) as reader:
        assert [(head.first, head.n) for head in reader.heads([number], 0, 2**62)] == [(1, 2)]
