"""Cut the power of a file system again and again under a process that commits, and examine the log after each cut."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.durability.loop_disk import LoopDisk
from tests.durability.outcome import Outcome
from tests.durability.promises import Promises, examine

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 0.5  # from the first promise to the cut
DISK_MIB = 48


class Committing:
    """A process that commits until it is killed, and what it promised."""

    def __init__(self, state: Path, seed: int, hook: str, errors: Path, promises: Path = Path("/dev/fd/1")) -> None:
        self._errors = errors
        command = [sys.executable, "-m", "tests.durability.committing", str(state), str(seed), str(promises)]
        with errors.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, hook] if hook else command, stdout=subprocess.PIPE, stderr=out, cwd=ROOT
            )
        self._promised = bytearray()
        self._heard = 0

    def listen(self, seconds: float, until: bytes = b"") -> None:
        """Read promises for a while, or until one begins like this."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([pipe], [], [], left_s)[0]:
                more = os.read(pipe, 1 << 16)
                if not more:
                    break
                self._promised += more
                if until and until in self._promised:
                    return
        if until:
            raise AssertionError(f"it promised nothing: {self._errors.read_text()[-3000:]}")

    def hear_out(self) -> None:
        """Read what has been promised until now; what comes later was said after the fault."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while select.select([pipe], [], [], 0)[0] and (more := os.read(pipe, 1 << 16)):
            self._promised += more
        self._heard = self._promised.rfind(b"\n") + 1

    def kill(self) -> tuple[str, str]:
        """Kill it; return what it said until `hear_out`, and later."""
        self._process.kill()
        assert self._process.stdout is not None
        with self._process.stdout:
            self._promised += self._process.stdout.read()
        self._process.wait()
        text = self._promised.decode()
        return text[: self._heard], text[self._heard :]


def cut_power(ground: Path, outcome: Outcome, cuts: int, hook: str = "", *, until_lost: bool = False) -> None:
    """Cut `cuts` times; with `until_lost` no more often than until something was lost.

    What a process says after the cut has begun is no promise: an fdatasync that runs while ext4 aborts its journal may
    return success (Linux 6.18, seen in about one of a hundred cuts), and without power nobody would have heard of it.

    The hook works from the second life on: the first one makes the log.
    """
    rng, promises = random.Random(outcome.seed), Promises()
    disk = LoopDisk(ground, DISK_MIB)
    state = disk.mounted_at / "state"
    state.mkdir()
    outcome.facts["file system"] = f"ext4, {DISK_MIB} MiB, loop device"
    for number in range(cuts):
        process = Committing(state, rng.randrange(1 << 30), hook if number else "", ground / "errors.log")
        try:
            process.listen(20, b"\nP ")
            process.listen(rng.uniform(0.0, LONGEST_S))
            process.hear_out()
            disk.cut()
        finally:
            before, after = process.kill()
        promises.take(before)
        promises.take_late(after)
        disk.unmount()
        disk.mount()
        outcome.injected += 1
        found = examine(state, promises)
        outcome.broken += [f"cut {number + 1}: {text}" for text in found.broken]
        outcome.lost += found.lost
        outcome.promised = promises.records
        outcome.held, outcome.delivered, outcome.gaps = found.held, found.gone, found.gaps
        outcome.duplicates += found.again
        outcome.facts["new epochs"] = outcome.facts.get("new epochs", 0) + found.epochs
        if outcome.lost and until_lost:
            break
    disk.close()
