"""Opening log.db: lock, settings, schema, boot number, and the epoch with its witness.

The epoch tells one life of the log from another. A witness file beside the database (epoch, heads, machine id, inode)
notices a log that was copied, restored from a backup or rolled back: its seqs could be used a second time for other
records, and a receiver that deduplicates would throw the new ones away. Then a new epoch begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import typing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from fluxedge.clock import Clock, boot_id, machine_id
from fluxedge.log import damage, segments
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

SCHEMA = 1
PAGE_BYTES = 1024  # 15.9 against 23.1 bytes per point on the disk at 4096, measured
WRITER_PRAGMAS = (
    f"page_size = {PAGE_BYTES}",  # before the first table
    "auto_vacuum = 0",
    "journal_mode = WAL",
    "synchronous = FULL",  # NORMAL lost up to 37 commits in 80 simulated power cuts, FULL none
    "wal_autocheckpoint = 1000",  # about 1 MB: a larger WAL writes more, not less
    "secure_delete = 0",  # Debian's library is built with it
)
_SYNCHRONOUS_FULL = 2
_HINT = "Is the folder writable for the user that runs fluxedge, and the disk healthy?"

Meta = dict[str, int | str]


class Witness(msgspec.Struct, frozen=True):
    """What the file beside the log remembers of it."""

    epoch: int
    machine: str
    heads: dict[str, int]  # lane label -> last seq
    inode: int = 0  # of log.db: another one means that it was copied or restored; 0 = not known


@dataclass(slots=True)
class Opened:
    """A log.db that is ready to be written."""

    connection: sqlite3.Connection
    epoch: int
    boot: int
    segments: list[Segment]
    heads: dict[Lane, int]
    new_epoch_because: str  # empty: the epoch goes on, or the log is new


def lock(path: Path) -> typing.BinaryIO:
    """Keep every other fluxedge away from a log until the returned file is closed or this process dies.

    A file of its own: closing any other handle of log.db would give up SQLite's locks on it.

    Raises:
        LinkProblem: "log-write-failed": another process has it, or the folder cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as exc:
        raise LinkProblem("log-write-failed", f"{path}: {exc.strerror}", _HINT) from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise LinkProblem(
            "log-write-failed",
            f"another fluxedge is using {path.parent}",
            "Stop it first, or give this one a folder of its own with --state.",
        ) from exc
    return file


def connect(path: Path) -> sqlite3.Connection:
    """Open the one writing connection.

    Raises:
        LinkProblem: "log-write-failed", with the reason.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in WRITER_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        _check_settings(connection, path)
    except (sqlite3.Error, LinkProblem) as exc:
        if connection is not None:
            connection.close()
        raise problem_of(path, exc) from exc
    return connection


def connect_reading(path: Path) -> sqlite3.Connection:
    """Open the connection that reads beside the writing one."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    return connection


