"""The recovery matrix: whatever became of the files, the log runs within seconds, keeps what is readable, and says so.

Each case: a gateway's log is killed with something in its WAL, a fault is done to its files, and it is opened again.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, database
from fluxedge.log.salvage import copying
from fluxedge.log.salvage.salvage import Salvage, pending
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import group_of, round_of

BOTH = [Lane.ROUNDS, Lane.EVENTS]
GROUP = group_of("H" * 40)
SECONDS = 5.0
FRAME = 24 + 1024
ROUNDS, WITNESSED = 80, 70  # of them the witness has seen so many
CHILD = """
import asyncio, os, sys
from pathlib import Path
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Lane
from tests.fluxedge.log.fake_clock import FakeClock, event_of, group_of, round_of

async def main():
    clock, group = FakeClock(), group_of("H" * 40)
    state = Path(sys.argv[1])
    log = Log(state, LogCfg(segment_bytes=Bytes(4096), free_space_bytes=Bytes(0)), clock)
    log.begin_uplink("up", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for i in range(int(sys.argv[2])):
        batch = Batch()
        log.add_round(batch, round_of(group, *[(i * k * 31) % 65536 for k in range(40)]))
        if i % 4 == 0:
            log.add_event(batch, event_of(number=i))
        if i == int(sys.argv[3]):
            await log.housekeep(["up"])
        await log.commit(batch)
    os._exit(0)
asyncio.run(main())
"""


@dataclass
class Wanted:
    """What a fault leads to."""

    problem: str  # code; empty: none
    saved: float  # the least part of the rounds that can still be read; 1 = all


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at if at >= 0 else path.stat().st_size + at)
        file.write(content)


def fold(state: Path) -> None:
    """Move what is in the WAL into log.db, as a long run does, and leave it open behind."""
    connection = sqlite3.connect(state / "log.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    opened = database.read_witness(state / "log.witness")
    assert opened is not None
    database.write_witness(
        state / "log.witness", state / "log.db", opened.epoch, {Lane.ROUNDS: WITNESSED, Lane.EVENTS: 18}
    )


def body_at(state: Path) -> int:
    """Return where the body of some row stands in log.db."""
    connection = sqlite3.connect(state / "log.db")
    (body,) = connection.execute("SELECT body FROM rounds_002 LIMIT 1").fetchone()
    connection.close()
    fold(state)
    return (state / "log.db").read_bytes().index(body[:40]) + 20


def truncated(state: Path) -> None:
    fold(state)
    os.truncate(state / "log.db", (state / "log.db").stat().st_size * 2 // 3 // 1024 * 1024)


def zeroed_page(state: Path) -> None:
    fold(state)
    change(state / "log.db", 0, bytes(1024))


def flipped_body(state: Path) -> None:
    at = body_at(state)
    byte = (state / "log.db").read_bytes()[at]
    change(state / "log.db", at, bytes([byte ^ 0xFF]))


def flipped_tree(state: Path) -> None:
    fold(state)
    connection = sqlite3.connect(state / "log.db")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'segments'").fetchone()
    connection.close()
    fold(state)
    change(state / "log.db", (page - 1) * 1024, b"\xff")


def text_file(state: Path) -> None:
    (state / "log.db").write_bytes(b"not a database at all\n" * 3000)
    (state / "log.db-wal").unlink()


def their_database(state: Path) -> None:
    for file in state.glob("log.db*"):
        file.unlink()
    connection = sqlite3.connect(state / "log.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.execute("INSERT INTO theirs VALUES ('keep me')")
    connection.commit()
    connection.close()


def wal_truncated(state: Path) -> None:
    witness = database.read_witness(state / "log.witness")
    assert witness is not None
    database.write_witness(
        state / "log.witness", state / "log.db", witness.epoch, {Lane.ROUNDS: WITNESSED, Lane.EVENTS: 18}
    )
    path = state / "log.db-wal"
    os.truncate(path, 32 + (path.stat().st_size - 32) // FRAME * 3 // 4 * FRAME)


def wal_flipped(state: Path) -> None:
    path = state / "log.db-wal"
    frames = (path.stat().st_size - 32) // FRAME
    change(path, 32 + frames * 9 // 10 * FRAME + 500, b"\xa5\x5a\xa5\x5a")


def wal_missing(state: Path) -> None:
    witness = database.read_witness(state / "log.witness")
    assert witness is not None
    database.write_witness(
        state / "log.witness", state / "log.db", witness.epoch, {Lane.ROUNDS: WITNESSED, Lane.EVENTS: 18}
    )
    (state / "log.db-wal").unlink()


def shm_garbage(state: Path) -> None:
    (state / "log.db-shm").write_bytes(random.Random(1).randbytes(32768))


def directory(state: Path) -> None:
    for file in state.glob("log.db*"):
        file.unlink()
    (state / "log.db").mkdir()
    (state / "log.db" / "something").write_text("x")


def empty(state: Path) -> None:
    for file in state.glob("log.db*"):
        file.unlink()
    (state / "log.db").touch()


def huge_garbage(state: Path) -> None:
    (state / "log.db-wal").unlink()
    with (state / "log.db").open("wb") as file:
        file.write(random.Random(3).randbytes(1 << 20))
        file.truncate(1 << 30)  # sparse


def no_witness(state: Path) -> None:
    (state / "log.witness").unlink()


def witness_garbage(state: Path) -> None:
    (state / "log.witness").write_bytes(b"\xff\x00{")


def replaced_by_backup(state: Path) -> None:
    older = state / "older"  # the same epoch, twenty rounds
    older.mkdir()
    subprocess.run([sys.executable, "-c", CHILD, str(older), "20", "0"], check=True)
    fold(older)
    for file in state.glob("log.db*"):
        file.unlink()
    (older / "log.db").rename(state / "log.db")


CASES: dict[str, tuple[Callable[[Path], None], Wanted]] = {
    "the log is cut short": (truncated, Wanted("log-damaged", 0.4)),
    "the first page is zero": (zeroed_page, Wanted("log-damaged", 1)),
    "a byte of a body is flipped": (flipped_body, Wanted("", 0.9)),
    "a byte of a b-tree page is flipped": (flipped_tree, Wanted("log-damaged", 1)),
    "it is no database": (text_file, Wanted("log-damaged", 0)),
    "it is another program's database": (their_database, Wanted("log-damaged", 0)),
    "the WAL is cut short": (wal_truncated, Wanted("log-replaced", 0.5)),
    "the WAL has flipped bytes": (wal_flipped, Wanted("log-replaced", 0.7)),
    "-shm is garbage": (shm_garbage, Wanted("", 1)),
    "it is a directory": (directory, Wanted("log-damaged", 0)),
    "it is empty": (empty, Wanted("log-replaced", 0)),
    "it is a huge file of garbage": (huge_garbage, Wanted("log-damaged", 0)),
    "the witness is gone": (no_witness, Wanted("", 1)),
    "the witness is garbage": (witness_garbage, Wanted("", 1)),
    "an older log was put back": (replaced_by_backup, Wanted("log-replaced", 0.25)),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave the state of a log that was killed behind, with everything in its WAL."""
    state = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", CHILD, str(state), str(ROUNDS), str(WITNESSED)], check=True)
    assert (state / "log.db-wal").stat().st_size > 100 * 1024
    return state


@pytest.fixture
def state(tmp_path: Path, killed: Path) -> Path:
    """Copy it, file by file, so that it counts as the same one."""
    for file in killed.iterdir():
        if file.name not in ("log.db-shm", "log.lock"):
            shutil.copy(file, tmp_path / file.name)
    witness = database.read_witness(tmp_path / "log.witness")
    assert witness is not None
    heads = {Lane.ROUNDS: witness.heads["rounds"], Lane.EVENTS: witness.heads["events"]}
    assert heads[Lane.ROUNDS] == WITNESSED
    database.write_witness(tmp_path / "log.witness", tmp_path / "log.db", witness.epoch, heads)
    return tmp_path


async def read_back(log: Log, epoch: int) -> set[int]:
    """Return the seqs of rounds of an epoch that can be read."""
    found: set[int] = set()
    for segment in [s for s in log.segments() if s.lane is Lane.ROUNDS and s.epoch == epoch]:
        seq = segment.first
        while seq <= segment.last:
            rows = await log.read(epoch, Lane.ROUNDS, seq, 1 << 20, lambda rows, groups: rows)
            for row in rows:
                with_records = copying.checked(row, log.groups.by_id, {number: number for number in log.groups.by_id})
                found |= set(range(with_records.seq, with_records.last + 1))
            if not rows:
                break
            seq = rows[-1].last + 1
    return found


async def salvaged(log: Log, state: Path) -> None:
    said: list[LinkProblem] = []

    async def recover() -> None:
        await log.unanswered_commands("", 1)

    salvage = Salvage(log, lambda: {"up": BOTH}, lambda: [GROUP], said.append, recover)
    await salvage.begin()
    task = asyncio.ensure_future(salvage.run())
    try:
        async with asyncio.timeout(20):
            while pending(state):
                await asyncio.sleep(0.01)
                assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(("fault", "wanted"), CASES.values(), ids=CASES)
async def test_the_log_runs_within_seconds_and_keeps_what_is_readable(
    open_log: OpenLog, state: Path, fault: Callable[[Path], None], wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    witness = typing.cast(database.Witness, database.read_witness(state / "log.witness"))
    fault(state)
    began_s = time.monotonic()
    log = open_log(state)
    log.begin_uplink("up", BOTH, "oldest")
    batch = Batch()
    log.add_round(batch, round_of(GROUP, *range(40)))
    await log.commit(batch)
    assert time.monotonic() - began_s < SECONDS
    told = ([log.damaged.code] if log.damaged else []) + (["log-replaced"] if log.new_epoch_because else [])
    assert told == ([wanted.problem] if wanted.problem else [])
    if wanted.problem:
        assert log.epoch > witness.epoch, "no seq is used a second time"
    await salvaged(log, state)
    there = {seq for seq in await read_back(log, witness.epoch) if seq <= ROUNDS}
    assert len(there) >= wanted.saved * ROUNDS
    if wanted.problem:  # what the witness has seen is there to be sent, or announced
        await log.save_cursors()
        gaps = {
            seq for g in log.unannounced if (g.epoch, g.lane) == (witness.epoch, 0) for seq in range(g.lo, g.hi + 1)
        }
        owed = {
            seq for epoch, ranges in log.cursors.of("up", Lane.ROUNDS) if epoch == witness.epoch
            for lo, hi in ranges for seq in range(lo, min(hi, ROUNDS) + 1)
        }  # fmt: skip
        assert owed <= there
        if fault is not empty:  # nothing knows any more what was to be sent
            assert owed | gaps >= set(range(1, WITNESSED + 1))
    await log.close()
    again = open_log(state)
    assert (again.epoch, again.new_epoch_because, again.damaged) == (log.epoch, "", None)


async def test_a_wal_that_is_missing_loses_what_was_in_it_and_says_so(open_log: OpenLog, state: Path) -> None:
    wal_missing(state)  # the whole log was in it
    log = open_log(state)
    assert "the log is gone" in log.new_epoch_because or log.damaged is not None


async def test_a_disk_that_was_copied_to_another_machine_begins_a_new_epoch(
    open_log: OpenLog, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = typing.cast(database.Witness, database.read_witness(state / "log.witness"))
    monkeypatch.setattr(database, "machine_id", lambda: "another")
    log = open_log(state)
    assert log.epoch > witness.epoch
    assert "another machine" in log.new_epoch_because
    assert len(await read_back(log, witness.epoch)) == ROUNDS
    owed = dict(log.cursors.of("up", Lane.ROUNDS))
    assert list(owed[witness.epoch]) == [(1, ROUNDS)]
    assert list(owed[log.epoch]) == [(1, OPEN_END)]
