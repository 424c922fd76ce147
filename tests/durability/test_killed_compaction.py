"""Whenever the compactor is killed, the history has each round once, and an uplink that was away gets all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import typing
from pathlib import Path

import psutil
import pytest

from fluxedge.compaction import Compaction
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.latest import Latest
from fluxedge.log import Log
from fluxedge.log.body import records
from fluxedge.log.history import days
from fluxedge.model import OPEN_END, Group, Lane, Point, Record, Round
from fluxedge.pipeline import Pipeline
from fluxedge.problems import ProblemBook
from tests.durability.conftest import Drill
from tests.durability.fast_time import FastClock, FastLoop
from tests.durability.outcome import Outcome

pytestmark = pytest.mark.durability

UPLINK = "cloud"
HOURS = 3
MORE_HOURS = 6
FACTOR = 900.0
EVERY_S = 10.0
GROUPS = [Group(f"m{i}", "main", tuple(Point(f"p{j}", "hqf?B"[j]) for j in range(5))) for i in range(5)]
CFG = LogCfg(
    commit_s=Seconds(5.0), segment_bytes=Bytes(32 << 10), backlog_bytes=Bytes(64 << 20), free_space_bytes=Bytes(0)
)
DRAWN: list[typing.Callable[[random.Random], int | float | bool]] = [  # a raw of each wire type
    lambda rng: rng.randrange(-99, 99),
    lambda rng: rng.randrange(1 << 60),
    lambda rng: float(rng.randrange(1 << 20)),
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.randrange(9),
]
BEGINS_S, COPIES_S = 0.25, 0.02  # a killed compactor had up to this long to begin with, or behind its first write
MINUTE_S = 60.0


class Site:
    """A log that is filled and compacted, in accelerated time."""

    def __init__(self, state: Path, outcome: Outcome) -> None:
        self.loop = typing.cast(FastLoop, asyncio.get_running_loop())
        self.rng, self.outcome, self.clock = random.Random(outcome.seed), outcome, FastClock(self.loop)
        state.mkdir()
        self.state = state
        self.log = Log(state, CFG, self.clock)
        self.log.begin_uplink(UPLINK, list(Lane), "oldest")
        problems = ProblemBook(self.clock.wall_ns)
        self.pipeline = Pipeline(self.log, Latest(), self.clock, problems, CFG.commit_s)
        self.pipeline.uplinks = lambda: [UPLINK]
        self.compaction = Compaction(self.log, state, CFG, self.clock, problems, self.rng, self.pipeline.submit)

    async def feed(self) -> None:
        """Put a round of each group in every few seconds."""
        while True:
            for group in GROUPS:
                raws = [draw(self.rng) for draw in DRAWN]
                await self.pipeline.put("line", group.round(raws, self.clock.wall_ns(), self.clock.mono_ns()))
            await asyncio.sleep(EVERY_S)

    async def kill_compactors(self) -> None:
        """Kill two of three compactors at a random moment of their work."""
        spared = set[int]()
        while True:
            await asyncio.sleep(0.01 * FACTOR)
            for child in psutil.Process().children():
                if child.pid in spared or not self._compacts(child):
                    continue
                if self.outcome.injected > 1 and self.rng.random() < 0.25:
                    spared.add(child.pid)
                    continue
                await self._its_time(child)
                if self._compacts(child):
                    child.send_signal(signal.SIGKILL)
                    self.outcome.injected += 1

    async def _its_time(self, child: psutil.Process) -> None:
        """Wait for a random moment of a run: of all its life, or of the time in which it writes."""
        if self.rng.random() < 0.4:
            await asyncio.sleep(self.rng.uniform(0.0, BEGINS_S) * FACTOR)
            return
        before = self._written()
        while self._compacts(child) and self._written() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.002 * FACTOR)
        await asyncio.sleep(self.rng.uniform(0.0, COPIES_S) * FACTOR)

    def _written(self) -> int:
        """Return when something was written below STATE/history last."""
        stamps = [0]
        for file in days.folder_of(self.state).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                stamps.append(file.stat().st_mtime_ns)
        return max(stamps)

    @staticmethod
    def _compacts(child: psutil.Process) -> bool:
        try:
            return child.status() != psutil.STATUS_ZOMBIE and "fluxedge.log.history.compactor" in child.cmdline()
        except psutil.NoSuchProcess:
            return False

    async def rows(self, first: int = 1) -> dict[int, Round]:
        """Read the lane as an uplink does."""
        found: dict[int, Round] = {}

        def take(rows: typing.Any, groups: typing.Any) -> list[Record]:
            return [record for row in rows for record in records(row, groups)]

        while page := await self.log.read(self.log.epoch, Lane.ROUNDS, first, 256 << 10, take):
            for record in page:
                found[record.seq] = typing.cast(Round, record.body)
            first = page[-1].seq + 1
        return found

    def history(self) -> dict[int, list[Round]]:
        """Read every chunk of every day file."""
        found: dict[int, list[Round]] = {}
        for _, path in days.files(days.folder_of(self.state)):
            with days.DayReader(path) as reader:
                numbers = reader.groups()
                for head in reader.heads(numbers, 0, OPEN_END):
                    assert head.epoch == self.log.epoch
                    for record in reader.chunk(head).records():
                        found.setdefault(record.seq, []).append(typing.cast(Round, record.body))
        return found

    def compacted(self) -> int:
        return self.log.compacted.get(self.log.epoch, 0)

    async def until(self, reached: typing.Callable[[], object], real_s: float, what: str) -> None:
        deadline_s = self.loop.time() + real_s * FACTOR
        while not reached():
            assert self.loop.time() < deadline_s, what
            await asyncio.sleep(MINUTE_S)

    async def housekeep(self) -> None:
        while await self.log.housekeep([UPLINK]):
            pass


def compare(outcome: Outcome, stored: dict[int, Round], history: dict[int, list[Round]], upto: int) -> None:
    """Hold the history against what was stored."""
    twice = [seq for seq, of in history.items() if len(of) > 1]
    missing = [seq for seq in range(1, upto + 1) if seq not in history]
    outcome.broken += [f"rounds {twice[:5]} are in the history twice"] * bool(twice)
    outcome.broken += [f"rounds {missing[:5]} are missing in the history, it has them up to {upto}"] * bool(missing)
    for seq, of in history.items():
        mine = stored[seq]
        if seq <= upto and (of[0].raws, of[0].at_ns, of[0].group) != (mine.raws, mine.at_ns, mine.group):
            outcome.broken.append(f"round {seq} is {of[0].raws} in the history, {mine.raws} in the log")
    outcome.lost += len(missing)


async def away(state: Path, outcome: Outcome, rounds_of_hours: int) -> None:
    """Fill the log for some hours while the uplink is away, and kill compactors; then let the uplink come back."""
    site = Site(state, outcome)
    tasks = [asyncio.create_task(work) for work in (site.pipeline.run(), site.compaction.run())]
    feeding, killing = asyncio.create_task(site.feed()), asyncio.create_task(site.kill_compactors())
    try:
        site.loop.run_at(FACTOR)
        await asyncio.sleep(rounds_of_hours * HOURS * 3600)
        for _ in range(MORE_HOURS):  # where every compactor so far was done before its time had come
            if not outcome.injected:
                await asyncio.sleep(3600)
        last = site.log.heads[Lane.ROUNDS]
        killing.cancel()
        await site.until(lambda: site.compacted() >= last, 40, "the hours are compacted")
        feeding.cancel()
        await asyncio.sleep(2 * CFG.commit_s)
        site.loop.run_at(1.0)
        await site.housekeep()
        upto, head = site.compacted(), site.log.heads[Lane.ROUNDS]
        stored = await site.rows()
        missing = head - len(stored)
        outcome.promised, outcome.lost = head, missing
        outcome.broken += [f"{missing} rounds went before the uplink had them"] * bool(missing)
        compare(outcome, stored, site.history(), upto)
        site.log.cursors.settle(UPLINK, site.log.epoch, Lane.ROUNDS, 1, head)  # it is back, and gets everything
        outcome.delivered = len(stored)
        await site.housekeep()
        if site.log.first_seq(site.log.epoch, Lane.ROUNDS) <= 1:
            outcome.broken.append("nothing was dropped although it is compacted and delivered")
        compare(outcome, stored, site.history(), upto)
        outcome.facts |= {"compacted rounds": upto, "compactor runs": site.compaction.figures.runs_total}
    finally:
        site.loop.run_at(1.0)
        for task in (*tasks, feeding, killing):
            task.cancel()
        await asyncio.gather(*tasks, feeding, killing, return_exceptions=True)
        await site.log.close()


@pytest.mark.timeout(900)
def test_three_hours_compacted_under_kills_reach_an_uplink_that_was_away(tmp_path: Path, drill: Drill) -> None:
    outcome = drill.begin("kill -9 of compactors at random moments, while the uplink is away for three hours")
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(away(tmp_path / "state", outcome, drill.times(1, 6)))
    outcome.must_hold()
