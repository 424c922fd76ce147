"""Compaction: the child runs when an hour has closed, what it did is noted, days go by age, cap and free space."""

from __future__ import annotations

import asyncio
import random
import typing
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from fluxedge import compaction as module
from fluxedge.compaction import Compaction
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log import Log
from fluxedge.log.history import days
from fluxedge.problems import ProblemBook
from fluxedge.tasks import TaskOwner
from tests.fluxedge.log.fake_clock import FakeClock, group_of
from tests.fluxedge.log.history.compacting import at_hour, fill, history, logged
from tests.fluxedge.log.history.test_days import written

DAY_S = 86_400


class Rig:
    """A log, its compaction and what it said."""

    def __init__(self, state: Path, **limits: float) -> None:
        sizes = {name: Bytes(int(value)) for name, value in limits.items() if name.endswith("_bytes")}
        times = {name: Seconds(value) for name, value in limits.items() if name.endswith("_s")}
        self.cfg = LogCfg(**({"free_space_bytes": Bytes(0)} | sizes), **times)
        self.state = state
        self.clock = FakeClock()
        self.log = Log(state, self.cfg, self.clock)
        self.problems = ProblemBook(self.clock.wall_ns)
        self.said: list[tuple[str, str, dict[str, typing.Any]]] = []
        self.failed: list[BaseException] = []
        self.owner = TaskOwner(lambda _, error: self.failed.append(error))
        self.compaction = Compaction(
            self.log, state, self.cfg, self.clock, self.problems, random.Random(1), lambda *said: self.said.append(said)
        )

    def start(self) -> None:
        self.owner.spawn(self.compaction.run(), "compaction")

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                assert not self.failed
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.owner.close()
        await self.log.close()
        assert not self.failed


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Rig]]:
    monkeypatch.setattr(module, "FIRST_S", 0.01)
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    rigs: list[Rig] = []

    def do(**limits: float) -> Rig:
        rigs.append(Rig(tmp_path, **limits))
        return rigs[-1]

    yield do
    for rig in rigs:
        await rig.close()


async def test_an_hour_is_copied_at_the_start_and_the_next_when_it_has_closed(make: Callable[..., Rig]) -> None:
    rig = make()
    at_hour(rig.clock, 0)
    await fill(rig.log, rig.clock, [group_of()], 62)  # two minutes behind the hour
    rig.start()
    await rig.until(lambda: rig.compaction.figures.runs_total == 1)
    assert rig.log.compacted == {rig.log.epoch: 60}
    assert history(rig.state) == (await logged(rig.log))[:60]
    figures = rig.compaction.figures
    await rig.until(lambda: figures.days == 1)
    assert (figures.points_total, figures.failures_total) == (120, 0)
    assert figures.used_bytes > 1000
    await asyncio.sleep(0.3)
    assert figures.runs_total == 1  # nothing has closed since
    await fill(rig.log, rig.clock, [group_of()], 60)
    await rig.until(lambda: figures.runs_total == 2)
    assert rig.log.compacted == {rig.log.epoch: 120}


async def test_a_failure_stands_as_a_problem_until_a_run_succeeds(make: Callable[..., Rig]) -> None:
    rig = make()
    at_hour(rig.clock, 0)
    await fill(rig.log, rig.clock, [group_of()], 65)
    folder = days.folder_of(rig.state)
    folder.write_text("in the way")
    rig.start()
    await rig.until(lambda: rig.problems.stands("history", "history-failed"))
    [standing] = rig.problems.of("history")
    assert "history" in standing.message
    folder.unlink()
    await rig.until(lambda: not rig.problems.stands("history", "history-failed"))
    assert rig.log.compacted == {rig.log.epoch: 60}
    assert rig.compaction.figures.failures_total > 0


