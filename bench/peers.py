"""The peers of a measured program, on another processor: the Modbus responder and a real Mosquitto."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.workloads import Workload

HERE = Path(__file__).resolve().parent


class Missing(Exception):
    """Something that the bench needs is not installed."""


def build_responder(out: Path) -> Path:
    """Compile the responder when its source is newer than the program."""
    source, program = HERE / "responder.c", out / "responder"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Missing("no C compiler: install gcc")
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, source, "-lm"], check=True)
    return program


@contextlib.contextmanager
def responder(program: Path, workload: Workload, processor: int) -> Iterator[int]:
    """Serve a workload's devices; yields the port."""
    words = [str(program), str(workload.devices), str(workload.floats), str(workload.ints)]
    with _child(words, processor, subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def mosquitto(out: Path, processor: int) -> Iterator[int]:
    """Run a Mosquitto as its packages ship it, without access control; yields the port."""
    program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if program is None:
        raise Missing("no Mosquitto: install mosquitto")
    port = _free_port()
    settings = out / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with _child([program, "-c", str(settings)], processor, subprocess.DEVNULL):
        _wait_for(port)
        yield port


@contextlib.contextmanager
def _child(words: list[str], processor: int, output: int) -> Iterator[subprocess.Popen[bytes]]:
    pin = {processor}
    process = subprocess.Popen(
        words, stdout=output, stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, pin)
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Missing(f"nothing listens on port {port}")
