"""`fluxedge run` as a process of its own: what it says, what it survives, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fluxedge.cli.online import Daemon, Trouble
from tests.conftest import free_port
from tests.fluxedge.cli.sites import Folder

TANK = 'name = "Tank"\nprotocol = "simulator"\nsource = "none"\n[points]\nlevel = { wave = "constant", from = 5.0 }\n'
METER = 'name = "Meter"\nprotocol = "modbus"\nsource = "none"\n[points]\nlevel = { at = "ir:7", type = "uint16" }\n'


class Run:
    """A `fluxedge run` whose limit of open files is set by a shell."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.api = Daemon(folder.state / "api.sock")
        self.process: asyncio.subprocess.Process | None = None
        self._said = folder.etc.parent / "said"

    async def start(self, limit: str = "") -> asyncio.subprocess.Process:
        words = [sys.executable, "-m", "fluxedge.cli.main", "run", *self.folder.options]
        shell = f'{limit}\nexec "$@"'
        with self._said.open("wb") as said:
            self.process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", shell, "sh", *words, stdout=said, stderr=said, env=dict(os.environ)
            )
        return self.process

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for something that the gateway answers."""
        assert self.process is not None
        async with asyncio.timeout(30):
            while self.process.returncode is None:
                with contextlib.suppress(Trouble):
                    if await asyncio.to_thread(holds):
                        return
                await asyncio.sleep(0.05)
        pytest.fail(f"it ended: {self.said()}")

    async def answers(self) -> None:
        await self.until(lambda: self.api.get("/version"))

    async def end(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def problems(self) -> dict[str, str]:
        return {problem["item"]: problem["code"] for problem in self.api.get("/problems")}

    def said(self) -> str:
        return self._said.read_text()


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:  # type: ignore[misc]
    made = Run(Folder(tmp_path))
    made.folder.write("fluxedge.toml", '[gateway]\nid = "gw"\n')
    made.folder.write("drivers/tank.toml", TANK)
    made.folder.write("devices/tank.toml", '[devices.tank]\ndriver = "tank"\n')
    yield made
    if made.process is not None and made.process.returncode is None:
        made.process.kill()
        await made.process.wait()


async def test_it_says_what_runs_and_ends_with_0_on_sigterm(run: Run) -> None:
    await run.start()
    await run.answers()
    await run.until(lambda: " runs: " in run.said())
    assert await run.end() == 0
    (line,) = run.said().splitlines()
    assert " INFO " in line
    assert "gateway gw runs: fluxedge" in line
    assert f"state {run.folder.state}, socket {run.folder.state}/api.sock" in line


async def test_an_empty_directory_is_not_taken_for_a_working_site(run: Run) -> None:
    for name in ("fluxedge.toml", "devices/tank.toml", "drivers/tank.toml"):
        (run.folder.etc / name).unlink()
    await run.start()
    await run.until(lambda: "no device is configured: nothing is read" in run.said())
    assert await run.end() == 0


@pytest.mark.parametrize("state", ["/proc/nope", "{file}", "{file}/below"])
async def test_an_unusable_state_directory_ends_with_1_and_words(run: Run, state: str) -> None:
    file = run.folder.etc.parent / "file"
    file.write_text("")
    run.folder.state = Path(state.format(file=file))
    process = await run.start()
    async with asyncio.timeout(30):
        assert await process.wait() == 1
    first, hint = run.said().splitlines()
    assert first.startswith(f"log-write-failed: the state directory cannot be used: {run.folder.state}: ")
    assert "--state" in hint


async def test_it_takes_all_open_files_that_the_system_permits(run: Run) -> None:
    process = await run.start("ulimit -Sn 300 && ulimit -Hn 700")
    await run.answers()
    limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["700", "700"]
    assert await run.end() == 0


async def test_clients_that_only_connect_cannot_take_the_gateways_files(run: Run) -> None:
    port = free_port()
    run.folder.write("fluxedge.toml", f'[gateway]\nid = "gw"\n[api]\nlisten = "127.0.0.1:{port}"\n')
    process = await run.start("ulimit -n 120")
    await run.answers()
    with contextlib.ExitStack() as idle:
        for _ in range(200):
            client = idle.enter_context(socket.socket())
            client.connect(("127.0.0.1", port))
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
        run.folder.write("devices/more.toml", '[devices.more]\ndriver = "tank"\n')
        await run.until(lambda: {device["id"] for device in run.api.get("/devices")} == {"tank", "more"})
        assert await asyncio.to_thread(run.problems) == {"gateway": "file-limit"}
        assert await run.end() == 0


async def test_more_devices_than_open_files_cost_devices_and_not_the_gateway(run: Run) -> None:
    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(hold, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    run.folder.write("drivers/meter.toml", METER)
    for number in range(1, 101):
        text = f'[devices.m{number}]\ndriver = "meter"\nchannel = "tcp://127.0.2.{number}:{port}"\n'
        run.folder.write(f"devices/m{number}.toml", text)
    try:
        await run.start("ulimit -n 80")
        # With all descriptors taken the socket takes nobody in: what it says is looked at.
        await run.until(lambda: "config: config-unwatched: files are not watched: " in run.said())
        await run.until(lambda: "gateway: file-limit: 100 channels and 0 uplinks want 356" in run.said())
        assert run.process is not None
        run.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(1)
        assert run.process.returncode is None, run.said()
        assert await run.end() == 0
    finally:
        server.close()
        for writer in held:
            writer.close()
        await server.wait_closed()
    assert "CRITICAL" not in run.said()
