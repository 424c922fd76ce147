"""History over a backup: what the compactor of the restored gateway makes of it. No round twice, none missing."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import typing
from pathlib import Path

import msgspec
import pytest

from fluxedge.log import Log
from fluxedge.log.backup import saving as backup
from fluxedge.log.backup.archive import Archive, BackupProblem
from fluxedge.log.backup.saving import Wanted
from fluxedge.log.history import seam
from fluxedge.log.history.compactor import Compactor
from fluxedge.log.history.seam import Seam
from fluxedge.log.query import Query, pages
from fluxedge.model import Lane
from tests.fluxedge.log.backup.backups import checked, leave_state, put_back, saved, site
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of
from tests.fluxedge.log.history.compacting import at_hour, compact, doubles, fill, history, logged, now_of

GROUP = group_of("Hf", "m1")


async def answered(log: Log, epoch: int) -> list[int]:
    """Return the seqs of every round that a query finds."""
    found = pages(log.path, Query(lane=Lane.ROUNDS, epoch=epoch), lambda *_: None)
    return [record.seq async for page in found for record in page]


async def restored(path: Path, place: Path, open_log: OpenLog, clock: FakeClock) -> Log:
    put_back(path, place / "etc", place / "state")
    clock.advance(60)
    return open_log(place / "state")


async def test_history_that_grew_after_the_log_was_copied_is_not_copied_twice(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [GROUP], 130)
    await compact(log, clock)
    await fill(log, clock, [GROUP], 120)
    wanted = Wanted(site(tmp_path / "etc"), tmp_path)
    copy_history = backup._save_history

    def later(*args: typing.Any) -> None:
        compactor = Compactor(tmp_path, now_of(log, clock), lambda _line: None)
        compactor.run()
        compactor.close()
        copy_history(*args)

    monkeypatch.setattr(backup, "_save_history", later)
    saved(wanted, tmp_path / "b.tar")
    new = await restored(tmp_path / "b.tar", tmp_path / "new", open_log, clock)
    await compact(new, clock)
    found = [record for record in history(tmp_path / "new" / "state") if record.epoch == log.epoch]
    assert doubles(found) == []
    assert await answered(new, log.epoch) == list(range(1, 251))


@pytest.mark.parametrize("damage", [False, True])
async def test_what_is_behind_the_seam_in_a_copied_file_is_taken_away(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, damage: bool
) -> None:
    """The file was copied after the seam, and had another hour by then; or what says so cannot be read."""
    log = open_log(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [GROUP], 130)
    before = seam.NAME, b"{" if damage else msgspec.json.encode(Seam())
    await compact(log, clock, note=False)
    (tmp_path / "history" / before[0]).write_bytes(before[1])
    saved(Wanted(site(tmp_path / "etc"), tmp_path), tmp_path / "b.tar")
    new = await restored(tmp_path / "b.tar", tmp_path / "new", open_log, clock)
    await compact(new, clock)
    assert doubles(history(tmp_path / "new" / "state")) == []
    assert await answered(new, log.epoch) == list(range(1, 131))


async def test_without_history_what_the_log_still_holds_becomes_history_again(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [GROUP], 130)
    await compact(log, clock)
    assert log.compacted == {log.epoch: 120}
    saved(Wanted(site(tmp_path / "etc"), tmp_path, history=False), tmp_path / "b.tar")
    assert checked(tmp_path / "b.tar").names("history") == []

    new = await restored(tmp_path / "b.tar", tmp_path / "new", open_log, clock)
    held = [segment for segment in new.held if segment.lane is Lane.ROUNDS and segment.epoch == log.epoch]
    assert not any(new.fate(segment, []).copied for segment in held), "retention must keep what no file has"
    assert await answered(new, log.epoch) == list(range(1, 131))
    at_hour(clock, 5)
    await compact(new, clock)
    assert new.compacted[log.epoch] == 130
    assert [record.seq for record in history(tmp_path / "new" / "state")] == list(range(1, 131))
    assert await answered(new, log.epoch) == list(range(1, 131))
    assert len(await logged(new, log.epoch)) == 130


async def test_history_of_another_log_is_not_put_under_one_that_relies_on_its_own(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log(tmp_path)
    at_hour(clock, 0)
    await fill(log, clock, [GROUP], 130)
    await compact(log, clock)
    saved(Wanted(site(tmp_path / "etc"), tmp_path, log=False), tmp_path / "b.tar")
    with pytest.raises(BackupProblem, match="has another log"):
        put_back(tmp_path / "b.tar", tmp_path / "etc2", tmp_path)
    put_back(tmp_path / "b.tar", tmp_path / "etc2", tmp_path / "empty")
    assert len(history(tmp_path / "empty")) == 120


# --- a writer that died -----------------------------------------------------------------------------------------------


def crashed(folder: Path, scratch: Path) -> Path:
    """Leave a day file in the middle of a transaction that had changed its pages."""
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(scratch, isolation_level=None)
    connection.executescript("PRAGMA cache_size = 1; CREATE TABLE t (a); CREATE TABLE big (b);")
    connection.execute("INSERT INTO t VALUES (3)")
    connection.execute("BEGIN")
    connection.execute("UPDATE t SET a = 4")
    connection.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
                       " INSERT INTO big SELECT zeroblob(5000) FROM n")  # fmt: skip
    path = folder / "2026-05-30.db"
    path.write_bytes(scratch.read_bytes())
    path.with_name("2026-05-30.db-journal").write_bytes(scratch.with_name(f"{scratch.name}-journal").read_bytes())
    connection.execute("ROLLBACK")
    connection.close()
    return path


def value_in(path: Path, data: bytes) -> list[tuple[int]]:
    path.write_bytes(data)
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT a FROM t").fetchall()
    finally:
        connection.close()


def test_what_a_crash_left_in_a_history_file_is_rolled_back_in_the_copy(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    leave_state(state)
    path = crashed(state / "history", tmp_path / "scratch.db")
    before = path.read_bytes()
    saved(Wanted(site(tmp_path / "etc"), state, log=False), tmp_path / "b.tar")
    data = b"".join(checked(tmp_path / "b.tar").pieces("history/2026-05-30.db"))
    assert value_in(tmp_path / "day.db", data) == [(3,)]
    assert path.read_bytes() == before, "a backup changes nothing"
    assert path.with_name(f"{path.name}-journal").exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".fluxedge")] == []


def test_a_transaction_that_is_under_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    state.mkdir()
    leave_state(state)
    path = crashed(state / "history", tmp_path / "scratch.db")
    monkeypatch.setattr(backup, "AGAIN_S", 0.0)
    handle = os.open(state / "history" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    wanted = Wanted(site(tmp_path / "etc"), state, log=False)
    with pytest.raises(BackupProblem, match="is being written all the time"):
        saved(wanted, tmp_path / "b.tar")
    monkeypatch.setattr(backup.time, "sleep", lambda _: fcntl.flock(handle, fcntl.LOCK_UN))
    saved(wanted, tmp_path / "b.tar")
    os.close(handle)
    data = b"".join(checked(tmp_path / "b.tar").pieces(f"history/{path.name}"))
    assert value_in(tmp_path / "day.db", data) == [(3,)]


# --- a hostile one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"upto": {"-1": 5}}', b'{"upto": {"1": 99999999999999999999}}',
     b'{"rebuild": ["../../2026-05-30"]}', b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_a_seam_that_no_compactor_wrote_is_refused(tmp_path: Path, data: bytes) -> None:
    with (tmp_path / "b.tar").open("wb") as file:
        archive = Archive(file)
        archive.add(backup.SEAM, data)
        parts = list(archive.parts.values())
        made = backup.Manifest(
            format=1, fluxedge="1", made_us=0, gateway="", machine="", schema=0, epoch=0, heads={}, log=False,
            history=True, credentials=False, left_out=[], parts=parts,
        )  # fmt: skip
        archive.finish(made)
    with pytest.raises(BackupProblem, match="history/seam"):
        put_back(tmp_path / "b.tar", tmp_path / "etc", tmp_path / "state")
    assert not (tmp_path / "state" / "history").exists()
