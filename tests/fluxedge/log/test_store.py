"""The log on a real database: commit, read, reopen, fail and go on."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import typing
from collections.abc import Mapping
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log, LogFault
from fluxedge.log import database as database_module
from fluxedge.log.body import Row, records
from fluxedge.model import OPEN_END, Event, Group, Lane, Point, Record, Round
from fluxedge.problems import LinkProblem
from fluxedge.spi import Message
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import DAY_S, START_NS, FakeClock, event_of, group_of, round_of

R, E = Lane.ROUNDS, Lane.EVENTS
GROUP = group_of("HH")


async def commit_rounds(log: Log, *numbers: int, group: Group = GROUP) -> None:
    batch = Batch()
    for number in numbers:
        log.add_round(batch, round_of(group, number, 0))
    await log.commit(batch)


def decode(rows: list[Row], groups: Mapping[int, Group]) -> list[Record]:
    return [record for row in rows for record in records(row, groups)]


async def held(log: Log, lane: Lane = R, seq: int = 1, epoch: int | None = None) -> list[tuple[int, object]]:
    """Return (seq, first value or kind) of everything from `seq` on, read as the forward loop does."""
    found: list[tuple[int, object]] = []
    while True:
        page = await log.read(epoch or log.epoch, lane, seq, 1, decode)
        page = [record for record in page if record.seq >= seq]
        if not page:
            return found
        for record in page:
            body = record.body
            found.append((record.seq, body.values[0] if isinstance(body, Round) else body.kind))
        seq = page[-1].seq + 1


async def test_what_is_committed_can_be_read_over_rows_and_segments(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=200)
    for i in range(0, 60, 3):
        await commit_rounds(log, i, i + 1, i + 2)
    assert len(log.segments()) > 1
    assert await held(log) == [(i + 1, i) for i in range(60)]
    assert await held(log, seq=50) == [(i + 1, i) for i in range(49, 60)]
    assert await held(log, seq=61) == []
    assert log.heads == {R: 60, E: 0}
    assert (log.committed_records, log.commits) == (60, 20)


async def test_lanes_have_seqs_of_their_own(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch()
    log.add_event(batch, event_of("start"))
    log.add_round(batch, round_of(GROUP, 7, 8))
    log.add_event(batch, event_of("stop"))
    await log.commit(batch)
    assert await held(log, E) == [(1, "start"), (2, "stop")]
    assert await held(log, R) == [(1, 7)]


async def test_a_large_batch_is_read_in_pieces_of_the_asked_size(open_log: OpenLog) -> None:
    log = open_log()
    for i in range(10):
        await commit_rounds(log, i)
    sizes = [len(await log.read(log.epoch, R, 1, limit, decode)) for limit in (0, 90, 10**6)]
    assert sizes[0] == 1
    assert 1 < sizes[1] < 10
    assert sizes[2] == 10


async def test_a_reopened_log_goes_on_with_its_groups_and_seqs(open_log: OpenLog) -> None:
    log = open_log()
    await commit_rounds(log, 1, 2)
    epoch = log.epoch
    await log.close()
    log = open_log()
    assert (log.epoch, log.heads[R], log.new_epoch_because) == (epoch, 2, "")
    await commit_rounds(log, 3, group=group_of("HH"))
    assert await held(log) == [(1, 1), (2, 2), (3, 3)]
    assert groups_of(log.path) == 1, "an equal group is the same group"


def groups_of(path: Path) -> int:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM groups").fetchone()[0])
    finally:
        connection.close()


async def test_a_changed_group_gets_a_new_id_and_old_rows_keep_their_meaning(open_log: OpenLog) -> None:
    log = open_log()
    old = Group("m", "g", (Point("t", "h", scale=0.1), Point("u", "h")))
    new = Group("m", "g", (Point("t", "h", scale=0.01), Point("u", "h")))
    await commit_rounds(log, 215, group=old)
    await commit_rounds(log, 215, group=new)
    await log.close()
    log = open_log()
    assert groups_of(log.path) == 2
    assert await held(log) == [(1, 21.5), (2, 2.15)]


async def test_a_group_is_written_before_its_first_use(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    batch = Batch()
    log.add_round(batch, round_of(GROUP, 1, 2))
    assert groups_of(log.path) == 0
    await log.commit(batch)
    assert groups_of(crashed_copy(log, tmp_path / "copy") / "log.db") == 1


async def test_a_round_that_cannot_be_packed_leaves_the_batch_as_it_was(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch()
    with pytest.raises(ValueError):
        log.add_round(batch, Round(GROUP, (70000, 1), (70000, 1), b"", START_NS, 0))
    assert not batch
    await commit_rounds(log, 5)
    assert await held(log) == [(1, 5)]


async def test_a_damaged_group_costs_its_rounds_and_its_id_is_not_used_again(open_log: OpenLog) -> None:
    log = open_log()
    await commit_rounds(log, 1)
    await log.close()
    connection = sqlite3.connect(log.path)
    connection.execute("UPDATE groups SET body = x'c1'")
    connection.commit()
    connection.close()
    log = open_log()
    other = group_of("HH", "m2")
    batch = Batch()
    log.add_round(batch, round_of(other, 2, 2))
    await log.commit(batch)
    connection = sqlite3.connect(f"file:{log.path}?mode=ro", uri=True)
    assert connection.execute("SELECT id FROM groups ORDER BY id").fetchall() == [(1,), (2,)]
    connection.close()


# --- crashes ----------------------------------------------------------------------------------------------------------


def crashed_copy(log: Log, to: Path) -> Path:
    """Return a state folder as a crash at this moment leaves it."""
    to.mkdir()
    for file in log.path.parent.glob("log.*"):
        shutil.copy(file, to)
    (to / "log.witness").unlink()  # a copy would be noticed
    return to


async def test_a_crash_before_the_commit_loses_the_batch_and_after_it_nothing(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1, 2)
    batch = Batch()
    log.add_round(batch, round_of(GROUP, 3, 3))
    log.cursors.settle("cloud", log.epoch, R, 1, 2)
    before = open_log(crashed_copy(log, tmp_path / "before"))
    await log.commit(batch)
    after = open_log(crashed_copy(log, tmp_path / "after"))
    assert before.epoch == after.epoch == log.epoch
    assert await held(before) == [(1, 1), (2, 2)]
    assert await held(after) == [(1, 1), (2, 2), (3, 3)]
    assert [list(ranges) for _, ranges in before.cursors.of("cloud", R)] == [[(1, OPEN_END)]]
    assert [list(ranges) for _, ranges in after.cursors.of("cloud", R)] == [[(3, OPEN_END)]]
    await commit_rounds(before, 33)
    assert (await held(before))[-1] == (3, 33)


async def test_cursors_ride_in_the_next_commit_or_are_saved_alone(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1, 2, 3)
    log.cursors.settle("cloud", log.epoch, R, 1, 1)
    await commit_rounds(log, 4)
    log.cursors.settle("cloud", log.epoch, R, 2, 3)
    commits = log.commits
    await log.save_cursors()
    await log.save_cursors()
    assert log.commits == commits + 1, "unchanged cursors are not written"
    await log.close()
    log = open_log()
    assert [list(ranges) for _, ranges in log.cursors.of("cloud", R)] == [[(4, OPEN_END)]]


async def test_closing_saves_the_cursors(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1)
    log.cursors.settle("cloud", log.epoch, R, 1, 1)
    await log.close()
    assert [list(ranges) for _, ranges in open_log().cursors.of("cloud", R)] == [[(2, OPEN_END)]]


async def test_a_log_in_use_is_not_opened_a_second_time(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    with pytest.raises(LinkProblem, match="another fluxedge is using"):
        open_log()
    await commit_rounds(log, 1)
    await log.close()
    open_log()


async def test_the_writing_connection_is_under_full(open_log: OpenLog) -> None:
    log = open_log()
    asked = ("synchronous", "journal_mode", "page_size")
    found = await log._writer.run(lambda c: [c.execute(f"PRAGMA {name}").fetchone()[0] for name in asked])
    assert found == [2, "wal", 1024]


# --- failing commits --------------------------------------------------------------------------------------------------


async def set_page_limit(log: Log, more: int) -> None:
    def job(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()

    await log._writer.run(job)


async def test_a_commit_that_fails_keeps_the_batch_its_seqs_and_the_cursors(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1)
    log.cursors.settle("cloud", log.epoch, R, 1, 1)
    log.quarantine("cloud", Message(log.epoch, R, 1, 1, b"payload", ""), "no")
    log.lose("cloud", log.epoch, R, 5, 4)  # nothing
    told: list[int] = []
    log.listeners.append(lambda: told.append(log.heads[R]))
    big = group_of("y" * 30, "big")
    batch = Batch()
    log.add_round(batch, round_of(big, *[random.Random(i).randbytes(2048) for i in range(30)]))
    await set_page_limit(log, 3)
    for _ in range(2):
        with pytest.raises(LogFault, match="SQLITE_FULL") as caught:
            await log.commit(batch)
        assert caught.value.code == "log-write-failed"
    assert (log.heads[R], told, log.cursors.dirty) == (1, [], True)
    await set_page_limit(log, 10_000)
    await log.commit(batch)
    assert (log.heads[R], told, log.cursors.dirty) == (2, [2], False)
    assert [seq for seq, _ in await held(log)] == [1, 2]
    await log.close()
    log = open_log()
    assert [list(ranges) for _, ranges in log.cursors.of("cloud", R)] == [[(2, OPEN_END)]]
    found = await log._writer.run(
        lambda c: c.execute("SELECT uplink, lo, hi, reason, payload FROM quarantine").fetchall()
    )
    assert found == [("cloud", 1, 1, "no", b"payload")]


@pytest.mark.parametrize("segment_bytes", [10, 1 << 16])
async def test_a_commit_that_was_reported_as_failed_but_happened_is_repeated_without_harm(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    log = open_log(segment_bytes=segment_bytes)
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1)
    honest = log._writer._transact

    def lying(job: typing.Any) -> None:
        honest(job)
        raise sqlite3.OperationalError("disk I/O error")

    batch = Batch()
    log.add_round(batch, round_of(group_of("HH", "m2"), 2, 2))
    log.add_event(batch, event_of("audit"))
    log.lose("cloud", log.epoch, R, 1, 1)
    monkeypatch.setattr(log._writer, "_transact", lying)
    with pytest.raises(LogFault):
        await log.commit(batch)
    monkeypatch.undo()
    await log.commit(batch)
    await commit_rounds(log, 3)
    assert await held(log) == [(1, 1), (2, 2), (3, 3)]
    assert await held(log, E) == [(1, "audit")]
    assert len(log.unannounced) == 1
    await log.close()
    log = open_log(segment_bytes=segment_bytes)
    assert await held(log) == [(1, 1), (2, 2), (3, 3)]


async def test_a_commit_that_happened_unnoticed_does_not_survive_beside_its_repetition_in_a_new_segment(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    log = open_log()
    await commit_rounds(log, 1)
    honest = log._writer._transact

    def lying(job: typing.Any) -> None:
        honest(job)
        raise sqlite3.OperationalError("disk I/O error")

    batch = Batch()
    log.add_round(batch, round_of(GROUP, 2, 2))
    monkeypatch.setattr(log._writer, "_transact", lying)
    with pytest.raises(LogFault):
        await log.commit(batch)
    monkeypatch.undo()
    clock.advance(40 * DAY_S)  # now the segment is old enough to be closed
    await log.commit(batch)
    assert len(log.segments()) == 2
    assert await held(log) == [(1, 1), (2, 2)]
    rows = await log._writer.run(lambda c: c.execute("SELECT seq FROM rounds_001").fetchall())
    assert rows == [(1,)]


async def test_a_commit_whose_caller_is_cancelled_still_counts(open_log: OpenLog) -> None:
    log = open_log()
    hold, go_on = threading.Event(), threading.Event()
    blocked = log._writer.start(lambda _: (hold.set(), go_on.wait(10)))
    await asyncio.to_thread(hold.wait, 10)
    waiting = asyncio.ensure_future(commit_rounds(log, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    others = [asyncio.ensure_future(commit_rounds(log, number)) for number in (2, 3, 4)]  # each waits for its turn
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait(others)
    await blocked
    assert [seq for seq, _ in await held(log)] == [1, 2, 3, 4]
    assert {value for _, value in await held(log)} == {1, 2, 3, 4}


CHILD = """
import asyncio, resource, signal, sys
from pathlib import Path
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import LogCfg
from fluxedge.clock import SystemClock
from fluxedge.log import Batch, Log, LogFault
from fluxedge.model import Group, Point
import os

