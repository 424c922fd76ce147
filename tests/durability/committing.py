"""Commit through the real pipeline and promise what is durable: STATE SEED PROMISES [HOOK].

Rounds, events, commands, cursors, new segments and evictions until somebody kills it. PROMISES is a file (/dev/fd/1 for
a pipe); its lines are drawn in promises.py. HOOK `normal` commits with synchronous = NORMAL, which loses records: the
harness must find it guilty.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import uvloop

from fluxedge.clock import SystemClock
from fluxedge.config.structs import LogCfg
from fluxedge.latest import Latest
from fluxedge.log import Batch, Log, LogFault, database
from fluxedge.log.ranges import RangeSet
from fluxedge.model import OPEN_END, Event, Group, Lane, Point, Round
from fluxedge.pipeline import Pipeline
from fluxedge.problems import ProblemBook
from tests.durability.orphan import die_with_parent
from tests.durability.promises import LIMITS, UPLINK

POINTS = 200
CHECKPOINT_PAGES = 100  # so that checkpoints are hit too
COMMIT_S = 0.004
PEER_AWAY_S = 2.0  # of every four


def tune(hook: str, checkpoint_pages: int = CHECKPOINT_PAGES) -> None:
    """Let checkpoints come often; with the hook, sync at them only."""
    pragmas = [pragma for pragma in database.WRITER_PRAGMAS if "wal_autocheckpoint" not in pragma]
    if hook == "normal":
        pragmas = [pragma for pragma in pragmas if "synchronous" not in pragma] + ["synchronous = NORMAL"]
        database._SYNCHRONOUS_FULL = 1
    database.WRITER_PRAGMAS = (*pragmas, f"wal_autocheckpoint = {checkpoint_pages}")


class PromisingLog(Log):
    """A log that remembers what was packed until it is durable."""

    def __init__(self, state: Path, limits: LogCfg = LIMITS) -> None:
        super().__init__(state, limits, SystemClock())
        self.packed: dict[Lane, deque[bytes]] = {lane: deque() for lane in Lane}

    def add_round(self, batch: Batch, round_: Round) -> None:
        super().add_round(batch, round_)
        self.packed[Lane.ROUNDS].append(batch.parts[Lane.ROUNDS][-1])

    def add_event(self, batch: Batch, event: Event) -> None:
        super().add_event(batch, event)
        self.packed[Lane.EVENTS].append(batch.parts[Lane.EVENTS][-1])


class Promiser:
    """Tell what is durable, and play a peer that acknowledges it."""

    def __init__(
        self, log: PromisingLog, out: int, rng: random.Random, away: Callable[[], bool] = lambda: False
    ) -> None:
        self._log, self._out, self._rng, self._away = log, out, rng, away
        self._told = dict(log.heads)
        self._epoch = log.epoch
        self.tell(f"O {log.epoch}")

    def tell(self, line: str) -> None:
        os.write(self._out, f"{line}\n".encode())

    def committed(self) -> None:
        """Take the end of a commit."""
        log = self._log
        if log.epoch != self._epoch:
            self._epoch, self._told = log.epoch, dict.fromkeys(Lane, 0)
        for lane in Lane:
            count = log.heads[lane] - self._told[lane]
            crc = zlib.crc32(b"".join(log.packed[lane].popleft() for _ in range(count)))
            if count and log.is_durable(log.epoch):
                self.tell(f"P {log.epoch} {int(lane)} {self._told[lane] + 1} {count} {crc}")
            self._told[lane] = log.heads[lane]
        if not self._away() and self._rng.random() < 0.8:
            self._acknowledge()

    def _acknowledge(self) -> None:
        for lane in Lane:
            for epoch, ranges in list(self._log.cursors.of(UPLINK, lane)):
                head = self._log.heads[lane] if epoch == self._log.epoch else OPEN_END - 1
                for lo, hi in RangeSet(ranges.intersect(1, head)):
                    first = lo if self._rng.random() < 0.9 else self._rng.randint(lo, hi)
                    last = self._rng.randint(first, hi)
                    self.tell(f"A {epoch} {int(lane)} {first} {last}")
                    self._log.cursors.settle(UPLINK, epoch, lane, first, last)


def peer_is_away() -> bool:
    """Tell whether the peer is away; by a clock that goes on from life to life."""
    return bool(int(time.monotonic() / PEER_AWAY_S) % 2)


async def feed(pipeline: Pipeline, rng: random.Random) -> None:
    """Put rounds and events in, in bursts."""
    group = Group("m1", "main", tuple(Point(f"p{i}", "f") for i in range(POINTS)))
    clock = SystemClock()
    while True:
        for _ in range(rng.randint(1, 4)):
            raws = [float(rng.randrange(1 << 20)) for _ in range(POINTS)]
            await pipeline.put("line", group.round(raws, clock.wall_ns(), clock.mono_ns()))
        if rng.random() < 0.3:
            pipeline.submit("audit", "gateway", {"text": "x" * rng.randrange(300)})
        await asyncio.sleep(rng.uniform(0, 2 * COMMIT_S))


async def command(pipeline: Pipeline, promiser: Promiser, life: str) -> None:
    """Ask for commands, one after the other."""
    number = 0
    while True:
        number += 1
        key = f"{life}-{number}"
        with contextlib.suppress(LogFault):
            await pipeline.submit("command", "device:m1", {"key": key}, urgent=True, intent=(key, b"request"))
            promiser.tell(f"I {key}")
            await pipeline.submit("command-result", "device:m1", {"key": key}, result=(key, b"done"))
            promiser.tell(f"R {key}")
        await asyncio.sleep(COMMIT_S * 5)


async def main() -> None:
    die_with_parent()
    state, seed, promises, *hook = sys.argv[1:]
    tune(hook[0] if hook else "")
    rng, clock = random.Random(int(seed)), SystemClock()
    log = PromisingLog(Path(state))
    log.begin_uplink(UPLINK, list(Lane), "oldest")
    pipeline = Pipeline(log, Latest(), clock, ProblemBook(clock.wall_ns), COMMIT_S)
    pipeline.uplinks = lambda: [UPLINK]
    promiser = Promiser(log, os.open(promises, os.O_WRONLY | os.O_APPEND), rng, peer_is_away)
    log.listeners.append(promiser.committed)
    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline.run(), name="pipeline")
        group.create_task(feed(pipeline, rng), name="feed")
        group.create_task(command(pipeline, promiser, f"{log.epoch}-{seed}"), name="commands")


if __name__ == "__main__":
    uvloop.run(main())
