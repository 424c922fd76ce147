"""A damaged log: set aside, and a new one started at once."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest

from fluxedge.log import Batch, LogFault, damage
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import group_of, round_of

GROUP = group_of("HH")


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


async def test_damage_that_a_commit_meets_is_set_aside_at_the_next_start(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await write_one(log)
    await log._run(lambda c: c.execute("DROP TABLE rounds_001"))
    with pytest.raises(LogFault, match="no such table") as caught:
        await write_one(log)
    assert "restart fluxedge" in caught.value.hint
    await log.close()
    log = open_log()
    assert log.damaged is not None
    await write_one(log)
    await log.close()
    assert open_log().damaged is None


async def test_a_log_that_is_removed_under_the_gateway_is_noticed(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await log.housekeep([])
    assert not log.removed
    (tmp_path / "log.db").unlink()
    await log.housekeep([])
    assert log.removed
