"""Children of the demo: asked to end, ended when they do not, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from fluxedge.cli import demo_child
from fluxedge.cli.demo_child import Child, ChildDied
from tests.fluxedge.cli.sites import until

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
PARENT = """
import pathlib, sys, time
from fluxedge.cli.demo_child import Child
child = Child("sleeper", ("sleep", "60"), pathlib.Path(sys.argv[1]))
print(child._process.pid, flush=True)
time.sleep(60)
"""


def child(tmp_path: Path, code: str) -> Child:
    return Child("gateway", (sys.executable, "-c", code), tmp_path / "log")


async def ended(found: Child) -> ChildDied:
    seen: list[ChildDied] = []

    def look() -> bool:
        try:
            found.check()
        except ChildDied as exc:
            seen.append(exc)
        return bool(seen)

    await until(look)
    return seen[0]


async def test_a_child_that_dies_is_told_with_the_end_of_its_output(tmp_path: Path) -> None:
    exc = await ended(child(tmp_path, "print('x' * 10); raise SystemExit(7)"))
    assert str(exc) == "The gateway ended by itself (exit code 7).\n  xxxxxxxxxx"


async def test_a_child_that_is_killed_is_told_with_the_signal(tmp_path: Path) -> None:
    exc = await ended(child(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert "signal SIGKILL" in str(exc)


async def test_a_running_child_is_asked_to_end(tmp_path: Path) -> None:
    found = child(tmp_path, "import time; time.sleep(60)")
    found.check()
    begun_s = time.monotonic()
    await found.stop()
    assert time.monotonic() - begun_s < 5
    await found.stop()  # harmless


async def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_child, "STOP_S", 0.2)
    found = child(tmp_path, STUBBORN)
    await until(lambda: "ready" in found.tail())
    await found.stop()
    with pytest.raises(ChildDied, match="SIGKILL"):
        found.check()


async def test_a_port_that_nobody_opens_is_told(tmp_path: Path) -> None:
    found = child(tmp_path, "import time; print('starting', flush=True); time.sleep(60)")
    with pytest.raises(ChildDied, match="does not listen on port"):
        await demo_child.wait_for_port(found, demo_child.free_port(), timeout_s=0.3)
    await found.stop()


async def test_children_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "log"),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        pid = int(await parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
