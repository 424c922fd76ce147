"""Fixtures for all tests: nothing may survive a test; real brokers and peers on free ports."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).resolve().parent


def check_package(path: Sequence[str]) -> None:
    """Refuse to run when `tests`, from which test modules import, is not this folder."""
    if [Path(place).resolve() for place in path] != [HERE]:
        raise pytest.UsageError(
            f"`import tests` finds {', '.join(path)}, not {HERE}: another package has that name (gmqtt installs one). "
            f"Run pytest in {HERE.parent}, whose pyproject.toml puts this folder first."
        )


def pytest_configure() -> None:
    """Check what `from tests.conftest import …` means here."""
    check_package(list(importlib.import_module("tests").__path__))


KEPT_THREADS = ("MainThread", "pytest_timeout", "asyncio_")  # asyncio_N: the loop's default executor (name look-ups)


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if not t.name.startswith(KEPT_THREADS)}


def _sockets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def _nothing_survives() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or a socket behind (tasks: `_no_task_survives`)."""
    before = _threads(), _children(), _sockets()
    yield
    left: list[object] = []
    for attempt in range(40):  # a closing thread or socket may need a moment
        if attempt:
            gc.collect()
        left = [now - then for now, then in zip((_threads(), _children(), _sockets()), before, strict=True)]
        if not any(left):
            return
        time.sleep(0.05)
    pytest.fail(f"left behind: threads {left[0]}, children {left[1]}, sockets {left[2]}")


@pytest.fixture(autouse=True)
async def _no_task_survives() -> Iterator[None]:  # type: ignore[misc]
    """Fail a test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = [t for t in asyncio.all_tasks() - before if not t.done() and t is not asyncio.current_task()]
    if left:
        names = [f"{t.get_name()}: {t.get_coro()}" for t in left]
        for task in left:
            task.cancel()
        pytest.fail(f"left behind: tasks {names}")


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, timeout_s: float = 10.0) -> None:
    """Return when something listens on the port."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            sock.settimeout(0.2)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {port}")


class Mosquitto:
    """A real Mosquitto that can be stopped, killed, frozen and started again on the same port."""

    def __init__(self, directory: Path, lines: tuple[str, ...] = (), *, port: int = 0, tls: bool = False) -> None:
        self.port = port or free_port()
        self._binary = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
        if self._binary is None:
            pytest.fail("mosquitto is not installed; `make test` installs it")
        self._conf = directory / f"mosquitto-{self.port}.conf"
        common = (
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 0",
            "max_inflight_messages 0",
            "persistence false",
        )
        anonymous = () if any("password_file" in line for line in lines) else ("allow_anonymous true",)
        self._conf.write_text("\n".join((*common, *anonymous, *lines)) + "\n")
        self._log = (directory / f"mosquitto-{self.port}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        # it ends with this process, however that ends; setpriv becomes it, the pid is its own
        ties = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*ties, self._binary, "-c", self._conf]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_for_port(self.port)
        return self

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._log.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running Mosquitto without access control."""
    mosquitto = Mosquitto(tmp_path).start()
    yield mosquitto
    mosquitto.close()


# --- skips ------------------------------------------------------------------------------------------------------------

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
_unlisted: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect skips whose reason is not in the written list."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    allowed = [line for line in ALLOWED_SKIPS.read_text().splitlines() if line and not line.startswith("#")]
    if not any(line in reason for line in allowed):
        _unlisted.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip for a reason that nobody wrote down is a failure."""
    if _unlisted and not hasattr(session.config, "workerinput"):
        print("\nskipped for a reason that is not in tests/allowed_skips.txt:\n  " + "\n  ".join(_unlisted))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
