"""Rescue: what can be read of a damaged day outlives it, also where the log has nothing of it. Damage stops nothing."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from fluxedge.log.history import copying, days, seam
from fluxedge.log.history.rescue import Taken, rescue, sources
from fluxedge.model import Group, Point
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of
from tests.fluxedge.log.history.compacting import (
    FIRST_HOUR_NS,
    HOUR_NS,
    at_hour,
    compact,
    doubles,
    fill,
    history,
    logged,
)
from tests.fluxedge.log.history.test_days import DAY, chunk, written

GROUP = Group("m1", "main", tuple(Point(f"t{i}", "q") for i in range(40)))
FIRST = DAY * 24


def damaged_day(folder: Path, *bad_pages: int) -> tuple[Path, list[tuple[int, int]]]:
    """Write ten hours of three rounds, spoil pages, set the file aside; return the day's path and what was in it."""
    path = written(folder, *[(GROUP, FIRST + hour, 1 + 3 * hour) for hour in range(10)])
    before = [(record.epoch, record.seq) for record in history(folder.parent)]
    body = bytearray(path.read_bytes())
    for page in bad_pages:
        body[page * 2048 : (page + 1) * 2048] = bytes(2048)
    path.with_suffix(".damaged").write_bytes(bytes(body))
    path.unlink()
    return path, before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = days.folder_of(tmp_path)
    made.mkdir()
    return made


def test_a_file_that_is_whole_comes_back_whole(folder: Path, tmp_path: Path) -> None:
    path, before = damaged_day(folder)
    rescue(path, {}, Taken())
    assert [(record.epoch, record.seq) for record in history(tmp_path)] == before
    assert len(before) == 30


def test_zeroed_pages_cost_what_was_on_them(folder: Path, tmp_path: Path) -> None:
    path, before = damaged_day(folder)
    aside = path.with_suffix(".damaged")
    pages = aside.stat().st_size // 2048
    whole = aside.read_bytes()
    lengths = set()
    for page in range(1, pages, 3):
        path.unlink(missing_ok=True)
        aside.write_bytes(whole[: page * 2048] + bytes(2048) + whole[(page + 1) * 2048 :])
        rescue(path, {}, Taken())
        found = [(record.epoch, record.seq) for record in history(tmp_path)]
        assert set(found) <= set(before)
        assert len(found) == len(set(found))
        lengths.add(len(found))
    assert len(lengths) > 1
    assert max(lengths) >= 27  # one chunk


def test_between_two_damaged_pages_chunks_are_found_one_by_one(folder: Path, tmp_path: Path) -> None:
    path, before = damaged_day(folder)
    connection = sqlite3.connect(path.with_suffix(".damaged"))
    leaves = [row[0] for row in connection.execute(
        "SELECT pageno FROM dbstat WHERE name = 'chunks' AND pagetype = 'leaf' ORDER BY path"
    )]  # fmt: skip
    connection.close()
    assert len(leaves) >= 3
    with path.with_suffix(".damaged").open("r+b") as file:
        for page in (leaves[0], leaves[-1]):
            file.seek((page - 1) * 2048)
            file.write(bytes(2048))
    rescue(path, {}, Taken())
    found = [(record.epoch, record.seq) for record in history(tmp_path)]
    assert set(found) < set(before)
    assert len(found) >= 3


