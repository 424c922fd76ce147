"""Salvage: what can be read of a damaged log goes on to its uplinks; what cannot is announced; nothing is doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault, damage
from fluxedge.log.body import records
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import Usage
from fluxedge.log.salvage import copying, salvage
from fluxedge.log.salvage.salvage import Salvage, pending
from fluxedge.log.salvage.wreck import Wreck
from fluxedge.log.segments import SALVAGED
from fluxedge.model import OPEN_END, Group, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of

GROUP, WIDE = group_of("HH"), group_of("H" * 600, "m2")
BOTH = [Lane.ROUNDS, Lane.EVENTS]
ROUNDS, EVENTS, ACKED = 60, 40, 25
Records = dict[tuple[int, Lane, int], typing.Any]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAUSE_S", 0)


async def fill(open_log: OpenLog, state: Path, **limits: float) -> tuple[int, Records]:
    """Leave a log of some segments behind; return its epoch and what is in it."""
    os.makedirs(state, exist_ok=True)
    log = open_log(state, segment_bytes=4000, **limits)
    log.begin_uplink("up", BOTH, "oldest")
    rng = random.Random(1)
    for i in range(ROUNDS):
        batch = Batch()
        group = GROUP if i % 3 else WIDE
        log.add_round(batch, round_of(group, *[rng.randrange(2**16) for _ in group.points], at_ns=10**18 + i))
        if i < EVENTS:
            log.add_event(batch, event_of(number=i))
        if i == 10:
            batch.intents += [("done", 5, b"{}"), ("open", 6, b"{}")]
            batch.results.append(("done", b"[]"))
            batch.state["alarm"] = b"on"
            batch.clock.append((log.boot, 1000, 2000, "ntp"))
        await log.commit(batch)
    log.cursors.settle("up", log.epoch, Lane.ROUNDS, 1, ACKED)
    held = await everything(log)
    await log.close()
    return log.epoch, held


async def everything(log: Log) -> Records:
    """Return every record that can be read by seq."""
    found: Records = {}
    for segment in log.segments():
        seq = segment.first
        while seq <= segment.last:
            rows = await log.read(
                segment.epoch, segment.lane, seq, 1 << 20,
                lambda rows, groups: [(row.last, list(records(row, groups))) for row in rows],
            )  # fmt: skip
            if not rows:
                break
            for last, some in rows:
                found |= {(r.epoch, r.lane, r.seq): r.body for r in some}
                seq = last + 1
    return found


def todo(log: Log, uplink: str = "up") -> dict[tuple[int, Lane], list[tuple[int, int]]]:
    return {(e, lane): list(ranges) for lane in Lane for e, ranges in log.cursors.of(uplink, lane) if ranges}


class Run:
    """A salvage under a test's eyes."""

    def __init__(self, log: Log, uplinks: dict[str, list[Lane]] | None = None) -> None:
        self.log, self.said, self.recovered = log, list[LinkProblem](), 0
        self.salvage = Salvage(log, lambda: uplinks or {"up": BOTH}, self._groups, self.said.append, self._recover)

    def _groups(self) -> list[Group]:
        return [GROUP, WIDE]

    async def _recover(self) -> None:
        self.recovered += 1

    def folder(self) -> Path:
        """Return the newest folder."""
        return sorted(self.log.path.parent.glob("log.damaged-*"))[-1]

    async def to_the_end(self) -> dict[str, typing.Any]:
        """Run until nothing is pending; return what the newest report says."""
        state = self.log.path.parent
        task = asyncio.ensure_future(self.salvage.run())
        try:
            async with asyncio.timeout(20):
                while pending(state) or not self.said:
                    await asyncio.sleep(0.01)
                    if task.done():
                        task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
        return typing.cast("dict[str, typing.Any]", json.loads((self.folder() / "salvaged.json").read_text()))