async def main():
    log = Log(Path(sys.argv[1]), LogCfg(free_space_bytes=Bytes(0)), SystemClock())
    group = Group("m", "g", (Point("p", "y"),))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    failed = False
    while not failed:
        batch = Batch()
        log.add_round(batch, group.round((os.urandom(4000),), 1, 1))
        try:
            await log.commit(batch)
        except LogFault as fault:
            failed = True
            print("failed", log.heads[0], fault.message.split(":")[0], flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await log.commit(batch)
    print("went on", log.heads[0], flush=True)
    await log.close()

asyncio.run(main())
"""


async def test_a_file_system_that_takes_no_more_is_a_state_one_leaves(open_log: OpenLog, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    failed, went_on = done.stdout.split("\n")[:2]
    head = int(failed.split()[1])
    assert head > 10
    assert failed.split()[2] in ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
    assert went_on == f"went on {head + 1}"
    log = open_log()
    assert len(await log.read(log.epoch, R, 1, 10**9, decode)) == head + 1


# --- reading trouble --------------------------------------------------------------------------------------------------


async def test_a_segment_that_was_dropped_meanwhile_reads_as_nothing(open_log: OpenLog) -> None:
    log = open_log()
    await commit_rounds(log, 1)
    await log._writer.run(lambda c: c.execute("DROP TABLE rounds_001"))
    assert await log.read(log.epoch, R, 1, 10**6, decode) == []


async def test_a_database_that_cannot_be_read_is_a_problem_of_the_reader(open_log: OpenLog) -> None:
    log = open_log()
    await commit_rounds(log, 1)
    await log._writer.run(lambda c: c.execute("ALTER TABLE rounds_001 RENAME COLUMN body TO lost"))
    with pytest.raises(LinkProblem, match="log-damaged"):
        await log.read(log.epoch, R, 1, 10**6, decode)


async def test_records_that_cannot_be_read_become_a_gap(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "oldest")
    await commit_rounds(log, 1, 2, 3)
    log.lose("cloud", log.epoch, R, 2, 3)
    assert log.unannounced == []
    await log.commit(Batch())
    assert [(gap.lo, gap.hi, gap.why) for gap in log.unannounced] == [(2, 3, "damaged")]
    assert [list(ranges) for _, ranges in log.cursors.of("cloud", R)] == [[(1, 1), (4, OPEN_END)]]
    await log.close()
    assert [(gap.lo, gap.hi) for gap in open_log().unannounced] == [(2, 3)]


# --- uplinks ----------------------------------------------------------------------------------------------------------


def cursor(log: Log, uplink: str, lane: Lane = R) -> dict[int, list[tuple[int, int]]]:
    return {epoch: list(ranges) for epoch, ranges in log.cursors.of(uplink, lane)}


async def test_a_new_uplink_begins_at_the_oldest_or_behind_the_newest(open_log: OpenLog) -> None:
    log = open_log()
    await commit_rounds(log, 1, 2, 3)
    log.begin_uplink("all", [R, E], "oldest")
    log.begin_uplink("fresh", [R], "newest")
    assert cursor(log, "all") == {log.epoch: [(1, OPEN_END)]}
    assert cursor(log, "all", E) == {log.epoch: [(1, OPEN_END)]}
    assert cursor(log, "fresh") == {log.epoch: [(4, OPEN_END)]}


async def test_a_known_uplink_goes_on_whatever_its_start_says(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "newest")
    await commit_rounds(log, 1, 2, 3)
    log.cursors.settle("cloud", log.epoch, R, 1, 1)
    for start in ("newest", "oldest"):
        log.begin_uplink("cloud", [R], start)
        assert cursor(log, "cloud") == {log.epoch: [(2, OPEN_END)]}


async def test_a_lane_that_is_added_to_a_known_uplink_begins_as_a_new_one(open_log: OpenLog) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "newest")
    batch = Batch()
    log.add_event(batch, event_of())
    await log.commit(batch)
    log.begin_uplink("cloud", [R, E], "newest")
    assert cursor(log, "cloud", E) == {log.epoch: [(2, OPEN_END)]}


async def test_a_new_epoch_is_owed_to_known_uplinks_from_its_first_record(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.begin_uplink("cloud", [R], "newest")
    await commit_rounds(log, 1, 2, 3)
    old = log.epoch
    log.cursors.settle("cloud", old, R, 1, 1)
    await log.close()
    monkeypatch.setattr(database_module, "machine_id", lambda: "another")
    log = open_log()
    assert log.epoch > old
    await commit_rounds(log, 4)
    log.begin_uplink("cloud", [R], "newest")
    log.begin_uplink("second", [R], "oldest")
    assert cursor(log, "cloud") == {old: [(2, 3)], log.epoch: [(1, OPEN_END)]}
    assert cursor(log, "second") == {old: [(1, 3)], log.epoch: [(1, OPEN_END)]}
    assert await held(log, epoch=old, seq=2) == [(2, 2), (3, 3)]
    assert await held(log) == [(1, 4)]
    await log.close()
    log = open_log()
    assert cursor(log, "cloud") == {old: [(2, 3)], log.epoch: [(1, OPEN_END)]}


async def test_commands_and_state_commit_with_the_batch(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch(intents=[("k1", 5, b"ask"), ("k2", 6, b"ask2")], state={"alarm": b"on", "timer": b"3"})
    assert batch
    await log.commit(batch)
    await log.commit(Batch(intents=[("k1", 9, b"again")], results=[("k1", b"done")], state={"timer": None}))
    await log.close()
    log = open_log()
    assert await log.unanswered_commands("", 10) == [("k2", b"ask2")]
    assert await log.command_result("k2") == (b"ask2", None)
    assert await log.command_result("k1") == (b"ask", b"done")
    assert await log.command_result("k3") is None
    assert await log.load_state() == {"alarm": b"on"}


async def test_stamps_of_rows_and_segments_are_kept(open_log: OpenLog) -> None:
    log = open_log()
    batch = Batch()
    for at_ns in (50, 10, 90):
        log.add_round(batch, round_of(GROUP, 1, 1, at_ns=at_ns))
    log.add_event(batch, Event("audit", "x", 70, 0))
    await log.commit(batch)
    assert [(s.from_ns, s.to_ns) for s in log.segments()] == [(10, 90), (70, 70)]
    await log.close()
    assert [(s.from_ns, s.to_ns) for s in open_log().segments()] == [(10, 90), (70, 70)]