def test_what_lies_behind_the_seam_is_left_to_the_log(folder: Path, tmp_path: Path) -> None:
    path, _ = damaged_day(folder)
    taken = Taken()
    rescue(path, {7: 6}, taken)
    assert [record.seq for record in history(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert taken.has(FIRST, GROUP, 7, 2)
    assert not taken.has(FIRST, GROUP, 7, 4)
    assert not taken.has(FIRST, GROUP, 8, 2)


def test_two_files_that_were_set_aside_give_no_round_twice(folder: Path, tmp_path: Path) -> None:
    path, before = damaged_day(folder)
    aside = path.with_suffix(".damaged")
    path.with_suffix(".damaged-2").write_bytes(aside.read_bytes())
    assert len(sources(path)) == 2
    rescue(path, {}, Taken())
    assert [(record.epoch, record.seq) for record in history(tmp_path)] == before


def test_what_is_no_database_gives_nothing(folder: Path, tmp_path: Path) -> None:
    path = days.path_of(folder, DAY)
    path.with_suffix(".damaged").write_bytes(b"no database" * 500)
    path.with_suffix(".damaged-2").mkdir()
    rescue(path, {}, Taken())
    assert not path.exists()


def test_a_body_that_does_not_fit_its_head_is_left_out(folder: Path, tmp_path: Path) -> None:
    path, _ = damaged_day(folder)
    connection = sqlite3.connect(path.with_suffix(".damaged"))
    connection.execute("UPDATE chunks SET body = ? WHERE first = 4", (chunk(GROUP, FIRST + 1, 100)[1],))
    connection.execute("UPDATE chunks SET body = zeroblob(300) WHERE first = 7")
    connection.commit()
    connection.close()
    rescue(path, {}, Taken())
    assert [record.seq for record in history(tmp_path)][:6] == [1, 2, 3, 10, 11, 12]


async def test_a_directory_with_the_name_of_a_day_stops_nothing(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    day = days.path_of(days.folder_of(tmp_path), FIRST_HOUR_NS // HOUR_NS // 24)
    (day / "inside").mkdir(parents=True)
    lines = await compact(log, clock)
    assert [line["damaged"] for line in lines if "damaged" in line] == [day.stem]
    assert lines[-1]["done"]
    assert [line["rounds"] for line in lines if "epoch" in line] == [60]
    assert history(tmp_path) == (await logged(log))[:60]
    assert day.with_suffix(".damaged").is_dir()


async def test_damage_in_any_day_does_not_stop_the_taking_away_after_a_kill(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    folder = days.folder_of(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    await compact(log, clock)
    [(_, path)] = days.files(folder)
    shutil.copy(path, days.path_of(folder, 12_000))
    other = days.path_of(folder, 12_000)
    connection = sqlite3.connect(other)
    connection.execute("UPDATE meta SET v = 12000 WHERE k = 'day'")
    connection.execute("DROP TABLE chunks")  # found by the query for leftovers, not by opening
    connection.commit()
    connection.close()
    left = seam.load(folder)
    left.open = True
    seam.save(folder, left)
    await fill(log, clock, [group_of()], 60)
    lines = await compact(log, clock)
    assert [line["damaged"] for line in lines if "damaged" in line] == [other.stem]
    assert lines[-1]["done"]
    assert history(tmp_path) == (await logged(log))[:120]


async def test_of_a_damaged_day_that_has_left_the_log_the_readable_chunks_are_kept(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of("qqqqqqqq", f"m{i}") for i in range(8)], 190)
    await compact(log, clock)
    before = history(tmp_path)
    [(_, path)] = days.files(days.folder_of(tmp_path))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2048 // 2 * 2048)
        file.write(b"\xff" * 2048)
    assert not days.is_sound(path)
    connection = sqlite3.connect(log.path)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'rounds_%'").fetchall():
        connection.execute(f"DELETE FROM {table} WHERE seq < 1000")  # as if segments had been dropped
    connection.commit()
    connection.close()
    await compact(log, clock, suspects=[path.stem])
    after = history(tmp_path)
    assert len(after) > len(before) / 2
    assert set(map(str, after)) <= set(map(str, before))
    assert doubles(after) == []
    assert [r.seq for r in after if r.seq >= 1000] == [r.seq for r in before if r.seq >= 1000]


async def test_a_sound_file_that_is_made_anew_loses_nothing(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    folder = days.folder_of(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 130)
    await compact(log, clock)
    before = history(tmp_path)
    connection = sqlite3.connect(log.path)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'rounds_%'").fetchall():
        connection.execute(f"DELETE FROM {table} WHERE seq < 100")
    connection.commit()
    connection.close()
    [(_, path)] = days.files(folder)
    left = seam.load(folder)
    left.rebuild = [path.stem]  # the disk could not read it, a power cut came before it was renamed, now it is back
    seam.save(folder, left)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(copying.Copier, "copy_day", die)
            with pytest.raises(Killed):
                await compact(log, clock)
    await compact(log, clock)
    assert history(tmp_path) == before
    assert not path.with_suffix(".before").exists()
