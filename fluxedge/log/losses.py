"""How much each uplink has lost to gaps, as far as the log remembers them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import aiosqlite

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
