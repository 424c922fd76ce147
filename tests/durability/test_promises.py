"""The examination of a log finds each kind of broken promise."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from fluxedge.log import Batch
from fluxedge.model import Event, Group, Lane, Point
from tests.durability.committing import Promiser, PromisingLog
from tests.durability.promises import UPLINK, Promises, examine

pytestmark = pytest.mark.durability

GROUP = Group("m1", "main", (Point("p", "f"),))
AT_NS = 1_800_000_000 * 10**9


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir()
    return made


@pytest.fixture
def promises(state: Path) -> Promises:
    """Commit ten batches, acknowledge some of them, close the log; return what was promised."""
    found = Promises()
    found.take(asyncio.run(_commit(state)))
    return found


async def _commit(state: Path) -> str:
    log = PromisingLog(state)
    log.begin_uplink(UPLINK, list(Lane), "oldest")
    told = state / "promises"
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log.listeners.append(Promiser(log, out, random.Random(3)).committed)
    for number in range(10):
        batch = Batch()
        for value in range(3):
            log.add_round(batch, GROUP.round([float(value)], AT_NS, 10**9))
        log.add_event(batch, Event("audit", "gateway", AT_NS, 10**9, {"n": number}))
        batch.intents.append((f"k{number}", 1, b"request"))
        await log.commit(batch)
    await log.close()
    os.close(out)
    return told.read_text()


def _stream(promises: Promises) -> tuple[int, Lane]:
    return promises.epochs[-1], Lane.ROUNDS


def test_a_log_that_keeps_its_promises_is_found_innocent(state: Path, promises: Promises) -> None:
    found = examine(state, promises)
    assert (found.broken, found.lost, found.held) == ([], 0, 40)
    assert promises.acknowledged


def test_a_row_that_is_gone_is_a_loss(state: Path, promises: Promises) -> None:
    promises.rows[_stream(promises)][31] = (2, 5)
    found = examine(state, promises)
    assert found.lost == 2
    assert "31..32 was promised and is gone" in " ".join(found.broken)


def test_a_row_with_other_content_is_found(state: Path, promises: Promises) -> None:
    promises.rows[_stream(promises)][4] = (3, 5)
    assert "was promised" in " ".join(examine(state, promises).broken)


def test_a_cursor_that_moved_without_an_acknowledgement_is_found(state: Path, promises: Promises) -> None:
    promises.acknowledged.clear()
    assert "the cursor is beyond" in " ".join(examine(state, promises).broken)


def test_a_command_that_was_forgotten_is_a_loss(state: Path, promises: Promises) -> None:
    promises.take("I k9\nI k10\n")
    found = examine(state, promises)
    assert found.lost == 1
    assert found.broken == ["the intent k10 was promised and is gone"]


def test_a_seq_that_is_given_twice_is_found(state: Path, promises: Promises) -> None:
    promises.take(f"P {promises.epochs[-1]} 0 30 1 7\n")
    assert "was given twice" in " ".join(examine(state, promises).broken)


def test_an_epoch_that_begins_without_need_is_found(state: Path, promises: Promises) -> None:
    promises.epochs.append(1)
    assert "a new epoch begins" in " ".join(examine(state, promises).broken)


def test_a_line_that_was_cut_short_promises_nothing() -> None:
    promises = Promises()
    assert promises.take("O 5\nP 5 0 1 2 77\nP 5 0 3 1") == 1
    assert promises.records == 2


def test_what_was_said_after_the_fault_is_no_promise() -> None:
    promises = Promises()
    promises.take_late("P 5 0 1 2 77\nA 5 0 1 2\nI k\n")
    assert promises.records == 0
    assert not promises.intents
    assert list(promises.acknowledged[5, Lane.ROUNDS]) == [(1, 2)]
