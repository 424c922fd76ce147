"""Let the k-th write to log.db fail, for every k, under the real log and the real SQLite.

As a program, with failing_writes.so preloaded: FOLDER SEED KINDS. It runs the same dozen commits for every k
and the first KINDS kinds of fault, and prints one JSON object a kind: how many writes there were, what was promised,
and what was broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import typing
from pathlib import Path

from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, LogFault
from fluxedge.model import Event, Group, Lane, Point
from tests.durability.committing import Promiser, PromisingLog, tune
from tests.durability.promises import UPLINK, Promises, examine

ROOT = Path(__file__).resolve().parents[2]
COMMITS = 12
TRIES = 4
GROUP = Group("m1", "main", tuple(Point(f"p{i}", "f") for i in range(150)))
LIMITS = LogCfg(  # so small that a dozen commits make segments, drop some and are checkpointed
    commit_s=Seconds(0.05), segment_bytes=Bytes(4 << 10), backlog_bytes=Bytes(72 << 10), free_space_bytes=Bytes(0)
)
CHECKPOINT_PAGES = 12
AT_NS = 1_800_000_000 * 10**9
KINDS: dict[str, tuple[int, bool, bool]] = {  # error, for ever, half written
    "EIO once, half written": (errno.EIO, False, True),
    "ENOSPC from then on": (errno.ENOSPC, True, False),
    "EIO once": (errno.EIO, False, False),
    "ENOSPC once, half written": (errno.ENOSPC, False, True),
    "EIO from then on": (errno.EIO, True, False),
}
SHORT = 2  # kinds of the short run


class Kind(typing.TypedDict):
    """What all faults of one kind brought about."""

    kind: str
    writes: int  # k went from 1 to this
    refused: int  # commits that failed at least once
    promised: int
    held: int
    gone: int
    gaps: int
    lost: int
    broken: list[str]


def build(folder: Path) -> Path:
    """Compile the library that lets writes fail."""
    library = folder / "failing_writes.so"
    source = Path(__file__).with_name("failing_writes.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def all_k(folder: Path, seed: int, kinds: int) -> list[Kind]:
    """Run the program on a folder; return what each of the first `kinds` kinds brought about."""
    environment = os.environ | {"LD_PRELOAD": str(build(folder))}
    command = [sys.executable, "-m", "tests.durability.failing_writes", str(folder), str(seed), str(kinds)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


class _Faults:
    """The preloaded library."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm, self._count = library.fault_arm, library.fault_count
        self._arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._count.restype = ctypes.c_long

    def arm(self, k: int, error: int = 0, forever: bool = False, half: bool = False) -> None:
        self._arm(k, error, forever, half)

    def count(self) -> int:
        return int(self._count())


async def _commit_all(log: PromisingLog, rng: random.Random, forever: bool) -> int:
    """Commit a dozen batches, each again when it failed; return how many failed at least once."""
    refused = 0
    for number in range(COMMITS):
        batch = Batch()
        for _ in range(3):
            raws = [float(rng.randrange(1 << 22)) for _ in GROUP.points]
            log.add_round(batch, GROUP.round(raws, AT_NS, 10**9))
        log.add_event(batch, Event("audit", "gateway", AT_NS, 10**9, {"n": number}))
        batch.intents.append((f"k{number}", 1, b"request"))
        for attempt in range(TRIES):
            try:
                await log.commit(batch)
                break
            except LogFault:
                refused += attempt == 0
                if forever:
                    return refused
        else:
            raise AssertionError("one write failed, and four commits after it")
        with contextlib.suppress(LogFault):
            while await log.housekeep([UPLINK]):
                pass
    return refused


async def _one(
    state: Path, faults: _Faults, k: int, kind: tuple[int, bool, bool], seed: int
) -> tuple[Promises, int, int]:
    """Run once with the k-th write failing; return what was promised, commits that were refused, and writes."""
    rng, promises = random.Random(seed), Promises()
    told = state / "promises"
    log = PromisingLog(state, LIMITS)
    log.begin_uplink(UPLINK, list(Lane), "oldest")
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log.listeners.append(Promiser(log, out, rng).committed)
    try:
        faults.arm(k, *kind)
        refused = await _commit_all(log, rng, kind[1])
    finally:
        await log.close()
        writes = faults.count()
        faults.arm(0)
        os.close(out)
    promises.take(told.read_text())
    return promises, refused, writes


def _all_of(folder: Path, faults: _Faults, name: str, seed: int) -> Kind:
    found: Kind = {
        "kind": name, "writes": 0, "refused": 0, "promised": 0, "held": 0, "gone": 0, "gaps": 0, "lost": 0,
        "broken": [],
    }  # fmt: skip
    state = folder / "state"
    k = writes = 0
    while k <= writes:  # k = 0: without a fault, to count
        state.mkdir()
        promises, refused, counted = asyncio.run(_one(state, faults, k, KINDS[name], seed))
        if k == 0:
            writes = counted
        after = examine(state, promises)
        shutil.rmtree(state)
        found["refused"] += refused
        found["promised"] += promises.records
        found["held"] += after.held
        found["gone"] += after.gone
        found["gaps"] += after.gaps
        found["lost"] += after.lost
        found["broken"] += [f"{name}, k = {k}: {text}" for text in after.broken]
        k += 1
    found["writes"] = writes
    return found


def main() -> None:
    folder, seed, kinds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    tune("", CHECKPOINT_PAGES)
    faults = _Faults()
    for name in list(KINDS)[:kinds]:
        print(json.dumps(_all_of(folder, faults, name, seed)), flush=True)


if __name__ == "__main__":
    main()
