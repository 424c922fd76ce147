"""What uplinks have lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fluxedge.log.losses import lost_records
from fluxedge.problems import LinkProblem


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
