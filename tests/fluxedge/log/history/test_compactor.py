"""The compactor: closed hours are copied once, whatever interrupts it; damage costs what is damaged."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest

from fluxedge.log.batch import Batch
from fluxedge.log.history import compactor as child
from fluxedge.log.history import copying, days, seam
from fluxedge.model import Flag, Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of
from tests.fluxedge.log.history.compacting import (
    FIRST_HOUR_NS,
    HOUR_NS,
    at_hour,
    body_of,
    compact,
    doubles,
    fill,
    history,
    logged,
    rounds_in,
    upto_of,
)


async def test_closed_hours_are_copied_and_the_open_one_is_not(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    groups = [group_of("Hf", "m1"), group_of("?sy"[:1], "m2")]
    at_hour(clock, 0)
    await fill(log, clock, groups, 130)  # two hours and ten minutes
    lines = await compact(log, clock)
    assert [line["rounds"] for line in lines if "epoch" in line] == [120, 120]
    assert lines[-1]["done"]
    found = history(tmp_path)
    assert [r.seq for r in found] == list(range(1, 241))
    assert found == (await logged(log))[:240]
    assert log.compacted == {log.epoch: 240}
    assert (await compact(log, clock))[:-1] == []


async def test_a_quiet_gateway_still_compacts_its_last_hour(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0.5)
    await fill(log, clock, [group_of()], 3, 1.0)
    assert (await compact(log, clock))[:-1] == []
    at_hour(clock, 1.01)
    await compact(log, clock)
    assert len(history(tmp_path)) == 3


async def test_the_hour_ends_inside_a_commit(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log()
    group = group_of()
    at_hour(clock, 1)
    batch = Batch()
    for i in range(-3, 3):
        log.add_round(batch, group.round((1, 2), clock.wall_ns() + i * 10**9, clock.mono_ns()))
    clock.advance(3)
    await log.commit(batch)
    at_hour(clock, 1.1)
    await compact(log, clock)
    assert log.compacted[log.epoch] == 3
    at_hour(clock, 2.1)
    await compact(log, clock)
    assert [r.seq for r in history(tmp_path)] == [1, 2, 3, 4, 5, 6]


async def test_late_rounds_go_to_the_hour_of_their_stamp(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log()
    group = group_of()
    at_hour(clock, 30)
    await fill(log, clock, [group], 5)
    batch = Batch()
    stamps = [clock.wall_ns() - late_h * HOUR_NS for late_h in (26, 2, 50)]
    for at_ns in stamps:
        log.add_round(batch, group.round((1, 2), at_ns, clock.mono_ns(), flags=Flag.SOURCE_TIME | Flag.HISTORICAL))
    await log.commit(batch)
    at_hour(clock, 32)
    await compact(log, clock)
    found = history(tmp_path)
    assert [body_of(r).at_ns for r in found][-3:] == stamps
    assert len(days.files(days.folder_of(tmp_path))) == len({at_ns // (24 * HOUR_NS) for at_ns in stamps} | {
        clock.wall_ns() // (24 * HOUR_NS)
    })  # fmt: skip
    assert found == await logged(log)


async def test_a_stamp_that_cannot_be_is_filed_under_its_arrival_and_kept(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    group = group_of()
    at_hour(clock, 0)
    batch = Batch()
    for at_ns in (2**63 - 1, -(2**63), 0, clock.wall_ns() + 3 * 24 * HOUR_NS):
        log.add_round(batch, group.round((1, 2), at_ns, clock.mono_ns(), flags=Flag.SOURCE_TIME))
    await log.commit(batch)
    at_hour(clock, 1.1)
    await compact(log, clock)
    assert [path.stem for _, path in days.files(days.folder_of(tmp_path))] == [
        days.path_of(tmp_path, FIRST_HOUR_NS // (24 * HOUR_NS)).stem
    ]
    assert history(tmp_path) == await logged(log)


async def test_unsynced_rounds_wait_for_the_clock_and_are_placed_by_it(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    group = group_of()
    at_hour(clock, 0)
    await fill(log, clock, [group], 2)
    batch = Batch()
    log.add_round(batch, group.round((1, 2), 86_400 * 10**9, clock.mono_ns(), flags=Flag.CLOCK_UNSYNCED))
    await log.commit(batch)
    unsynced_ns = clock.wall_ns()
    at_hour(clock, 2)
    lines = await compact(log, clock)
    assert log.compacted[log.epoch] == 2
    assert "clock" in lines[-1]["waiting"][0]
    at_hour(clock, 3)
    now_ms = (log.boot, clock.mono_ns() // 10**6, clock.wall_ns() // 10**6, "ntp")
    await log.write(lambda c: c.execute("INSERT INTO clock VALUES (?, ?, ?, ?)", now_ms))
    assert (await compact(log, clock))[-1]["waiting"] == []
    placed = body_of(history(tmp_path)[2])
    assert abs(placed.at_ns - unsynced_ns) < 10**6
    assert placed.flags == Flag.CLOCK_UNSYNCED


async def test_after_a_day_unsynced_rounds_go_by_their_own_stamps(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    group = group_of()
    at_hour(clock, 0)
    batch = Batch()
    stamp_ns = clock.wall_ns() - 5 * HOUR_NS
    log.add_round(batch, group.round((1, 2), stamp_ns, clock.mono_ns(), flags=Flag.CLOCK_UNSYNCED))
    await log.commit(batch)
    at_hour(clock, 23)
    await compact(log, clock)
    assert history(tmp_path) == []
    at_hour(clock, 25)
    await compact(log, clock)
    assert [body_of(r).at_ns for r in history(tmp_path)] == [stamp_ns]


async def test_an_old_epoch_is_copied_first_and_to_its_end(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    old = log.epoch
    await log.close()
    (tmp_path / "log.witness").write_bytes(
        json.dumps({"epoch": old, "machine": "", "heads": {"rounds": 10**6}, "inode": 0}).encode()
    )
    log = open_log()
    assert log.epoch > old
    await fill(log, clock, [group_of()], 70)
    lines = await compact(log, clock)
    assert [line["epoch"] for line in lines if "epoch" in line] == [old, old, log.epoch]
    assert sum(r.epoch == old for r in history(tmp_path)) == 70
    assert doubles(history(tmp_path)) == []


async def test_a_damaged_row_is_skipped_and_counted(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    table = log.segments()[0].table
    await log.write(lambda c: c.execute(f"UPDATE {table} SET body = x'00' WHERE seq = 5"))
    lines = await compact(log, clock)
    assert lines[0]["skipped_rows"] == 1
    assert [r.seq for r in history(tmp_path)] == [i for i in range(1, 61) if i != 5]


async def test_a_run_that_was_not_noted_is_repeated_without_doubles_over_a_growing_log(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    groups = [group_of("H", "m1"), group_of("f", "m2")]
    at_hour(clock, 0)
    await fill(log, clock, groups, 70)
    await compact(log, clock, note=False)
    assert history(tmp_path, upto_of(log)) == []  # a reader does not count it
    await fill(log, clock, groups, 60)
    await compact(log, clock)
    found = history(tmp_path, upto_of(log))
    assert found == history(tmp_path)
    assert found == (await logged(log))[:240]
    assert not seam.load(days.folder_of(tmp_path)).open
    assert {key: value[0] for key, value in rounds_in(tmp_path).items() if key[0] == 3600} == {
        (3600, FIRST_HOUR_NS // (24 * HOUR_NS)): 240
    }


async def test_what_was_copied_but_never_noted_is_told_and_not_copied_again(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    await compact(log, clock, note=False)  # the daemon died, or log.db was salvaged or restored without its note
    lines = await compact(log, clock)
    assert lines[0] == {"epoch": log.epoch, "upto": 60}
    assert [line for line in lines[1:] if "epoch" in line] == []
    assert log.compacted == {log.epoch: 60}
    assert history(tmp_path, upto_of(log)) == (await logged(log))[:60]


async def test_a_history_that_was_thrown_away_begins_anew_behind_what_is_noted(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    await compact(log, clock)
    shutil.rmtree(days.folder_of(tmp_path))
    await fill(log, clock, [group_of()], 60)
    await compact(log, clock)
    assert [r.seq for r in history(tmp_path)] == list(range(61, 121))


async def test_small_budgets_and_chunks_change_nothing(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    groups = [group_of("HfHs"[:3], f"m{i}") for i in range(7)]
    at_hour(clock, 0)
    await fill(log, clock, groups, 70)
    monkeypatch.setattr(copying, "CHUNK_BYTES", 500)
    monkeypatch.setattr(child, "BUDGET_BYTES", 3000)
    await compact(log, clock)
    assert history(tmp_path) == (await logged(log))[: 60 * 7]


async def test_a_damaged_day_is_set_aside_and_made_anew_from_the_log(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 130)
    await compact(log, clock)
    [(_, path)] = days.files(days.folder_of(tmp_path))
    path.write_bytes(b"no database" * 1000)
    await fill(log, clock, [group_of()], 60)
    lines = await compact(log, clock)
    assert [line["damaged"] for line in lines if "damaged" in line] == [path.stem]
    assert path.with_suffix(".damaged").read_bytes().startswith(b"no database")
    assert history(tmp_path) == (await logged(log))[:180]


async def test_making_a_day_anew_survives_a_kill(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of("H", "m1"), group_of("H", "m2")], 130)
    await compact(log, clock)
    [(_, path)] = days.files(days.folder_of(tmp_path))
    path.write_bytes(b"no database" * 1000)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    for owner, name in ((days, "set_aside"), (copying.Copier, "copy_day"), (copying.DayWriter, "write_rollup")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(Killed):
                await compact(log, clock, suspects=[path.stem])
    await compact(log, clock)
    assert history(tmp_path) == (await logged(log))[:240]
    assert path.with_suffix(".damaged").read_bytes().startswith(b"no database")


async def test_a_suspected_day_is_looked_at(open_log: OpenLog, clock: FakeClock, tmp_path: Path) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)
    await compact(log, clock)
    [(_, path)] = days.files(days.folder_of(tmp_path))
    assert (await compact(log, clock, suspects=[path.stem, "1999-01-01", "../x"]))[:-1] == []
    with path.open("r+b") as file:
        file.seek(2048 * 3)
        file.write(b"\xff" * 4096)
    lines = await compact(log, clock, suspects=[path.stem])
    assert lines[0]["damaged"] == path.stem
    assert history(tmp_path) == (await logged(log))[:60]


def command_of(state: Path, clock: FakeClock, boot: int) -> list[str]:
    return [
        sys.executable, "-m", "fluxedge.log.history.compactor", str(state), "--wall-ns", str(clock.wall_ns()),
        "--mono-ns", str(clock.mono_ns()), "--boot", str(boot), "--oldest-ns", "0",
    ]  # fmt: skip


def killed_after(seconds: float, state: Path, clock: FakeClock, boot: int) -> list[str]:
    """Run the child for so long at most; return what it has said."""
    process = subprocess.Popen(command_of(state, clock, boot), stdout=subprocess.PIPE, text=True)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    with process.stdout:
        lines = process.stdout.read().splitlines()
    process.wait()
    return lines


async def test_killed_at_any_moment_and_run_again_nothing_is_missing_or_double(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    log = open_log()
    groups = [group_of("HfHH", f"m{i}") for i in range(5)]
    at_hour(clock, 20)  # over midnight: two day files
    await fill(log, clock, groups, 360)
    rng = random.Random(5)
    whole_s = 0.0
    for attempt in range(8):
        await fill(log, clock, groups, 30)  # the log grows between
        began_s = time.monotonic()
        lines = killed_after(rng.uniform(0.1, 1.0) * whole_s if attempt else 60, tmp_path, clock, log.boot)
        whole_s = whole_s or time.monotonic() - began_s
        noted: list[dict[str, typing.Any]] = [json.loads(line) for line in lines if line.startswith('{"epoch')]
        for line in noted[: rng.randrange(len(noted) + 1)]:  # the daemon dies as well, before it notes the rest
            await log.note_compacted(line["epoch"], line["upto"])
        counted = history(tmp_path, upto_of(log))
        assert doubles(counted) == []
        assert [r.seq for r in counted if r.seq <= log.compacted.get(log.epoch, 0)] == list(
            range(1, log.compacted.get(log.epoch, 0) + 1)
        )
    await compact(log, clock)
    found = history(tmp_path)
    assert found == (await logged(log))[: len(found)]
    assert len(found) == log.compacted[log.epoch]
    assert sum(rounds for (level, _), (rounds, _) in rounds_in(tmp_path).items() if level == 3600) == len(found)


async def test_steps_of_a_kill_are_all_survived(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    at_hour(clock, 22)
    await fill(log, clock, [group_of("H", "m1"), group_of("H", "m2")], 250)

    class Killed(BaseException):
        pass

    steps = 0

    def dying(name: str, owner: type) -> None:
        original = getattr(owner, name)

        def step(*args: object) -> object:
            nonlocal steps
            steps += 1
            if steps == die_at:
                raise Killed
            return original(*args)

        monkeypatch.setattr(owner, name, step)

    for name in ("begin", "write_chunk", "write_rollup", "commit", "close"):
        dying(name, copying.DayWriter)
    for die_at in range(1, 60, 3):  # noqa: B007 (read by `step`)
        steps = 0
        try:
            await compact(log, clock)
        except Killed:
            assert doubles(history(tmp_path, upto_of(log))) == []
    die_at = 0
    await compact(log, clock)
    found = history(tmp_path)
    assert found == (await logged(log))[: len(found)]
    assert len(found) == 480


def test_two_compactors_do_not_work_at_once(tmp_path: Path, clock: FakeClock) -> None:
    folder = days.folder_of(tmp_path)
    folder.mkdir()
    handle = child.lock(folder)
    done = subprocess.run(command_of(tmp_path, clock, 1), capture_output=True, text=True, timeout=60)
    child.os.close(handle)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"failed": "another compactor is at work"})


def test_a_log_that_is_not_there_is_said(tmp_path: Path, clock: FakeClock) -> None:
    done = subprocess.run(command_of(tmp_path, clock, 1), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "unable to open" in json.loads(done.stdout)["failed"]


async def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_lost(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    at_hour(clock, 0)
    await fill(log, clock, [group_of()], 70)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(copying.DayWriter, "commit", full)
        with pytest.raises(sqlite3.OperationalError):
            await compact(log, clock)
    assert log.compacted == {}
    await compact(log, clock)
    assert history(tmp_path) == (await logged(log, log.epoch))[:60]
    assert log.heads[Lane.ROUNDS] == 70