def spoil(kind: str, path: Path) -> None:
    """Damage a log that is closed."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if kind == "marked":
            path.with_suffix(".broken").touch()
        elif kind == "first page":
            file.write(bytes(1024))
        elif kind == "garbage":
            file.write(random.Random(2).randbytes(size))
        elif kind == "halved":
            file.truncate(size // 2)
            path.with_suffix(".broken").touch()
    if kind in ("no todo", "no segments", "no groups"):
        with sqlite3.connect(path) as ours:
            ours.execute(f"DROP TABLE {kind.split()[1]}")
        ours.close()


def accounted(log: Log, epoch: int, held: Records, before: Records) -> None:
    """Assert that every record is delivered, owed and there, or an announced gap; and that what is there is right."""
    for key, body in held.items():
        if key[0] == epoch:
            assert body == before[key]
    gaps = {(g.epoch, g.lane, seq) for g in log.unannounced if g.uplink == "up" for seq in range(g.lo, g.hi + 1)}
    owed = {
        (e, lane, seq) for (e, lane), ranges in todo(log).items() if e == epoch
        for lo, hi in ranges for seq in range(lo, hi + 1)
    }  # fmt: skip
    assert owed <= held.keys()
    assert not owed & gaps
    for key in before:
        if key[1] is Lane.EVENTS or key[2] > ACKED:
            assert key in owed or key in gaps, key


async def test_a_log_that_is_whole_after_all_goes_on_where_it_was(open_log: OpenLog, tmp_path: Path) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    run = Run(log)
    await run.salvage.begin()
    assert run.recovered == 1
    assert await log.unanswered_commands("", 10) == [("open", b"{}")]
    assert await log.command_result("done") == (b"{}", b"[]")
    assert await log.load_state() == {"alarm": b"on"}
    report = await run.to_the_end()
    assert report == {
        "rounds": ROUNDS, "events": EVENTS, "lost": 0, "left_out": 0, "cursors": True, "gave_up": False, "older": False,
    }  # fmt: skip
    assert await everything(log) == before
    assert todo(log) == {
        (epoch, Lane.ROUNDS): [(ACKED + 1, ROUNDS)], (epoch, Lane.EVENTS): [(1, EVENTS)],
        (log.epoch, Lane.ROUNDS): [(1, OPEN_END)], (log.epoch, Lane.EVENTS): [(1, OPEN_END)],
    }  # fmt: skip
    assert log.unannounced == []
    (problem,) = run.said
    assert problem.code == "log-damaged"
    assert (
        f"{ROUNDS} rounds and {EVENTS} events of it were saved; nothing that was still to be sent is lost"
        in problem.message
    )
    await log.close()
    again = open_log()
    assert again.damaged is None
    assert await everything(again) == before
    assert pending(tmp_path) == []


@pytest.mark.parametrize("kind", ["first page", "no todo", "no segments", "no groups", "halved", "garbage"])
async def test_every_record_is_saved_or_announced_whatever_was_damaged(
    open_log: OpenLog, tmp_path: Path, kind: str
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil(kind, tmp_path / "log.db")
    log = open_log()
    assert log.damaged is not None
    run = Run(log)
    await run.salvage.begin()
    report = await run.to_the_end()
    held = await everything(log)
    accounted(log, epoch, held, before)
    saved = len([key for key in held if key[0] == epoch])
    assert saved == report["rounds"] + report["events"]
    if kind in ("first page", "no todo", "no segments"):
        assert saved == len(before)
    if kind == "garbage":
        assert saved == 0
        assert report["lost"] == ROUNDS + EVENTS
    assert report["cursors"] == (kind in ("no segments", "no groups"))


async def test_garbage_in_any_one_page_costs_what_was_in_it_and_the_rest_goes_on(
    open_log: OpenLog, tmp_path: Path
) -> None:
    epoch, before = await fill(open_log, tmp_path / "s")
    whole = (tmp_path / "s" / "log.db").read_bytes()
    witness = (tmp_path / "s" / "log.witness").read_bytes()
    rng, pages = random.Random(7), len(whole) // 1024
    losses = []
    for page in sorted({0, *rng.sample(range(pages), 12)}):
        state = tmp_path / str(page)
        state.mkdir()
        (state / "log.db").write_bytes(whole[: page * 1024] + rng.randbytes(1024) + whole[(page + 1) * 1024 :])
        (state / "log.witness").write_bytes(witness)
        (state / "log.broken").touch()
        log = open_log(state)
        run = Run(log)
        await run.salvage.begin()
        report = await run.to_the_end()
        accounted(log, epoch, await everything(log), before)
        losses.append(report["lost"])
        await log.close()
    assert sorted(losses)[len(losses) // 2] <= 3, "a page costs the rows in it"
    assert max(losses) <= ROUNDS, "but one of table groups costs all rounds of its groups"


async def test_groups_have_other_numbers_in_the_new_log_and_rounds_keep_their_points(
    open_log: OpenLog, tmp_path: Path
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    batch = Batch()
    log.add_round(batch, round_of(group_of("d", "other"), 1.5))
    log.add_round(batch, round_of(GROUP, 7, 8))
    await log.commit(batch)
    await Run(log).to_the_end()
    held = await everything(log)
    assert {key: body for key, body in held.items() if key[0] == epoch} == before
    assert [body.raws for key, body in sorted(held.items()) if key[0] == log.epoch] == [(1.5,), (7, 8)]


async def test_what_is_read_meanwhile_is_committed_beside_it(open_log: OpenLog, tmp_path: Path) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log(segment_bytes=600)
    log.begin_uplink("up", BOTH, "oldest")
    run = Run(log)
    task = asyncio.ensure_future(run.to_the_end())
    count = 0
    while not task.done():
        batch = Batch()
        log.add_round(batch, round_of(GROUP, count % 65536, 0))
        await log.commit(batch)
        count += 1
    held = await everything(log)
    assert {key: body for key, body in held.items() if key[0] == epoch} == before
    assert len([key for key in held if key[0] == log.epoch]) == count
    await log.close()
    again = open_log()
    assert (again.epoch, again.heads[Lane.ROUNDS]) == (log.epoch, count)
    batch = Batch()
    again.add_round(batch, round_of(GROUP, 1, 0))
    await again.commit(batch)
    assert again.heads[Lane.ROUNDS] == count + 1
    assert await everything(again) | before == await everything(again)


class Stop(BaseException):
    """The machine is gone."""


@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 10])
async def test_kill_9_at_any_transaction_and_a_restart_double_and_lose_nothing(
    open_log: OpenLog, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("first page" if after % 2 else "marked", tmp_path / "log.db")
    monkeypatch.setattr(copying, "STEP_BYTES", 500)
    log = open_log()
    run, count, write = Run(log), 0, log.write

    async def counted(job: Callable[[sqlite3.Connection], typing.Any]) -> typing.Any:
        nonlocal count
        count += 1
        if count > after:
            raise Stop
        return await write(job)

    monkeypatch.setattr(log, "write", counted)
    with contextlib.suppress(Stop):
        await run.salvage.begin()
        await run.to_the_end()
        pytest.fail("it needs fewer transactions")
    monkeypatch.undo()
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    await log.close()
    log = open_log()
    assert [segment for segment in log.segments() if segment.epoch == epoch] == [], "nobody sees a half"
    run = Run(log)
    await run.salvage.begin()
    await run.to_the_end()
    held = await everything(log)
    assert {key: body for key, body in held.items() if key[0] == epoch} == before
    assert len({(s.lane, s.epoch, s.first) for s in log.segments()}) == len(log.segments())
    accounted(log, epoch, held, before)
    assert log.unannounced == []


async def test_without_room_the_newest_is_saved_and_the_rest_is_a_gap(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    monkeypatch.setattr(copying, "STEP_BYTES", 500)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    writes = iter([Usage(0, 0, 1 << 40)] * 16 + [Usage(1 << 40, 0, 0)] * 100)
    monkeypatch.setattr(copying.retention, "measure", lambda connection, path: next(writes))
    run = Run(log)
    report = await run.to_the_end()
    held = await everything(log)
    accounted(log, epoch, held, before)
    assert report["events"] == EVENTS
    assert 0 < report["rounds"] < ROUNDS
    assert report["left_out"] > 0
    assert "because there was no room" in run.said[0].message
    assert {gap.why for gap in log.unannounced} == {"backlog"}
    assert (epoch, Lane.ROUNDS, ROUNDS) in held


async def test_rounds_that_are_in_the_history_and_delivered_are_not_copied(open_log: OpenLog, tmp_path: Path) -> None:
    epoch, _ = await fill(open_log, tmp_path)
    log = open_log()
    await log.note_compacted(epoch, ROUNDS)
    log.cursors.settle("up", epoch, Lane.ROUNDS, 1, ROUNDS)
    await log.close()
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    run = Run(log)
    await run.salvage.begin()
    assert log.compacted == {epoch: ROUNDS}
    report = await run.to_the_end()
    assert (report["events"], report["lost"]) == (EVENTS, 0)
    assert report["rounds"] <= 3, "those of the current segment, whose end is not known"


async def test_gaps_and_quarantine_come_along_and_a_lost_announcement_is_repeated(
    open_log: OpenLog, tmp_path: Path
) -> None:
    await fill(open_log, tmp_path)
    log = open_log()
    await log.write(
        lambda c: c.executemany(
            "INSERT INTO gap (uplink, epoch, lane, lo, hi, why, at_ms, said_epoch, said_seq)"
            " VALUES ('up', 5, 0, ?, ?, 'age', 1, ?, ?)",
            [(1, 2, 0, 0), (3, 4, log.epoch, 7), (5, 6, log.epoch - 1, 7)],
        )
    )
    await log.write(
        lambda c: c.execute(
            "INSERT INTO quarantine (uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload)"
            " VALUES ('up', 5, 0, 9, 9, '0x99', 1, 'text/plain', x'01')"
        )
    )
    await log.write(lambda c: c.execute("UPDATE events_001 SET crc = crc + 1 WHERE seq = 7"))
    await log.close()
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    await Run(log).to_the_end()
    assert sorted((g.lo, g.hi) for g in log.unannounced) == [(1, 2), (3, 4), (7, 7)], "said in the lost event 7"
    assert await log.look(lambda c: c.execute("SELECT content_type, payload FROM quarantine").fetchall()) == [
        ("text/plain", b"\x01")
    ]


async def test_uplinks_that_are_not_configured_keep_their_place(open_log: OpenLog, tmp_path: Path) -> None:
    epoch, _ = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    await Run(log, {"another": BOTH}).to_the_end()
    assert todo(log)[(epoch, Lane.ROUNDS)] == [(ACKED + 1, ROUNDS)]
    assert todo(log)[(log.epoch, Lane.ROUNDS)] == [(1, OPEN_END)]
    assert todo(log, "another") == {}


async def test_a_log_that_ended_the_gateway_again_and_again_is_left_alone_and_announced(
    open_log: OpenLog, tmp_path: Path
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    (folder / "salvage.tries").write_text(str(2 * salvage.TRIES))
    run = Run(log)
    await run.salvage.begin()
    report = await run.to_the_end()
    assert report["gave_up"]
    assert report["lost"] == ROUNDS + EVENTS
    accounted(log, epoch, {}, before)
    assert "left alone" in run.said[0].message


async def test_a_log_that_sqlite_dies_of_is_taken_apart_by_hand(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    (folder / "salvage.tries").write_text(str(salvage.TRIES))
    monkeypatch.setattr(Wreck, "_connect", lambda self: pytest.fail("SQLite was asked"))
    run = Run(log)
    await run.salvage.begin()
    report = await run.to_the_end()
    assert not report["gave_up"]
    assert await everything(log) == before
    assert await log.unanswered_commands("", 10) == [("open", b"{}")]
    assert run.recovered == 1
    accounted(log, epoch, before, before)


async def test_the_damaged_files_are_kept_as_they_were(open_log: OpenLog, tmp_path: Path) -> None:
    await fill(open_log, tmp_path)
    spoil("first page", tmp_path / "log.db")
    before = (tmp_path / "log.db").read_bytes()
    log = open_log()
    run = Run(log)
    await run.to_the_end()
    folder = run.folder()
    assert (folder / "log.db").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir() if file.name not in ("log.db-shm", "log.db-wal")) == [
        "log.db", "log.witness", "salvaged.json",
    ]  # fmt: skip


async def test_a_stop_in_the_middle_is_no_failed_try(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    reached = asyncio.Event()

    async def forever(job: object, *, newest: bool) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(salvage.Job, "run", forever)
    task = asyncio.ensure_future(Run(log).salvage.run())
    await reached.wait()
    assert (folder / "salvage.tries").read_text() == "1"
    task.cancel()
    await asyncio.wait([task])
    assert not [name for name in os.listdir(folder) if name == "salvage.tries"]
    assert pending(tmp_path) == [folder]


async def test_a_defect_while_a_folder_is_read_counts_as_a_try(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    (folder,) = pending(tmp_path)
    monkeypatch.setattr(salvage, "Job", None)
    with pytest.raises(TypeError):
        await Run(log).salvage.run()
    assert (folder / "salvage.tries").read_text() == "1"


async def test_a_log_that_is_in_memory_is_not_filled(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    spoil("marked", tmp_path / "log.db")
    log = open_log()
    write, memory = log.write, sqlite3.connect(":memory:")
    refused = 0

    async def sometimes(job: Callable[[sqlite3.Connection], typing.Any]) -> typing.Any:
        nonlocal refused
        if refused < 3:
            refused += 1
            with pytest.raises(sqlite3.OperationalError, match="in memory"):
                job(memory)
            raise salvage.LogFault("log-write-failed", "in memory")
        return await write(job)

    monkeypatch.setattr(log, "write", sometimes)
    monkeypatch.setattr(salvage, "AGAIN_S", 0)
    await Run(log).to_the_end()
    memory.close()
    assert refused == 3
    assert await everything(log) == before
    assert all(s.number > SALVAGED for s in log.segments() if s.epoch == epoch)


@pytest.mark.parametrize("lost", ["rounds_001", "todo"])
async def test_a_log_that_is_damaged_while_it_runs_loses_and_doubles_no_more_than_its_damage(
    open_log: OpenLog, tmp_path: Path, lost: str
) -> None:
    epoch, before = await fill(open_log, tmp_path)
    log = open_log(segment_bytes=4000)
    log.begin_uplink("up", BOTH, "oldest")
    log.cursors.settle("up", epoch, Lane.ROUNDS, 1, ACKED + 10)  # it is saved nowhere yet
    first = next(s for s in log.segments() if s.lane is Lane.ROUNDS)
    await log.write(lambda c: c.execute(f"DROP TABLE {lost}"))
    batch = Batch()
    log.add_round(batch, round_of(GROUP, 1, 2))
    with contextlib.suppress(LogFault):
        await log.write(lambda c: c.execute(f"SELECT count(*) FROM {lost}"))
    damage.mark(log.path)
    log.disk.broken = LinkProblem("log-damaged", "a commit found it damaged")
    await log.housekeep(["up"])
    await log.commit(batch)
    assert log.epoch > epoch
    run = Run(log)
    report = await run.to_the_end()
    assert report["cursors"], "the running gateway knew them"
    owed = RangeSet(todo(log).get((epoch, Lane.ROUNDS), []))
    gaps = RangeSet([(g.lo, g.hi) for g in log.unannounced if (g.epoch, g.lane) == (epoch, Lane.ROUNDS)])
    wanted = RangeSet([(ACKED + 11, ROUNDS)])
    assert RangeSet([*owed, *gaps]) == wanted
    held = await everything(log)
    assert all((epoch, Lane.ROUNDS, seq) in held for lo, hi in owed for seq in range(lo, hi + 1))
    if lost == "todo":
        assert not gaps
        assert {key: body for key, body in held.items() if key[0] == epoch} == before
    else:
        assert list(gaps) == ([(ACKED + 11, first.last)] if first.last > ACKED + 10 else [])
