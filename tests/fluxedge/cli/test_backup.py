"""`fluxedge backup`: of a gateway that runs, of one that does not, and what it says."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fluxedge.log.backup.archive import Archive
from fluxedge.model import Lane
from tests.fluxedge.api.running import Running, running
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.log.backup.backups import checked, site


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return site(tmp_path / "etc")


async def test_a_gateway_that_runs_is_saved(run: Running, tmp_path: Path, config: Path) -> None:
    head = run.gateway.log.heads[Lane.ROUNDS]
    file = tmp_path / "b.tar"
    found = await verb("backup", str(file), "--config", str(config), "--state", str(tmp_path))
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines()[0].startswith(f"{file}: ")
    assert "gateway gw-test" in found.stdout
    assert "Credentials are not in it" in found.stdout
    manifest = checked(file).manifest
    assert manifest.heads["rounds"] >= head
    assert (manifest.gateway, manifest.epoch) == ("gw-test", run.gateway.log.epoch)
    assert file.stat().st_mode & 0o777 == 0o600
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] > manifest.heads["rounds"])


async def test_one_that_does_not_run_is_saved_and_not_changed(tmp_path: Path, config: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    async with running(state) as run:
        await run.first_round()
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.is_file()}
    words = ("--config", str(config), "--state", str(state), "--json")
    found = await verb("backup", str(tmp_path / "b.tar"), *words)
    told = json.loads(found.stdout)
    assert told["bytes"] == (tmp_path / "b.tar").stat().st_size
    assert told["heads"] == checked(tmp_path / "b.tar").manifest.heads
    assert told["left_out"] == []
    after = {path.name: path.read_bytes() for path in state.iterdir() if path.name in before}
    assert after == before


async def test_what_is_missing_is_said_with_its_remedy(tmp_path: Path, config: Path) -> None:
    file = str(tmp_path / "b.tar")
    found = await verb("backup", file, "--config", str(tmp_path / "no"), "--state", str(tmp_path))
    assert (found.exit_code, "--config DIR" in found.stderr) == (1, True)
    found = await verb("backup", file, "--config", str(config), "--state", str(tmp_path / "no"))
    assert (found.exit_code, "--no-log" in found.stderr) == (1, True)
    (tmp_path / "log.db").write_bytes(b"no log" * 1000)
    found = await verb("backup", file, "--config", str(config), "--state", str(tmp_path))
    assert (found.exit_code, "--no-log" in found.stderr) == (1, True)
    assert "b.tar" not in os.listdir(tmp_path)
    found = await verb("backup", file, "--config", str(config), "--state", str(tmp_path), "--no-log")
    assert found.exit_code == 0
    assert "log      left out" in found.stdout


async def test_a_disk_that_is_full_leaves_no_part_of_it(
    run: Running, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Archive.write

    def write(self: Archive, data: bytes) -> int:
        if self.bytes_total > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Archive, "write", write)
    target = tmp_path / "disk"
    target.mkdir()
    file = target / "b.tar"
    found = await verb("backup", str(file), "--config", str(config), "--state", str(tmp_path))
    assert found.exit_code == 1
    assert found.stderr.splitlines() == [
        f"{file}: No space left on device", "Nothing was left behind. Name a file on a disk with more room.",
    ]  # fmt: skip
    assert os.listdir(target) == []


async def test_what_is_no_file_is_told(run: Running, tmp_path: Path, config: Path) -> None:
    os.mkfifo(config / "pipe")
    found = await verb("backup", str(tmp_path / "b.tar"), "--config", str(config), "--state", str(tmp_path))
    assert "config/pipe" in found.stderr


async def test_the_real_verb_saves_a_gateway_of_another_process_without_holding_it_up(
    run: Running, tmp_path: Path, config: Path
) -> None:
    """A process of its own reads the files of this one: nothing is locked, nothing waits."""
    file = tmp_path / "b.tar"
    words = ["backup", str(file), "--config", str(config), "--state", str(tmp_path)]
    program = [sys.executable, "-m", "fluxedge.cli.main", *words]
    ended = await asyncio.to_thread(
        lambda: subprocess.run(program, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()})
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    failures = run.gateway.pipeline.commit_failures_total
    assert (failures, checked(file).manifest.heads["rounds"] > 0) == (0, True)
