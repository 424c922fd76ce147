"""A damaged log: set aside, and a new one started at once."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault, damage
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import group_of, round_of

GROUP = group_of("HH")
R = Lane.ROUNDS


def made(state: Path) -> Path:
    state.mkdir()
    return state


async def fill(open_log: OpenLog, state: Path) -> int:
    """Leave a log of some segments behind; return its epoch."""
    log = open_log(state, segment_bytes=600)
    log.begin_uplink("up", [Lane.ROUNDS], "oldest")
    for i in range(60):
        batch = Batch()
        log.add_round(batch, round_of(GROUP, i, 0))
        await log.commit(batch)
    await log.close()
    return log.epoch


def set_aside(state: Path) -> list[Path]:
    return list(state.glob("log.damaged-*/log.db"))


async def write_one(log: object) -> None:
    batch = Batch()
    log.add_round(batch, round_of(GROUP, 1, 0))  # type: ignore[attr-defined]
    await log.commit(batch)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["truncated", "halved", "garbage", "text", "foreign", "no schema", "lost table"])
async def test_a_log_that_cannot_be_opened_is_set_aside_and_a_new_one_begun(
    open_log: OpenLog, tmp_path: Path, kind: str
) -> None:
    epoch = await fill(open_log, made(tmp_path / "s"))
    path = tmp_path / "s" / "log.db"
    size = path.stat().st_size
    if kind in ("truncated", "halved"):
        with path.open("r+b") as file:
            file.truncate(3 * 1024 if kind == "truncated" else size // 2)
    elif kind == "garbage":
        path.write_bytes(random.Random(1).randbytes(size))
    elif kind == "text":
        path.write_bytes(b"no database " * 1000)
    elif kind == "foreign":
        path.unlink()
        with sqlite3.connect(path) as theirs:
            theirs.execute("CREATE TABLE theirs (x)")
        theirs.close()
    else:
        with sqlite3.connect(path) as ours:
            ours.execute("DELETE FROM meta WHERE k = 'schema'" if kind == "no schema" else "DROP TABLE todo")
        ours.close()
    began_s = time.monotonic()
    log = open_log(tmp_path / "s")
    assert time.monotonic() - began_s < 5
    assert log.damaged is not None
    assert log.damaged.code == "log-damaged"
    (folder,) = (tmp_path / "s").glob("log.damaged-*")
    assert str(folder) in log.damaged.message
    assert (folder / "log.db").stat().st_size > 0
    assert log.epoch > epoch
    assert (log.new_epoch_because, log.heads[Lane.ROUNDS]) == ("", 0)
    await write_one(log)
    await log.close()
    again = open_log(tmp_path / "s")
    assert (again.epoch, again.damaged) == (log.epoch, None)


async def test_garbage_in_any_one_page_never_keeps_the_gateway_from_starting(open_log: OpenLog, tmp_path: Path) -> None:
    await fill(open_log, made(tmp_path / "s"))
    path = tmp_path / "s" / "log.db"
    whole = path.read_bytes()
    rng = random.Random(7)
    for page in range(len(whole) // 1024):
        state = tmp_path / str(page)
        state.mkdir()
        (state / "log.db").write_bytes(whole[: page * 1024] + rng.randbytes(1024) + whole[(page + 1) * 1024 :])
        log = open_log(state)
        await log.close()


def test_three_damaged_logs_are_kept_and_never_the_newest_goes(tmp_path: Path) -> None:
    folders = []
    for now_s in (3e9, 2e9, 2e9, 1e9):  # the clock may be wrong
        (tmp_path / "log.db").write_text("x")
        before = set(tmp_path.glob("log.damaged-*"))
        damage.set_aside(tmp_path / "log.db", now_s, LinkProblem("log-damaged", "x"))
        folders.append((set(tmp_path.glob("log.damaged-*")) - before).pop())
    left = set(tmp_path.glob("log.damaged-*"))
    assert len(left) == 3
    assert {folders[0], folders[-1]} <= left
    assert not (tmp_path / "log.db").exists()


async def test_damage_that_a_commit_met_is_set_aside_at_the_next_start(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await write_one(log)
    await log.write(lambda c: c.execute("DROP TABLE rounds_001"))
    with pytest.raises(LogFault, match="no such table") as caught:
        await write_one(log)
    assert "set aside" in caught.value.hint
    await log.close()
    log = open_log()
    assert log.damaged is not None
    await write_one(log)
    await log.close()
    assert open_log().damaged is None


async def test_damage_that_a_commit_meets_is_set_aside_in_the_running_gateway(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    log.begin_uplink("up", [Lane.ROUNDS], "oldest")
    await write_one(log)
    epoch = log.epoch
    await log.write(lambda c: c.execute("DROP TABLE rounds_001"))
    batch = Batch()
    log.add_round(batch, round_of(GROUP, 7, 0))
    with pytest.raises(LogFault):
        await log.commit(batch)
    began_s = time.monotonic()
    assert await log.housekeep(["up"])
    await log.commit(batch)
    assert time.monotonic() - began_s < 2
    assert log.epoch > epoch
    assert log.memory is None
    assert log.is_durable(log.epoch)
    assert log.damaged is not None
    assert "log.damaged-" in log.damaged.message
    assert not damage.marked(log.path)
    await log.close()
    again = open_log()
    assert (again.epoch, again.heads[Lane.ROUNDS], again.damaged) == (log.epoch, 1, None)
    owed = [(e, list(ranges)) for e, ranges in again.cursors.of("up", Lane.ROUNDS) if ranges]
    assert owed == [(log.epoch, [(1, OPEN_END)])], "what was owed of the old log is the salvage's business"


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_log_that_is_taken_away_under_the_gateway_is_begun_anew_and_its_records_are_a_gap(
    open_log: OpenLog, tmp_path: Path, how: str
) -> None:
    log = open_log()
    log.begin_uplink("up", [Lane.ROUNDS], "oldest")
    await write_one(log)
    epoch = log.epoch
    await log.housekeep(["up"])
    assert log.damaged is None
    if how == "replaced":
        (tmp_path / "other.db").write_bytes(b"somebody else's")
        (tmp_path / "other.db").rename(log.path)
    else:
        log.path.unlink()
    await log.housekeep(["up"])
    await write_one(log)
    assert log.damaged is not None
    assert (log.damaged.code, log.memory) == ("log-replaced", None)
    assert how in log.damaged.message
    if how == "replaced":
        assert [found.read_bytes() for found in set_aside(tmp_path)] == [b"somebody else's"], "nothing is thrown away"
    owed = dict(log.cursors.of("up", Lane.ROUNDS))
    assert list(owed[epoch]) == [(1, 1)], "the forward loop makes a gap of what the log has not any more"
    await log.close()
    assert open_log().heads[Lane.ROUNDS] == 1


async def read_through(log: Log) -> set[int]:
    """Read a lane as the forward loop does, row by row; return the seqs that came."""
    found: set[int] = set()
    seq = 1
    while seq <= log.heads[R]:
        rows = await log.read(log.epoch, R, seq, 1, lambda rows, _: rows)
        if not rows:
            break
        found |= {n for row in rows for n in range(row.seq, row.last + 1)}
        seq = rows[-1].last + 1
    return found


@pytest.mark.parametrize("size", [40, 4000])
async def test_a_damaged_page_costs_the_rows_in_it_and_is_announced_to_everybody(
    open_log: OpenLog, tmp_path: Path, size: int
) -> None:
    log = open_log(segment_bytes=1 << 20)
    log.begin_uplink("cloud", [R], "oldest")
    log.begin_uplink("other", [R], "oldest")
    rng = random.Random(5)
    for _ in range(150):
        batch = Batch()
        for _ in range(2):
            log.add_round(batch, round_of(group_of("y"), rng.randbytes(size)))
        await log.commit(batch)
    await log.close()
    whole = log.path.read_bytes()
    pages = len(whole) // 1024
    lost = []
    for page in rng.sample(range(pages // 3, pages), 12):
        state = tmp_path / str(page)
        state.mkdir()
        (state / "log.db").write_bytes(whole[: page * 1024] + rng.randbytes(1024) + whole[(page + 1) * 1024 :])
        log = open_log(state)
        if log.damaged is not None:
            continue  # not in the middle of a segment
        found = await read_through(log)
        gone = {seq for lost in log.lost if lost[0] == "cloud" for seq in range(lost[3], lost[4] + 1)}
        assert found | gone == set(range(1, 301))
        assert not found & gone
        assert [lost[2:] for lost in log.lost if lost[0] == "other"] == [
            lost[2:] for lost in log.lost if lost[0] == "cloud"
        ]
        lost.append(len(gone))
    assert max(lost) > 0
    assert max(lost) <= 60, "only what is in the page"


async def test_a_disk_that_reads_nothing_for_a_while_loses_nothing(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await write_one(log)

    class Gone:
        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_READ"
            raise error

    honest = log.disk._reading
    monkeypatch.setattr(log.disk, "_reading", Gone())
    with pytest.raises(LinkProblem, match="disk I/O error"):
        await log.read(log.epoch, R, 1, 10**6, lambda rows, _: rows)
    assert log.lost == []
    monkeypatch.setattr(log.disk, "_reading", honest)
    assert await read_through(log) == {1}


@pytest.mark.parametrize(
    ("code", "left"), [("log-damaged", ["log.db", "log.witness"]), ("log-replaced", ["log.db", "salvaged.json"])]
)
def test_the_witness_goes_along_for_the_salvage_of_a_log_of_ours_only(
    tmp_path: Path, code: str, left: list[str]
) -> None:
    for name in ("log.db", "log.witness"):
        (tmp_path / name).write_text(name)
    damage.set_aside(tmp_path / "log.db", 3e9, LinkProblem(code, "x"))
    (folder,) = tmp_path.glob("log.damaged-*")
    assert sorted(file.name for file in folder.iterdir()) == left
    assert (tmp_path / "log.witness").exists()