async def test_what_a_child_says_when_it_cannot_start_is_the_message(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    monkeypatch.setattr(rig.compaction, "_command", lambda: ["/bin/sh", "-c", "echo no such module; exit 3"])
    rig.start()
    await rig.until(lambda: rig.problems.stands("history", "history-failed"))
    assert rig.problems.of("history")[0].message == "no such module"


async def test_stopping_kills_the_child(make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make()
    monkeypatch.setattr(rig.compaction, "_command", lambda: ["/bin/sleep", "60"])
    rig.start()
    await rig.until(lambda: bool(psutil.Process().children()))
    await rig.owner.close()
    assert psutil.Process().children() == []


async def test_a_day_that_a_query_could_not_read_is_made_anew(make: Callable[..., Rig]) -> None:
    rig = make()
    at_hour(rig.clock, 0)
    await fill(rig.log, rig.clock, [group_of()], 65)
    rig.start()
    await rig.until(lambda: rig.compaction.figures.runs_total == 1)
    [(_, path)] = days.files(days.folder_of(rig.state))
    path.write_bytes(b"overwritten")
    rig.compaction.suspect(path.stem)
    await rig.until(lambda: rig.problems.stands("history", "history-damaged"))
    await rig.until(lambda: rig.compaction.figures.runs_total == 2)
    assert history(rig.state) == (await logged(rig.log))[:60]
    assert path.stem in rig.problems.of("history")[0].message


async def test_a_damaged_day_stands_for_a_day_and_is_looked_at_once_an_hour(make: Callable[..., Rig]) -> None:
    rig = make()
    compaction = rig.compaction
    await compaction._take(module.Report(damaged="2027-01-31", moved_to="x"))
    rig.clock.advance(DAY_S - 1)
    compaction._forget_damage()
    assert rig.problems.stands("history", "history-damaged")
    rig.clock.advance(1)
    compaction._forget_damage()
    assert not rig.problems.stands("history", "history-damaged")
    for day in range(3):
        compaction.suspect("2027-01-31")
        assert compaction._suspects == {"2027-01-31"}
        compaction._suspects.clear()
        compaction.suspect("2027-01-31")  # the next query
        assert not compaction._suspects
        assert len(compaction._looked_at_ns) == 1, day
        rig.clock.advance(3600)


@pytest.mark.parametrize(
    ("script", "said"),
    [("exec sleep 60", "said nothing"), ("head -c 100000 /dev/zero | tr '\\0' x; exec sleep 60", "understands")],
)
async def test_a_child_that_is_silent_or_says_too_much_is_killed(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    rig = make()
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    monkeypatch.setattr(rig.compaction, "_command", lambda: ["/bin/sh", "-c", script])
    rig.start()
    await rig.until(lambda: rig.problems.stands("history", "history-failed"))
    assert said in rig.problems.of("history")[0].message


async def test_rounds_that_wait_for_the_clock_are_asked_for_again(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxedge.log.batch import Batch
    from fluxedge.model import Flag

    monkeypatch.setattr(module, "WAITING_S", 0.05)
    rig = make()
    at_hour(rig.clock, 0.5)
    batch = Batch()
    rig.log.add_round(batch, group_of().round((1, 2), 5, rig.clock.mono_ns(), flags=Flag.CLOCK_UNSYNCED))
    await rig.log.commit(batch)
    at_hour(rig.clock, 1.1)
    rig.start()
    await rig.until(lambda: rig.compaction.figures.runs_total >= 2)
    row = (rig.log.boot, rig.clock.mono_ns() // 10**6, rig.clock.wall_ns() // 10**6, "ntp")
    await rig.log.write(lambda c: c.execute("INSERT INTO clock VALUES (?, ?, ?, ?)", row))
    await rig.until(lambda: rig.log.compacted == {rig.log.epoch: 1})


async def test_nothing_is_copied_while_the_log_is_in_memory(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    monkeypatch.setattr(rig.log, "is_durable", lambda _: False)
    rig.compaction._cfg = LogCfg(free_space_bytes=Bytes(1 << 60))
    old, _ = days_of(rig, 0, 1)
    rig.start()
    await rig.until(lambda: not old.exists())  # a full disk is why it is in memory: history gives way
    await asyncio.sleep(0.1)
    assert (rig.compaction.figures.runs_total, rig.compaction.figures.failures_total) == (0, 0)


def days_of(rig: Rig, *ages: int) -> list[Path]:
    today = rig.clock.wall_ns() // (DAY_S * 10**9)
    found = [written(days.folder_of(rig.state), (group_of(), (today - age) * 24, 1), day=today - age) for age in ages]
    return sorted(found)


async def test_days_older_than_keep_go_and_an_event_says_so(make: Callable[..., Rig]) -> None:
    rig = make(keep_s=10 * DAY_S)
    paths = days_of(rig, 0, 5, 12, 30)
    size = paths[0].stat().st_size
    rig.clock.is_trusted = False
    await rig.compaction._retain()
    assert rig.said == []
    rig.clock.is_trusted = True
    await rig.compaction._retain()
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert rig.said == [("dropped", "history", {"day": path.stem, "bytes": size, "why": "age"}) for path in paths[:2]]
    assert (rig.compaction.figures.days, rig.compaction.figures.removed_days_total) == (2, 2)


async def test_the_oldest_days_go_at_the_cap_and_the_newest_stays(make: Callable[..., Rig]) -> None:
    rig = make(history_bytes=60_000)
    paths = days_of(rig, 0, 1, 2, 3)
    size = paths[0].stat().st_size
    rig.cfg = LogCfg(history_bytes=Bytes(2 * size), free_space_bytes=Bytes(0))
    rig.compaction._cfg = rig.cfg
    await rig.compaction._retain()
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert rig.compaction.figures.used_bytes == 2 * size
    rig.compaction._cfg = LogCfg(history_bytes=Bytes(1), free_space_bytes=Bytes(0))
    await rig.compaction._retain()
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert {data["why"] for _, _, data in rig.said} == {"history"}


async def test_history_gives_way_when_the_disk_is_full(make: Callable[..., Rig]) -> None:
    rig = make(free_space_bytes=1 << 60)
    paths = days_of(rig, 0, 1, 2)
    await rig.compaction._retain()
    assert [path.exists() for path in paths] == [False, False, True]
    assert {data["why"] for _, _, data in rig.said} == {"disk"}


async def test_a_day_that_cannot_be_removed_is_a_problem_and_no_crash(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(history_bytes=1)
    days_of(rig, 0, 1)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    await rig.compaction._retain()
    monkeypatch.undo()
    assert rig.problems.stands("history", "history-failed")
    assert rig.compaction.figures.removed_days_total == 0


async def test_what_cannot_be_removed_keeps_nothing_else(make: Callable[..., Rig]) -> None:
    rig = make(keep_s=10 * DAY_S)
    paths = days_of(rig, 0, 12, 30, 40)
    paths[1].unlink()
    paths[1].mkdir()
    await rig.compaction._retain()
    assert [path.exists() for path in paths] == [False, True, False, True]
    assert [data["day"] for _, _, data in rig.said] == [paths[0].stem, paths[2].stem]
    assert paths[1].name in rig.problems.of("history")[0].message


async def test_for_room_what_was_set_aside_goes_before_what_can_be_read(make: Callable[..., Rig]) -> None:
    rig = make(keep_s=DAY_S * 3)
    paths = days_of(rig, 0, 1, 2)
    size = paths[0].stat().st_size
    damaged = paths[0].with_suffix(".damaged")
    damaged.write_bytes(bytes(size))
    await rig.compaction._retain()
    assert damaged.exists()
    rig.compaction._cfg = LogCfg(history_bytes=Bytes(3 * size), free_space_bytes=Bytes(0))
    await rig.compaction._retain()
    assert not damaged.exists()
    assert all(path.exists() for path in paths)
    assert rig.said == [("dropped", "history", {"day": damaged.name, "bytes": size, "why": "history"})]


async def test_a_gateway_without_history_has_nothing_to_remove(make: Callable[..., Rig]) -> None:
    rig = make()
    await rig.compaction._retain()
    assert (rig.compaction.figures.days, rig.compaction.figures.used_bytes, rig.said) == (0, 0, [])


def test_the_next_run_is_a_few_minutes_behind_the_hour(tmp_path: Path) -> None:
    class At(FakeClock):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.now_ns = int(seconds * 10**9)

    def left_s(seconds: float) -> float:
        compaction = Compaction.__new__(Compaction)
        compaction._clock, compaction._rng = At(seconds), random.Random(1)
        return compaction._until_due_s()

    assert left_s(36_000 + 500) == module.LOOK_S
    assert module.LOOK_S < 90 <= module.GRACE_S[0]
    for _ in range(20):
        assert 30 <= left_s(36_000 + 90) <= 30 + module.GRACE_S[1] - module.GRACE_S[0]
