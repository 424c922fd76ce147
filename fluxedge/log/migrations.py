"""Bringing a log.db from an older schema to the present one: forward only, one transaction a step, a copy kept.

    STATE/log.db, schema 1  --copy-->  STATE/log.schema-1.db     as it was; older copies go when this one is whole
                            --step-->  STATE/log.db, schema 2    kill -9 in the middle leaves 1 or 2, whole

A log of a newer schema is refused and not touched. One whose tables are not those of the schema that it names is
damaged. A step that was released is never changed: a mistake in it is corrected by the next one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

from fluxedge.problems import LinkProblem

SCHEMA = 2
ROOM_BYTES = 16 * 2**20  # what a copy must leave to others
COPY_S = 20.0  # a plant must not wait longer for a copy; systemd gives a start 90 s
_COPIED_AT_ONCE = 4096  # pages

STEPS = {1: "migrations/1-to-2.sql"}  # from this schema to the next one


class _TooSlow(Exception):
    """A copy takes longer than a plant can wait for it."""


@cache
def statements(name: str = "schema.sql") -> tuple[str, ...]:
    """Return the statements of a script of this package; the one by default makes an empty log.

    Read once: it is needed again when the log goes to memory, and the disk may be gone then.
    """
    script = resources.files("fluxedge.log").joinpath(name).read_text(encoding="utf-8")
    text = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    return tuple(statement.strip() for statement in text.split(";") if statement.strip())


@cache
def tables() -> frozenset[str]:
    """Return the names of the tables that a log of the present schema has at least."""
    return frozenset(statement.split()[2] for statement in statements())


def names(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the tables that a file has."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def judge(path: Path, held: set[str], schema: object) -> LinkProblem | None:
    """Say what is wrong with a file that has these tables and says that it has this schema; None: it can be opened."""
    if "meta" not in held:
        return LinkProblem("log-damaged", f"{path} is no log of fluxedge, or its first pages are damaged")
    if not isinstance(schema, int):
        return LinkProblem("log-damaged", f"{path} does not say which schema it has")
    if schema > SCHEMA:
        return LinkProblem(
            "log-write-failed",
            f"{path} has schema {schema}, this version of fluxedge knows {SCHEMA}",
            "It was written by another version; install that version, or move the file away.",
        )
    if schema != SCHEMA and schema not in STEPS:
        return LinkProblem("log-damaged", f"{path} has schema {schema}, which no version of fluxedge has written")
    if schema == SCHEMA and (missing := sorted(tables() - held)):
        return LinkProblem("log-damaged", f"{path}: there is no table {missing[0]}")
    return None


def bring_up(connection: sqlite3.Connection, path: Path) -> str:
    """Bring a log to the present schema, if it has an older one; say what was done, "" where nothing was.

    `connection` is the writing one, outside a transaction.

    Raises:
        sqlite3.Error: a step failed; the schema before it stands.
        LinkProblem: "log-damaged": the tables are not those of the schema that the file names.
    """
    first = _schema(connection)
    if first is None or first == SCHEMA:
        return ""
    kept = keep_copy(connection, path, path.with_name(f"{path.stem}.schema-{first}.db"))
    for schema in range(first, SCHEMA):
        _step(connection, path, schema)
    return f"{path} was brought from schema {first} to {SCHEMA}; {kept}"


def _schema(connection: sqlite3.Connection) -> int | None:
    """Return the schema; None in a file that is still empty."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return None
    row = connection.execute("SELECT v FROM meta WHERE k = 'schema'").fetchone()
    return int(row[0]) if row is not None else None


def _step(connection: sqlite3.Connection, path: Path, schema: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements(STEPS[schema]):
            connection.execute(statement)
        connection.execute("UPDATE meta SET v = ? WHERE k = 'schema'", (schema + 1,))
        connection.execute("COMMIT")
    except sqlite3.Error as exc:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            connection.execute("ROLLBACK")
        if getattr(exc, "sqlite_errorname", "") == "SQLITE_ERROR":  # no such table, table exists: not that schema
            raise LinkProblem("log-damaged", f"{path} has not the tables of its schema {schema}: {exc}") from exc
        raise


def keep_copy(
    connection: sqlite3.Connection, path: Path, kept: Path, now_s: Callable[[], float] = time.monotonic
) -> str:
    """Copy a log as it is, with its WAL, to `kept`; say where it is, or why there is none. It never raises for it."""
    unfinished = path.with_name(f"{path.stem}.schema.new")
    try:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize < pages * size + ROOM_BYTES:
            return f"no copy was kept: the disk has no room for {pages * size} bytes more"
        _copy(connection, unfinished, now_s() + COPY_S, now_s)
        for old in [file for file in path.parent.glob(f"{path.stem}.schema-*.db") if file.is_file()]:
            old.unlink()
        unfinished.replace(kept)
    except (sqlite3.Error, OSError, _TooSlow) as exc:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        return f"no copy was kept: {exc}"
    return f"as it was before it is in {kept}"


def _copy(connection: sqlite3.Connection, target: Path, deadline_s: float, now_s: Callable[[], float]) -> None:
    def watch(status: int, remaining: int, total: int) -> None:
        if now_s() > deadline_s:
            raise _TooSlow(f"it took longer than {COPY_S:g} s")

    target.unlink(missing_ok=True)
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        copy.execute("PRAGMA synchronous = OFF")  # once, below
        connection.backup(copy, pages=_COPIED_AT_ONCE, progress=watch)
    finally:
        copy.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())
