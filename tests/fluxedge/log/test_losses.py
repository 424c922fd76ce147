"""What uplinks have lost."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest

from fluxedge.log.losses import lost_records, of_uplink
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.conftest import OpenLog


async def test_gaps_are_counted_in_records_per_uplink(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    connection = sqlite3.connect(path)
    connection.executescript("""
        CREATE TABLE gap (uplink TEXT, lo INTEGER, hi INTEGER);
        INSERT INTO gap VALUES ('cloud', 1, 10), ('cloud', 21, 21), ('site', 5, 6);
    """)
    connection.close()
    assert await lost_records(path) == {"cloud": 11, "site": 2}


async def test_a_log_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(LinkProblem):
        await lost_records(tmp_path / "log.db")


async def test_the_gaps_of_one_uplink_come_newest_first_with_their_total(open_log: OpenLog) -> None:
    log = open_log()
    log.lose("cloud", 1, Lane.ROUNDS, 1, 10, "age")
    log.lose("cloud", 1, Lane.EVENTS, 3, 3, "backlog")
    log.lose("site", 1, Lane.ROUNDS, 1, 1, "age")
    await log.save_cursors()
    total, (gap,) = await log.look(partial(of_uplink, uplink="cloud", limit=1))
    assert total == 11
    assert (gap[0].lane, gap[0].lo, gap[0].why, gap[2]) == (Lane.EVENTS, 3, "backlog", False)
    assert await log.look(partial(of_uplink, uplink="nobody", limit=1)) == (0, [])
