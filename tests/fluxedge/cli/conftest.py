"""A running gateway, and verbs that are run beside it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from tests.fluxedge.api.running import Running, running


@pytest.fixture(autouse=True)
def _no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verb may find a gateway of this machine."""
    for name in ("FLUXEDGE_SOCKET", "FLUXEDGE_STATE", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:  # type: ignore[misc]
    """Two simulated boilers, read and committed once."""
    async with running(tmp_path) as found:
        await found.first_round()
        yield found


async def verb(*words: str) -> Result:
    """Run a verb in a thread: the gateway goes on meanwhile."""
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, list(words)))


@pytest.fixture
def say(run: Running) -> Callable[..., object]:
    """Run a verb against the running gateway."""

    async def invoke(*words: str) -> Result:
        return await verb(words[0], "--socket", str(run.socket), *words[1:])

    return invoke


async def process(run: Running, *words: str, stdout: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    """Start a verb as a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fluxedge.cli.main", words[0], "--socket", str(run.socket), *words[1:],
        stdout=stdout, stderr=asyncio.subprocess.PIPE, env={**inherited, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
