"""The demo runs for real, with either broker, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DEMO = (sys.executable, "-m", "fluxedge.cli.main", "demo")


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path)}


def started(tmp_path: Path) -> list[psutil.Process]:
    """Return the processes that work in the demo's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(tmp_path) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def numbers(text: str) -> dict[str, int]:
    """Return the summary's numbers."""
    rows = re.findall(r"^  ([a-z ]+?)  +([\d,]+)\b", text[text.rindex("fluxedge demo, ") :], re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in rows}


@pytest.mark.system
@pytest.mark.parametrize(("broker", "duration"), [("mosquitto", "8"), ("amqtt", "8s")])
def test_the_demo_ends_by_itself_with_a_proof(broker: str, duration: str, tmp_path: Path) -> None:
    command = (*DEMO, "--duration", duration, "--broker", broker)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found = numbers(done.stdout)
    assert found["points read"] > 300
    assert found["records committed"] >= found["acknowledged"] >= 20
    assert found["verified"] >= 20
    assert found["missing"] == 0
    assert found["problems"] == 0, done.stdout
    assert {"mosquitto": "by Mosquitto on", "amqtt": "by amqtt on"}[broker] in done.stdout
    assert started(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_ctrl_c_ends_everything_without_a_trace(tmp_path: Path) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path))
    assert demo.stdout is not None
    lines = []
    try:
        while not re.match(r" +\d+ s: ", line := demo.stdout.readline()):
            assert line, demo.communicate()
            lines.append(line.strip())
        demo.send_signal(signal.SIGINT)
        out, errors = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert (demo.returncode, errors) == (0, "")
    assert numbers(out)["missing"] == 0
    assert any(re.search(r"verify --broker mqtt://127.0.0.1:\d+$", line) for line in lines)
    assert started(tmp_path) == []


@pytest.mark.system
def test_a_gateway_that_dies_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path))
    try:
        deadline = time.monotonic() + 30
        gateways: list[psutil.Process] = []
        while not gateways and time.monotonic() < deadline:
            gateways = [process for process in started(tmp_path) if "run" in process.cmdline()]
            time.sleep(0.05)
        time.sleep(2)
        gateways[0].kill()
        _, errors = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 1
    assert "The gateway ended by itself (signal SIGKILL)" in errors
    assert "Traceback" not in errors
    assert started(tmp_path) == []


@pytest.mark.system
def test_the_lines_to_paste_work_as_they_are(tmp_path: Path) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path))
    assert demo.stdout is not None
    commands = {}
    try:
        while not re.match(r" +\d+ s: ", line := demo.stdout.readline()):
            assert line, demo.communicate()
            if match := re.match(r"  \S*fluxedge (\w+) ", line):
                commands[match[1]] = line.strip()
        time.sleep(2)
        for verb, extra in (("status", ""), ("write", ""), ("verify", " --duration 4s")):
            done = subprocess.run(commands[verb] + extra, shell=True, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, (verb, done.stdout, done.stderr)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=30)
