"""The daemon as a process of its own: start, ask over its socket, reload, kill."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import typing
from pathlib import Path

from tests.system.arrivals import wait_until


class Daemon:
    """`fluxedge run` on a configuration and a state directory below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.config, self.state = folder / "etc", folder / "state"
        self._out = folder / "daemon.log"
        for name in ("devices", "drivers", "credentials"):
            (self.config / name).mkdir(parents=True, exist_ok=True)
        self.environment: dict[str, str] = {}  # beside that of the tests
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        """Write a configuration file as an editor does: whole, then in its place."""
        path = self.config / name
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o640)
        fresh.rename(path)

    def spawn(self) -> subprocess.Popen[bytes]:
        assert self.process is None
        command = [sys.executable, "-m", "fluxedge.cli.main", "run", "--config", self.config, "--state", self.state]
        with self._out.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **self.environment})
        return self.process

    def start(self) -> None:
        """Start, and wait until it answers."""
        process = self.spawn()
        wait_until(lambda: process.poll() is not None or self._answers(), 20, "the daemon answers")
        assert process.poll() is None, self.log()[-3000:]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        return self._end(signal.SIGTERM)

    def close(self) -> None:
        if self.process is not None:
            self.kill()

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def log(self) -> str:
        return self._out.read_text()

    def ask(self, path: str, body: object = None) -> typing.Any:
        """GET, or POST a body; return the answer's JSON."""
        connection = http.client.HTTPConnection("localhost", timeout=20)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.state / "api.sock"))
            data = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", f"/api/v1/{path}", body=data)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def devices(self) -> dict[str, str]:
        """Return device -> state."""
        return {device["id"]: device["state"] for device in self.ask("devices")}

    def problems(self) -> dict[str, str]:
        """Return item -> code."""
        return {problem["item"]: problem["code"] for problem in self.ask("problems")}

    def value(self, point: str) -> object:
        return self.ask(f"points/{point}").get("value")

    def _answers(self) -> bool:
        try:
            return bool(self.ask("version"))
        except OSError:
            return False

    def _end(self, number: int) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        begun_s = time.monotonic()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        assert time.monotonic() - begun_s < 15
        return code
