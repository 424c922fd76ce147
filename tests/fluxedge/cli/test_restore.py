"""`fluxedge restore`: elsewhere, over something, and of what is no backup."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from fluxedge.config.structs import UplinkCfg
from fluxedge.log.query import Query, query
from fluxedge.model import Lane
from tests.conftest import free_port
from tests.fluxedge.api.running import config as gateway_config
from tests.fluxedge.api.running import running
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.log.backup.backups import checked, site

R = Lane.ROUNDS


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """Save a gateway under load: it reads, commits and cannot deliver meanwhile."""
    state, file = tmp_path / "state", tmp_path / "b.tar"
    state.mkdir()
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(state, gateway_config(uplinks=uplinks)) as run:
        await run.until(lambda: run.gateway.log.heads[R] >= 20)
        run.gateway.log.cursors.settle("cloud", run.gateway.log.epoch, R, 1, 7)
        await run.until(lambda: not run.gateway.log.cursors.dirty)
        words = ("--config", str(site(tmp_path / "etc")), "--state", str(state))
        assert (await verb("backup", str(file), *words)).exit_code == 0
    return file


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def restored(file: Path, tmp_path: Path, *words: str, answer: str = "") -> Result:
    where = ("--config", str(tmp_path / "new-etc"), "--state", str(tmp_path / "new-state"))
    return await asyncio.to_thread(
        lambda: CliRunner().invoke(main, ["restore", str(file), *where, *words], input=answer)
    )


async def test_on_another_machine_every_record_is_there_and_the_cursors_are_right(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await restored(backup, tmp_path, "--yes")
    assert found.exit_code == 0
    assert "Restored gateway gw-test." in found.stdout
    manifest = checked(backup).manifest
    monkeypatch.setattr("fluxedge.log.database.machine_id", lambda: "another")
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path / "new-state", gateway_config(uplinks=uplinks)) as run:
        log = run.gateway.log
        assert log.epoch > manifest.epoch
        assert run.gateway.problems.stands("log", "log-replaced")
        asked = Query(R, epoch=manifest.epoch)
        seqs = [record.seq async for record in query(log.path, asked)]
        assert seqs == list(range(1, manifest.heads["rounds"] + 1))
        ranges = {epoch: list(ranges) for epoch, ranges in log.cursors.of("cloud", R)}
        assert ranges[manifest.epoch] == [(8, manifest.heads["rounds"])]
        assert ranges[log.epoch][0][0] == 1


async def test_it_shows_what_it_replaces_and_asks(backup: Path, tmp_path: Path) -> None:
    state = tmp_path / "new-state"
    state.mkdir()
    (state / "log.db").write_text("mine")
    found = await restored(backup, tmp_path, answer="n\n")
    assert found.exit_code == 1
    lines = found.stderr.splitlines()
    assert lines[0].startswith("gateway gw-test, saved ")
    assert f"steps aside  {state}/log.db" in lines
    assert f"new          {tmp_path}/new-etc/fluxedge.toml" in lines
    assert found.stderr.endswith("Nothing was changed.\n")
    assert (state / "log.db").read_text() == "mine"
    found = await restored(backup, tmp_path, "--json", answer="y\n")
    (kept,) = json.loads(found.stdout[found.stdout.index("{") :])["kept"]
    assert (Path(kept) / "log.db").read_text() == "mine"


async def test_a_gateway_that_runs_there_is_not_disturbed(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new-state").mkdir()
    async with running(tmp_path / "new-state") as run:
        await run.first_round()
        found = await restored(backup, tmp_path, "--yes")
        assert (found.exit_code, "another fluxedge is using" in found.stderr) == (1, True)
        head = run.gateway.log.heads[R]
        await run.until(lambda: run.gateway.log.heads[R] > head)


def spoil(file: Path, damage: str) -> None:
    """Make a backup unusable."""
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 3] ^= 4
    elif damage == "other":
        data = bytearray(b"PK\3\4" * 5000)
    file.write_bytes(data)
    if damage == "missing":
        file.unlink()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other", "missing"])
async def test_a_file_that_cannot_be_used_changes_nothing(backup: Path, tmp_path: Path, damage: str) -> None:
    spoil(backup, damage)
    (tmp_path / "new-state").mkdir()
    (tmp_path / "new-state" / "log.db").write_text("mine")
    found = await restored(backup, tmp_path, "--yes")
    assert found.exit_code == 1
    assert found.stderr.startswith(f"{backup}: ")
    assert "Nothing was changed." in found.stderr
    assert tree(tmp_path / "new-state") == {"log.db": b"mine"}
    assert not (tmp_path / "new-etc").exists()


async def test_one_directory_cannot_be_both(backup: Path, tmp_path: Path) -> None:
    found = await verb("restore", str(backup), "--config", str(tmp_path), "--state", str(tmp_path), "--yes")
    assert (found.exit_code, "cannot be both" in found.stderr) == (1, True)


async def test_a_medium_that_is_read_only_is_told(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    found = await restored(backup, tmp_path, "--yes")
    assert (found.exit_code, found.stderr.splitlines()[0].endswith("Read-only file system")) == (1, True)
