"""How much each uplink has lost to gaps, as far as the log remembers them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import aiosqlite

from fluxedge.log.retention import Gap
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem


async def lost_records(path: Path) -> dict[str, int]:
    """Return uplink -> records that became gaps.

    Raises:
        LinkProblem: "log-damaged": the log cannot be read.
    """
    try:
        async with aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True) as connection:
            rows = await connection.execute_fetchall("SELECT uplink, sum(hi - lo + 1) FROM gap GROUP BY uplink")
    except sqlite3.Error as exc:
        raise LinkProblem("log-damaged", f"{path}: {exc}") from exc
    return {str(uplink): int(count) for uplink, count in rows}


def of_uplink(connection: sqlite3.Connection, uplink: str, limit: int) -> tuple[int, list[tuple[Gap, int, bool]]]:
    """Return how many records an uplink has lost, and its newest gaps: (gap, at_ms, is it announced)."""
    (total,) = connection.execute(
        "SELECT coalesce(sum(hi - lo + 1), 0) FROM gap WHERE uplink = ?", (uplink,)
    ).fetchone()
    found = connection.execute(
        "SELECT id, epoch, lane, lo, hi, why, at_ms, said_seq > 0 FROM gap WHERE uplink = ? ORDER BY id DESC LIMIT ?",
        (uplink, limit),
    )
    return total, [
        (Gap(number, uplink, epoch, Lane(lane), lo, hi, why), at_ms, bool(said))
        for number, epoch, lane, lo, hi, why, at_ms, said in found.fetchall()
    ]
