"""Making backups: what goes in, what stays out, and what happens when something moves or cannot be read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from fluxedge.log.backup import saving as backup
from fluxedge.log.backup.archive import BackupProblem
from fluxedge.log.backup.saving import Wanted
from fluxedge.model import Lane
from tests.fluxedge.log.backup.backups import checked, day, fill, leave_state, saved, site
from tests.fluxedge.log.conftest import OpenLog


@pytest.fixture
async def wanted(open_log: OpenLog, tmp_path: Path) -> Wanted:
    """A gateway that runs, with something in each place."""
    state = tmp_path / "state"
    state.mkdir()
    leave_state(state)
    await fill(open_log(state), 5)
    return Wanted(site(tmp_path / "etc"), state)


def names(path: Path) -> set[str]:
    return {name for name in checked(path).offsets if not name.startswith("log/")}


ALWAYS = {
    "config/fluxedge.toml", "config/devices/一号.toml", "config/devices/" + "deep/" * 30 + "note.toml",
    "state/gateway-id", "state/last-good/config.json", "state/site/devices/x.toml",
}  # fmt: skip


def test_everything_that_a_gateway_is_goes_in(wanted: Wanted, tmp_path: Path) -> None:
    made = saved(wanted, tmp_path / "b.tar")
    assert names(tmp_path / "b.tar") == ALWAYS | {"history/seam", "history/2026-05-29.db"}
    assert (made.gateway, made.heads, made.schema, made.left_out) == ("gw-1234", {"rounds": 5, "events": 5}, 2, [])
    found = checked(tmp_path / "b.tar")
    assert found.manifest == made
    assert b"".join(found.pieces("config/devices/一号.toml")) == b"# hall\n"


def test_credentials_go_in_only_when_they_are_asked_for(wanted: Wanted, tmp_path: Path) -> None:
    saved(wanted, tmp_path / "b.tar")
    assert b"hunter2" not in (tmp_path / "b.tar").read_bytes()
    saved(Wanted(wanted.config_dir, wanted.state_dir, credentials=True), tmp_path / "c.tar")
    assert names(tmp_path / "c.tar") - names(tmp_path / "b.tar") == {"config/credentials/broker"}


def test_log_and_history_can_be_left_out(wanted: Wanted, tmp_path: Path) -> None:
    made = saved(Wanted(wanted.config_dir, wanted.state_dir, log=False, history=False), tmp_path / "b.tar")
    assert names(tmp_path / "b.tar") == ALWAYS
    assert checked(tmp_path / "b.tar").names("log") == []
    assert (made.log, made.schema, made.heads) == (False, 0, {})


def test_without_a_log_there_the_remedy_is_named(wanted: Wanted, tmp_path: Path) -> None:
    with pytest.raises(BackupProblem) as found:
        saved(Wanted(wanted.config_dir, tmp_path / "nowhere"), tmp_path / "b.tar")
    assert "--no-log" in found.value.hint
    saved(Wanted(wanted.config_dir, tmp_path / "nowhere", log=False), tmp_path / "b.tar")


def test_what_is_no_file_is_left_out_and_said(wanted: Wanted, tmp_path: Path) -> None:
    config = wanted.config_dir
    os.mkfifo(config / "pipe")
    (config / "folder").symlink_to(tmp_path)
    (config / "nowhere.toml").symlink_to(tmp_path / "nowhere")
    (config / "shared.toml").symlink_to(config / "fluxedge.toml")
    (config / os.fsdecode(b"\xff.toml")).write_text("x")
    (config / "before-restore-20260101T000000Z").mkdir()
    (config / "before-restore-20260101T000000Z" / "old.toml").write_text("old")
    made = saved(wanted, tmp_path / "b.tar")
    assert sorted(made.left_out) == ["config/\\xff.toml", "config/folder", "config/nowhere.toml", "config/pipe"]
    assert names(tmp_path / "b.tar") == ALWAYS | {"history/seam", "history/2026-05-29.db", "config/shared.toml"}


def test_a_backup_does_not_hold_itself(wanted: Wanted) -> None:
    made = saved(wanted, wanted.config_dir / "b.tar")
    assert made.left_out == ["config/b.tar"]


def test_a_file_that_is_no_configuration_is_refused(wanted: Wanted, tmp_path: Path) -> None:
    with (wanted.config_dir / "image.iso").open("wb") as file:
        file.truncate(backup.MOST_FILE_BYTES + 1)
    with pytest.raises(BackupProblem, match=r"image\.iso has 67108865 bytes"):
        saved(wanted, tmp_path / "b.tar")


def test_a_history_file_that_changes_meanwhile_is_copied_once_more(
    wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wanted.state_dir / "history" / "2026-05-29.db"
    looks: list[object] = []
    real = backup._state_of

    def look(file: Path) -> object:
        if len(looks) == 1:  # it was copied, and is looked at again
            day(path, 4)
        looks.append(real(file))
        return looks[-1]

    monkeypatch.setattr(backup, "_state_of", look)
    monkeypatch.setattr(backup, "AGAIN_S", 0.0)
    saved(wanted, tmp_path / "b.tar")
    assert len(looks) == 4
    (tmp_path / "day.db").write_bytes(b"".join(checked(tmp_path / "b.tar").pieces("history/2026-05-29.db")))
    connection = sqlite3.connect(tmp_path / "day.db")
    assert connection.execute("SELECT a FROM t").fetchall() == [(4,)]
    connection.close()


def test_a_history_file_that_retention_takes_meanwhile_is_passed(
    wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wanted.state_dir / "history" / "2026-05-29.db"

    def gone(file: Path) -> object:
        path.unlink(missing_ok=True)
        raise FileNotFoundError(2, "gone", str(file))

    monkeypatch.setattr(backup, "_state_of", gone)
    saved(wanted, tmp_path / "b.tar")
    assert names(tmp_path / "b.tar") == ALWAYS | {"history/seam"}


async def test_a_gateway_goes_on_while_it_is_saved(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 200)
    (tmp_path / "etc").mkdir()
    wanted = Wanted(tmp_path / "etc", tmp_path)
    saving = asyncio.create_task(asyncio.to_thread(saved, wanted, tmp_path / "b.tar"))
    while not saving.done():
        await fill(log, 1)
    made = await saving
    assert made.heads["rounds"] >= 200
    assert log.heads[Lane.ROUNDS] >= made.heads["rounds"]
