"""What the log remembers of commands."""

from __future__ import annotations

import sqlite3

import pytest

from fluxedge.log import Batch, intents
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import DAY_S, FakeClock


async def test_commands_beyond_their_number_are_forgotten_however_young(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "KEPT", 100)
    monkeypatch.setattr(intents, "FORGOTTEN_AT_ONCE", 30)
    log = open_log()
    keys = [f"k{i}" for i in range(250)]
    now_ms = clock.wall_ns() // 10**6
    batch = Batch(intents=[(key, now_ms + i, b"ask") for i, key in enumerate(keys)])
    batch.results = [(key, b"done") for key in keys[5:]]
    await log.commit(batch)
    turns = 1
    while await log.housekeep([]):
        turns += 1
    assert turns == 6
    left = [key for key in keys if await log.command_result(key) is not None]
    assert left == keys[:5] + keys[-95:]


async def test_many_old_commands_are_forgotten_in_small_transactions(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "FORGOTTEN_AT_ONCE", 30)
    log = open_log()
    keys = [f"k{i}" for i in range(100)]
    await log.commit(Batch(intents=[(key, 5, b"ask") for key in keys], results=[(key, b"done") for key in keys]))
    clock.advance(1e9)
    sizes: list[int] = []
    honest = intents.forget

    def forget(connection: sqlite3.Connection, now_ms: int | None) -> bool:
        before = connection.total_changes
        more = honest(connection, now_ms)
        sizes.append(connection.total_changes - before)
        return more

    monkeypatch.setattr(intents, "forget", forget)
    while await log.housekeep([]):
        pass
    assert sizes == [30, 30, 30, 10]


async def test_interrupted_commands_come_in_pages(open_log: OpenLog) -> None:
    log = open_log()
    keys = [f"k{i:02}" for i in range(25)]
    batch = Batch(intents=[(key, 1, key.encode()) for key in keys], results=[("k07", b"done")])
    await log.commit(batch)
    pages = [await log.unanswered_commands("", 10)]
    while pages[-1]:
        pages.append(await log.unanswered_commands(pages[-1][-1][0], 10))
    assert [len(page) for page in pages] == [10, 10, 4, 0]
    assert [key for page in pages for key, _ in page] == [key for key in keys if key != "k07"]
    assert pages[0][0] == ("k00", b"k00")


async def test_what_cannot_be_read_is_a_problem_and_no_unknown_key(open_log: OpenLog) -> None:
    log = open_log()
    with sqlite3.connect(log.path) as connection:
        connection.execute("DROP TABLE intents")
    connection.close()
    with pytest.raises(LinkProblem, match="log-damaged"):
        await log.command_result("k1")


async def test_a_command_from_before_the_clock_was_set_is_remembered_for_a_day_from_then_on(
    open_log: OpenLog, clock: FakeClock
) -> None:
    clock.is_trusted = False
    log = open_log()
    stamps = [intents.stamp_ms(log.trusted_ms(), mono_ms) for mono_ms in (1_000, 2_000)]
    assert stamps[0] < stamps[1] < 0  # the oldest goes first when there are too many
    await log.commit(Batch(intents=[("k", stamps[0], b"ask")], results=[("k", b"done")]))
    clock.advance(10 * DAY_S)
    await log.housekeep([])
    clock.is_trusted = True
    assert intents.stamp_ms(log.trusted_ms(), 3_000) == clock.wall_ns() // 10**6
    for _ in range(2):
        await log.housekeep([])
        assert await log.command_result("k") is not None
        clock.advance(0.9 * DAY_S)
    await log.housekeep([])
    assert await log.command_result("k") is None


async def test_a_clock_that_leaps_forgets_no_command(open_log: OpenLog, clock: FakeClock) -> None:
    log = open_log()
    at_ms = intents.stamp_ms(log.trusted_ms(), 0)
    await log.commit(Batch(intents=[("k", at_ms, b"ask")], results=[("k", b"done")]))
    clock.now_ns += int(365 * DAY_S) * 10**9
    await log.housekeep([])
    assert await log.command_result("k") is not None