def inode(path: Path) -> int:
    """Return which file a log is; 0 when there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _check_settings(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite keeps silent when it cannot do what a PRAGMA asks for."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if mode != "wal" or synchronous != _SYNCHRONOUS_FULL:
        raise LinkProblem(
            "log-write-failed",
            f"{path}: journal mode {mode}, synchronous {synchronous}; WAL with FULL is needed to keep records",
            "Put the state folder on a local file system.",
        )


def open_log(path: Path, witness_path: Path, clock: Clock) -> Opened:
    """Open or make the log; called once, before the loop's work begins.

    Raises:
        LinkProblem: "log-write-failed", or a schema that this version does not know; "log-damaged".
    """
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        opened = _open(connection, path, read_witness(witness_path), clock)
        connection.execute("COMMIT")
    except (sqlite3.Error, LinkProblem, ValueError, TypeError, OverflowError) as exc:
        connection.close()  # rolls back
        raise problem_of(path, exc) from exc
    write_witness(witness_path, path, opened.epoch, opened.heads)
    return opened


def problem_of(path: Path, exc: Exception) -> LinkProblem:
    """Say what an error while opening a log means: "log-damaged" where it can be set aside."""
    if isinstance(exc, LinkProblem):
        return exc
    if damage.is_damage(exc):
        return LinkProblem("log-damaged", f"{path}: {exc}", "Move the file away; the gateway starts a new one.")
    return LinkProblem("log-write-failed", f"{path}: {exc}", _HINT)


def _open(connection: sqlite3.Connection, path: Path, witness: Witness | None, clock: Clock) -> Opened:
    """Bring schema, boot number and epoch up to date; inside the caller's transaction."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if not tables and pages <= 1:  # new, or its first start was cut short
        _create(connection)
    elif "meta" not in tables:
        raise LinkProblem("log-damaged", f"{path} is no log of fluxedge, or its first pages are damaged")
    meta: Meta = dict(connection.execute("SELECT k, v FROM meta"))
    if not isinstance(meta.get("schema"), int):
        raise LinkProblem("log-damaged", f"{path} does not say which schema it has")
    if meta["schema"] != SCHEMA:
        raise LinkProblem(
            "log-write-failed",
            f"{path} has schema {meta.get('schema')}, this version of fluxedge knows {SCHEMA}",
            "It was written by another version; install that version, or move the file away.",
        )
    found = segments.load(connection)
    epoch, because = _judge_epoch(meta, found, witness, os.stat(path).st_ino, clock)
    boot = int(meta.get("boot", 0)) + (meta.get("boot_id") != boot_id())
    now: Meta = {"schema": SCHEMA, "epoch": epoch, "machine": machine_id(), "boot": boot, "boot_id": boot_id()}
    # Always something new: on a file that may only be read SQLite begins a write transaction without complaint.
    now["opened_ms"] = max(clock.wall_ns() // 10**6, int(meta.get("opened_ms", 0)) + 1)
    changes = [(key, value) for key, value in now.items() if meta.get(key) != value]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes)
    return Opened(connection, epoch, boot, found, {lane: _head(found, lane, epoch) for lane in Lane}, because)


def _create(connection: sqlite3.Connection) -> None:
    script = resources.files("fluxedge.log").joinpath("schema.sql").read_text(encoding="utf-8")
    statements = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    for statement in statements.split(";"):  # executescript would commit
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))


def _head(found: list[Segment], lane: Lane, epoch: int) -> int:
    return max((segment.last for segment in found if segment.lane is lane and segment.epoch == epoch), default=0)


def _judge_epoch(
    meta: Meta, found: list[Segment], witness: Witness | None, inode: int, clock: Clock
) -> tuple[int, str]:
    """Return the epoch to write in, and why it is a new one (empty: it is not, or there was none)."""
    last = int(meta.get("epoch", 0))
    because = _why_new(meta, last, found, witness, inode)
    if last and not because:
        return last, ""
    seen = max(last, witness.epoch if witness else 0)
    return max(seen + 1, clock.wall_ns() // 10**6), because


def _why_new(meta: Meta, last: int, found: list[Segment], witness: Witness | None, inode: int) -> str:
    if not last:
        return "" if witness is None else "the log is gone, its witness is not"
    if meta.get("machine", "") != machine_id():
        return "the log comes from another machine"
    if witness is None or witness.epoch < last:  # deleted, or its last update was cut short
        return ""
    if witness.epoch > last:
        return "the log is older than its witness"
    if witness.inode not in (0, inode):
        return "the log was copied or restored"
    for lane in Lane:
        seen, head = witness.heads.get(lane.label, 0), _head(found, lane, last)
        if seen > head:
            return f"{lane.label} end at {head}, their witness saw {seen}"
    return ""


def read_witness(path: Path) -> Witness | None:
    """Return what the witness remembers; None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Witness)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_witness(path: Path, log_path: Path, epoch: int, heads: dict[Lane, int]) -> None:
    """Replace the witness (blocking); a failure is harmless, the old one stays."""
    temporary = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        labelled = {lane.label: head for lane, head in heads.items()}
        witness = Witness(epoch, machine_id(), labelled, log_path.stat().st_ino)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(witness))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
