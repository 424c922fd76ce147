"""Day files: read alone, beside a compactor, after a kill; what is damaged is told from what is merely not there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxedge.log.history import days
from fluxedge.log.history.day_writer import DayWriter
from fluxedge.log.history.days import ChunkHead, DamagedDay, DayReader
from fluxedge.log.history.gathering import pack
from fluxedge.model import Group, Lane, Record
from tests.fluxedge.log.fake_clock import group_of

HOUR_NS = 3600 * 10**9
DAY = 20_000


def chunk(group: Group, hour: int, first: int, count: int = 3, epoch: int = 7) -> tuple[ChunkHead, bytes]:
    start_ns = hour * HOUR_NS
    records = [
        Record(epoch, Lane.ROUNDS, first + i, 1, group.round((i,) * len(group.points), start_ns + i, i))
        for i in range(count)
    ]
    return ChunkHead(0, hour, 0, epoch, first, first + count - 1, count, start_ns, start_ns + count - 1), pack(records)


def written(folder: Path, *chunks: tuple[Group, int, int], day: int = DAY) -> Path:
    folder.mkdir(exist_ok=True)
    path = days.path_of(folder, day)
    writer = DayWriter(path)
    writer.begin()
    for group, hour, first in chunks:
        writer.write_chunk(group, *chunk(group, hour, first))
    writer.commit()
    writer.close()
    return path


def test_names_and_days(tmp_path: Path) -> None:
    assert days.path_of(tmp_path, DAY).name == "2024-10-04.db"
    assert days.day_of(tmp_path / "2024-10-04.db") == DAY
    for other in ("2024-10-04.damaged", "lock", "2024-13-04.db", "20241004.db", "2024-10-04.db-journal"):
        assert days.day_of(tmp_path / other) is None
        (tmp_path / other).touch()
    assert days.files(tmp_path) == []
    assert days.files(tmp_path / "none") == []
    assert days.path_of(tmp_path, -700_000).name == "0053-06-19.db"


def test_a_file_is_readable_alone(tmp_path: Path) -> None:
    one, other = group_of("Hf", "m1"), group_of("?", "m2")
    path = written(tmp_path, (one, DAY * 24, 1), (other, DAY * 24, 2), (one, DAY * 24 + 1, 9))
    with DayReader(path) as reader:
        assert sorted(group.device for group in reader.groups().values()) == ["m1", "m2"]
        [(number, group)] = reader.groups(["m1"]).items()
        assert group == one
        heads = reader.heads([number], DAY * 24 * HOUR_NS, (DAY * 24 + 2) * HOUR_NS)
        assert [(head.hour, head.first, head.n) for head in heads] == [(DAY * 24, 1, 3), (DAY * 24 + 1, 9, 3)]
        assert reader.chunk(heads[1]).values(0) == [0, 1, 2]
        assert reader.heads([number], 0, DAY * 24 * HOUR_NS) == []
        assert reader.rollup(60, DAY * 24, number) is None


def test_chunks_beyond_the_seam_are_not_counted(tmp_path: Path) -> None:
    group = group_of()
    path = written(tmp_path, (group, DAY * 24, 1), (group, DAY * 24, 10))
    with DayReader(path) as reader:
        numbers = reader.groups()
        span = (0, 2**62)
        assert [h.first for h in reader.heads(numbers, *span, {7: 9})] == [1]
        assert [h.first for h in reader.heads(numbers, *span, {7: 10})] == [1, 10]
        assert [h.first for h in reader.heads(numbers, *span, {7: 0})] == []
        assert [h.first for h in reader.heads(numbers, *span, {8: 0})] == [1, 10]


def test_a_rollup_that_may_know_more_than_the_seam_is_not_given(tmp_path: Path) -> None:
    from fluxedge.log.history.copying import write_rollups

    group = group_of()
    path = written(tmp_path, (group, DAY * 24, 1), (group, DAY * 24, 10))
    writer = DayWriter(path)
    writer.begin()
    number = writer.number_of(group)
    write_rollups(writer, [(DAY * 24, number)], {number: group})
    writer.commit()
    writer.close()
    with DayReader(path) as reader:
        for level, start in ((60, DAY * 24), (3600, DAY)):
            found = reader.rollup(level, start, number)
            assert found is not None
            assert [row.rounds for row in found.rows] == [6]
            assert reader.rollup(level, start, number, {7: 9}) is None
            assert reader.rollup(level, start, number, {7: 10}) is not None
            assert reader.rollup(level, start, number, {8: 0}) is not None


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_day_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "2024-10-04.db"
    path.write_bytes(content)
    with pytest.raises(DamagedDay, match="2024-10-04"):
        DayReader(path)
    with pytest.raises(DamagedDay):
        DayWriter(path)
    assert not days.is_sound(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET v = 99 WHERE k = 'schema'")
    connection.close()
    with pytest.raises(DamagedDay, match="schema 99"):
        DayReader(path)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        DayReader(tmp_path / "2024-10-04.db")


def test_a_reader_goes_on_when_its_day_is_removed_or_written_to(tmp_path: Path) -> None:
    group = group_of()
    path = written(tmp_path, (group, DAY * 24, 1))
    with DayReader(path) as reader:
        [head] = reader.heads(reader.groups(), 0, 2**62)
        written(tmp_path, (group, DAY * 24 + 1, 5))
        assert len(reader.heads(reader.groups(), 0, 2**62)) == 2
        path.unlink()
        assert reader.chunk(head).values(0) == [0, 1, 2]


def test_the_journal_of_a_killed_compactor_is_rolled_back_by_the_next_reader(tmp_path: Path) -> None:
    path = written(tmp_path, (group_of(), DAY * 24, 1))
    killed_while_writing(path)
    assert path.with_name(f"{path.name}-journal").exists()
    with DayReader(path) as reader:
        assert [head.first for head in reader.heads(reader.groups(), 0, 2**62)] == [1]


def killed_while_writing(path: Path) -> None:
    """Leave a day file as a compactor does that is killed when a part of a transaction is in the file already."""
    script = (
        "import os, sys, pathlib; from fluxedge.log.history.day_writer import DayWriter;"
        "writer = DayWriter(pathlib.Path(sys.argv[1])); writer.connection.execute('PRAGMA cache_size = 5');"
        "writer.connection.execute('PRAGMA cache_spill = 1'); writer.begin();"
        "writer.connection.execute('UPDATE chunks SET first = 55, body = zeroblob(100000)');"
        "writer.connection.execute('DELETE FROM groups'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)


def test_damaged_files_are_set_aside_and_three_are_kept(tmp_path: Path) -> None:
    names = []
    for i in range(5):
        path = tmp_path / f"2024-10-0{i + 1}.db"
        path.write_bytes(b"x")
        moved = days.set_aside(path)
        os.utime(moved, (i, i))
        names.append(moved.name)
    assert sorted(p.name for p in tmp_path.iterdir()) == names[2:]
    again = tmp_path / "2024-10-05.db"
    again.touch()
    assert days.set_aside(again).name == "2024-10-05.damaged-2"


def test_a_whole_file_is_sound(tmp_path: Path) -> None:
    assert days.is_sound(written(tmp_path, (group_of(), DAY * 24, 1)))


def test_what_cannot_be_opened_is_damage_and_a_full_table_of_files_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, (group_of(), DAY * 24, 1))

    def cannot_open() -> None:
        with days.telling(path):
            sqlite3.connect(tmp_path / "none" / "x")

    with pytest.raises(sqlite3.OperationalError):  # EMFILE, for instance: the file itself is as it should be
        cannot_open()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda where, _: where != path)  # root may everything
        with pytest.raises(DamagedDay, match="permission denied"):
            cannot_open()
        patch.setattr(os, "access", lambda *_: False)  # a file system that is mounted read-only
        with pytest.raises(sqlite3.OperationalError):
            cannot_open()


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path)], ids=["directory", "pipe"])
def test_what_is_no_file_is_damage_and_can_be_set_aside(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = days.path_of(tmp_path, DAY)
    make(path)
    with pytest.raises(DamagedDay, match="no file"):
        DayReader(path)
    with pytest.raises(DamagedDay, match="no file"):
        DayWriter(path)
    assert not days.is_sound(path)
    assert days.set_aside(path).name == "2024-10-04.damaged"
    for _ in range(4):  # a directory among what is pruned stops nothing
        path.touch()
        days.set_aside(path)


def test_a_sector_that_cannot_be_read_is_damage() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_READ"
    assert days.is_damage(error)
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert not days.is_damage(error)
