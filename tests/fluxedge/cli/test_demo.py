"""The demo's folder, its command line and its words when it cannot run. tests/system/test_demo.py runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from fluxedge.cli import demo
from fluxedge.cli.main import main
from tests.fluxedge.cli.sites import process


def test_a_folder_gets_a_short_name_that_nobody_has(tmp_path: Path) -> None:
    first, second = demo.new_folder(tmp_path), demo.new_folder(tmp_path)
    assert [first.name, second.name] == ["fluxedge-demo", "fluxedge-demo-2"]
    assert first.stat().st_mode & 0o777 == 0o700


def test_a_link_that_somebody_laid_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "fluxedge-demo").symlink_to(tmp_path / "elsewhere")
    assert demo.new_folder(tmp_path).name == "fluxedge-demo-2"


def test_the_printed_command_works_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert Path(demo.fluxedge_command().split()[0]).is_absolute()


@pytest.mark.parametrize(
    ("words", "says"), [("soon", "is not a duration"), ("0", "at least 1 s"), ("500ms", "at least 1 s")]
)
def test_a_duration_that_is_none_is_wrong_usage(words: str, says: str) -> None:
    result = CliRunner().invoke(main, ["demo", "--duration", words])
    assert result.exit_code == 2
    assert says in result.stderr


async def test_a_port_that_is_taken_ends_the_demo_in_words(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        child = await process("demo", "--port", str(port), "--duration", "5", TMPDIR=str(tmp_path))
        async with asyncio.timeout(60):
            out, errors = await child.communicate()
    assert child.returncode == 1, out
    assert f"port {port} of 127.0.0.1 is taken" in errors.decode()
    assert "Traceback" not in errors.decode()
