"""A measured program: started pinned to one processor, asked for its totals, weighed from outside through /proc."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANSWER_S = 20.0
STEADY_S = 60.0  # at most until the first points are acknowledged


class Failed(Exception):
    """A program ended, or said nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a program and its children."""

    at_s: float
    cpu_s: float
    written_bytes: int  # handed to the block layer
    told: dict[str, typing.Any]


class Subject:
    """One measured program."""

    def __init__(self, command: list[str], processor: int, log: Path) -> None:
        self._log = log
        self.started_ns = time.time_ns()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                preexec_fn=lambda: os.sched_setaffinity(0, {processor}),
            )
        self._rest = b""

    def ask(self) -> dict[str, typing.Any]:
        """Return what the probe tells."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), b"\n")
        deadline_s = time.monotonic() + ANSWER_S
        while b"\n" not in self._rest:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left_s))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise Failed(f"the program ended or is silent; the end of {self._log}:\n{self.log_end()}")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict[str, typing.Any] = json.loads(line)
        return told

    def sample(self) -> Sample:
        """Look at the program now."""
        told = self.ask()
        pids = self.pids()
        cpu_s = sum(processor_s(pid) for pid in pids)
        return Sample(time.monotonic(), cpu_s, sum(written_bytes(pid) for pid in pids), told)

    def wait_steady(self, settle_s: float) -> None:
        """Return when points are acknowledged and start-up is over."""
        deadline_s = time.monotonic() + STEADY_S
        while not self.ask()["acked_points"]:
            if time.monotonic() > deadline_s:
                raise Failed(f"nothing was acknowledged; the end of {self._log}:\n{self.log_end()}")
            time.sleep(0.1)
        time.sleep(settle_s)

    def pids(self) -> list[int]:
        """Return the program and its descendants."""
        found = [self._process.pid]
        for pid in found:
            for task in tasks(pid):
                with contextlib.suppress(OSError):
                    found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return found

    def memory_bytes(self) -> tuple[int, int]:
        """Return (PSS, RSS) of the program and its descendants.

        PSS counts shared pages in proportion; what shares them here (the bench, other Pythons) is not there on a
        gateway, where both are nearly the same.
        """
        rows = [memory_bytes(pid) for pid in self.pids()]
        return sum(pss for pss, _ in rows), sum(rss for _, rss in rows)

    def log_end(self) -> str:
        """Return the last lines of its standard error."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """End the program."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def running(command: list[str], processor: int, log: Path) -> Iterator[Subject]:
    """Run a program for the length of a block."""
    subject = Subject(command, processor, log)
    try:
        yield subject
    finally:
        subject.stop()


def tasks(pid: int) -> list[str]:
    """Return the threads of a process; none when it is gone."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def processor_s(pid: int) -> float:
    """Return the processor time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime stime cutime cstime


def written_bytes(pid: int) -> int:
    """Return the bytes that a process caused to be written to block devices."""
    rows = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(rows["write_bytes"])


def memory_bytes(pid: int) -> tuple[int, int]:
    """Return (PSS, RSS) of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines[1:])}
    return found["Pss"], found["Rss"]
