"""Restoring: everything is there again, what was there is kept, and a backup that cannot be used changes nothing."""

from __future__ import annotations

import io
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from fluxedge.log import database
from fluxedge.log.backup import restoring
from fluxedge.log.backup.archive import Archive, BackupProblem, check
from fluxedge.log.backup.saving import Wanted
from fluxedge.log.backup.snapshot import TABLES, Page, Tables
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.backup.backups import checked, fill, leave_state, put_back, saved, site
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock
from tests.fluxedge.log.test_store import held

R, E = Lane.ROUNDS, Lane.EVENTS


@pytest.fixture
async def backup(open_log: OpenLog, tmp_path: Path) -> Path:
    """A backup of a gateway with 30 rounds, of which an uplink has had 10."""
    state = tmp_path / "state"
    state.mkdir()
    leave_state(state)
    log = open_log(state, segment_bytes=1000)
    log.begin_uplink("cloud", [R, E], "oldest")
    await fill(log, 30)
    log.cursors.settle("cloud", log.epoch, R, 1, 10)
    await log.save_cursors()
    saved(Wanted(site(tmp_path / "etc"), state), tmp_path / "b.tar")
    return tmp_path / "b.tar"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("fluxedge.log.database.machine_id", lambda: name)


async def test_on_another_machine_everything_is_there_and_a_new_epoch_begins(
    backup: Path, tmp_path: Path, open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, state = tmp_path / "new-etc", tmp_path / "new-state"
    assert put_back(backup, config, state) == []
    assert tree(config).keys() == tree(tmp_path / "etc").keys() - {"credentials/broker"}
    assert (state / "gateway-id").read_text() == "gw-1234\n"
    assert (state / "history" / "2026-05-29.db").is_file()
    epoch = checked(backup).manifest.epoch
    machine(monkeypatch, "another")
    clock.advance(60)
    log = open_log(state)
    assert log.new_epoch_because == "the log comes from another machine"
    assert log.epoch > epoch
    assert await held(log, epoch=epoch) == [(i + 1, i) for i in range(30)]
    assert len(await held(log, E, epoch=epoch)) == 30
    (old, ranges), *_ = log.cursors.of("cloud", R)
    assert (old, list(ranges)) == (epoch, [(11, 30)]), "what was not delivered still is to be"


async def test_on_the_same_machine_too_no_seq_is_used_twice(
    backup: Path, tmp_path: Path, open_log: OpenLog, clock: FakeClock
) -> None:
    """The disk is new, the machine's id is not, and nothing else tells that other seqs may have been sent since."""
    put_back(backup, tmp_path / "new-etc", tmp_path / "new-state")
    clock.advance(60)
    log = open_log(tmp_path / "new-state")
    assert log.new_epoch_because
    assert log.epoch > checked(backup).manifest.epoch


async def test_a_clock_that_was_never_set_does_not_repeat_an_epoch(
    backup: Path, tmp_path: Path, open_log: OpenLog, clock: FakeClock
) -> None:
    state = tmp_path / "state"
    clock.now_ns = 5 * 10**9  # 1970
    epoch = checked(backup).manifest.epoch
    database.write_witness(tmp_path / "x", state / "log.db", epoch + 7, {R: 99, E: 99})
    new = tmp_path / "new-state"
    new.mkdir()
    (tmp_path / "x").rename(new / "log.witness")
    put_back(backup, tmp_path / "new-etc", new)
    log = open_log(new)
    assert log.epoch == epoch + 8, "the witness of what was there knows a newer epoch"


async def test_what_was_there_steps_aside_whole(backup: Path, tmp_path: Path) -> None:
    config, state = tmp_path / "new-etc", tmp_path / "new-state"
    for name in ("fluxedge.toml", "drivers/mine.toml", "credentials/broker", "README"):
        (config / name).parent.mkdir(parents=True, exist_ok=True)
        (config / name).write_text(f"old {name}")
    for name in ("log.db", "log.db-wal", "log.broken", "history/2020-01-01.db", "gateway-id", "other"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text(f"old {name}")
    before = {"etc": tree(config), "state": tree(state)}
    kept = put_back(backup, config, state)
    assert sorted(folder.parent for folder in kept) == [config, state]
    aside = {folder.parent: tree(folder) for folder in kept}
    assert aside[config] == {k: v for k, v in before["etc"].items() if k in ("fluxedge.toml", "drivers/mine.toml")}
    assert aside[state] == {k: v for k, v in before["state"].items() if k != "other"}
    assert (config / "credentials" / "broker").read_text() == "old credentials/broker"
    assert (config / "README").read_text() == "old README", "what is not ours stays where it is"
    assert not (config / "drivers").exists()
    assert not (state / "log.db-wal").exists(), "an old WAL fits no new log"
    assert sorted(os.listdir(state / "history")) == ["2026-05-29.db", "seam"]
    assert not [name for name in os.listdir(state) if name.startswith("restoring-")]


async def test_a_backup_of_the_configuration_leaves_the_log_alone(backup: Path, tmp_path: Path) -> None:
    saved(Wanted(tmp_path / "etc", tmp_path / "state", log=False, history=False), tmp_path / "c.tar")
    state = tmp_path / "new-state"
    (state / "history").mkdir(parents=True)
    (state / "log.db").write_text("mine")
    put_back(tmp_path / "c.tar", tmp_path / "new-etc", state)
    assert (state / "log.db").read_text() == "mine"
    assert not (state / "log.witness").exists()
    assert (tmp_path / "new-etc" / "fluxedge.toml").is_file()


async def test_files_belong_to_whom_the_directory_belongs(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "new-state"
    state.mkdir(mode=0o750)
    given: set[tuple[Path, int, int]] = set()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.add((Path(path), uid, gid)))
    put_back(backup, tmp_path / "new-etc", state)
    assert {path.name for path, _, _ in given} >= {"log.db", "log.witness", "gateway-id", "history", "fluxedge.toml"}
    assert {(uid, gid) for _, uid, gid in given} == {(state.stat().st_uid, state.stat().st_gid)}
    assert (state / "log.db").stat().st_mode & 0o777 == 0o640


def changed(path: Path, change: dict[str, bytes | None], **manifest: object) -> bytes:
    """Return a backup as somebody who knows its format would have made it, with other parts."""
    found = checked(path)
    buffer = io.BytesIO()
    made = Archive(buffer)
    for name in {**dict.fromkeys(found.offsets), **dict.fromkeys(change)}:
        data = change[name] if name in change else b"".join(found.pieces(name))
        if data is not None:
            made.add(name, data)
    kept = msgspec.structs.replace(found.manifest, parts=list(made.parts.values()), **manifest)
    made.finish(kept)
    return buffer.getvalue()


def tables(path: Path, **changes: object) -> bytes:
    found = msgspec.msgpack.decode(checked(path).read(TABLES, 1 << 20), type=Tables)
    return msgspec.msgpack.encode(msgspec.structs.replace(found, **changes))


async def refused(data: bytes, tmp_path: Path) -> str:
    config, state = tmp_path / "new-etc", tmp_path / "new-state"
    state.mkdir()
    (state / "log.db").write_text("mine")
    found = check(io.BytesIO(data))
    with pytest.raises(BackupProblem) as problem:
        restoring.restore(found, restoring.plan(found, config, state))
    assert tree(state) == {"log.db": b"mine"}
    assert not config.exists() or tree(config) == {}
    return problem.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM gap; END", "ATTACH '/tmp/x' AS y", "DROP TABLE meta",
        "CREATE TABLE x AS SELECT zeroblob(1000000000) AS y", "CREATE VIEW v AS SELECT 1", "PRAGMA writable_schema = 1",
        "CREATE TABLE a (b); DROP TABLE meta", "VACUUM INTO '/tmp/x'", "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)  # fmt: skip
async def test_hostile_statements_are_refused_before_anything_is_touched(
    backup: Path, tmp_path: Path, sql: str
) -> None:
    create = msgspec.msgpack.decode(checked(backup).read(TABLES, 1 << 20), type=Tables).create
    message = await refused(changed(backup, {TABLES: tables(backup, create=[*create, sql])}), tmp_path)
    assert "its log cannot be rebuilt" in message


@pytest.mark.parametrize(
    "page",
    [
        Page('meta" VALUES (1,2); --', [[1, 2]]), Page("sqlite_master", [["table", "x", "x", 0, ""]]),
        Page("meta", [[1, 2, 3]]), Page("meta", [["k", {"a": 1}]]), Page("nowhere", [[1]]),
    ],
)  # fmt: skip
async def test_hostile_pages_are_refused_before_anything_is_touched(backup: Path, tmp_path: Path, page: Page) -> None:
    await refused(changed(backup, {"log/table/zzz/000001.mp": msgspec.msgpack.encode(page)}), tmp_path)


async def test_pages_that_are_missing_or_nonsense_are_refused(backup: Path, tmp_path: Path) -> None:
    message = await refused(changed(backup, {"log/table/meta/000001.mp": b"\xc1"}), tmp_path)
    assert "its log cannot be rebuilt" in message


async def test_a_log_that_ends_elsewhere_than_its_manifest_is_refused(backup: Path, tmp_path: Path) -> None:
    message = await refused(changed(backup, {}, heads={"rounds": 31, "events": 30}), tmp_path)
    assert "its manifest says" in message


async def test_a_history_part_with_another_name_is_refused(backup: Path, tmp_path: Path) -> None:
    assert "is no history file" in await refused(changed(backup, {"history/evil.so": b"x"}), tmp_path)


@pytest.mark.parametrize(
    "name", ["state/log.db", "state/log.witness", "state/history/2026-05-29.db", "state/log.db-wal"]
)
async def test_a_file_of_the_log_beside_its_pages_is_refused(backup: Path, tmp_path: Path, name: str) -> None:
    """What is in it, triggers for instance, would be in the new log."""
    connection = sqlite3.connect(tmp_path / "hostile.db")
    connection.executescript("CREATE TABLE x (y); CREATE TRIGGER t AFTER INSERT ON x BEGIN DELETE FROM x; END;")
    connection.close()
    data = (tmp_path / "hostile.db").read_bytes()
    assert "which no backup does" in await refused(changed(backup, {name: data}), tmp_path)


async def test_a_disk_that_is_full_is_not_blamed_on_the_backup(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(sqlite3.Connection):
        def set_authorizer(self, *args: object) -> None:
            self.execute("PRAGMA max_page_count = 10")
            super().set_authorizer(*args)  # type: ignore[arg-type]

    connect = sqlite3.connect
    monkeypatch.setattr(restoring.sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Full))
    (tmp_path / "new-state").mkdir()
    (tmp_path / "new-state" / "log.db").write_text("mine")
    with pytest.raises(OSError, match="No space left on device"):
        put_back(backup, tmp_path / "new-etc", tmp_path / "new-state")
    assert tree(tmp_path / "new-state") == {"log.db": b"mine"}


async def test_a_newer_schema_is_refused_in_clear_words(backup: Path) -> None:
    manifest = msgspec.structs.replace(checked(backup).manifest, schema=99, fluxedge="9.9")
    with pytest.raises(BackupProblem, match="its log has schema 99, this version of fluxedge knows") as found:
        restoring.judge(manifest)
    assert "fluxedge 9.9" in found.value.hint
    restoring.judge(checked(backup).manifest)


async def test_a_renaming_that_fails_takes_everything_back(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, state = tmp_path / "new-etc", tmp_path / "new-state"
    state.mkdir()
    for name in ("log.db", "gateway-id"):
        (state / name).write_text("mine")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == state / "gateway-id" and self.parent.name.startswith("restoring-"):
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        put_back(backup, config, state)
    assert tree(state) == {"log.db": b"mine", "gateway-id": b"mine"}
    assert tree(config) == {}


def test_a_running_gateway_keeps_its_directory(tmp_path: Path) -> None:
    with (
        restoring.lock(tmp_path),
        pytest.raises(LinkProblem, match="another fluxedge is using"),
        restoring.lock(tmp_path),
    ):
        pass
    with restoring.lock(tmp_path):
        pass


async def test_too_little_room_is_told_before_anything_is_written(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5})())
    with pytest.raises(BackupProblem, match="has room for 0 MiB"):
        restoring.room_for(checked(backup), tmp_path / "new" / "state")


async def test_a_restored_log_is_a_sound_database(backup: Path, tmp_path: Path) -> None:
    put_back(backup, tmp_path / "new-etc", tmp_path / "new-state")
    connection = sqlite3.connect(tmp_path / "new-state" / "log.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA page_size").fetchone() == (database.PAGE_BYTES,)
    connection.close()
