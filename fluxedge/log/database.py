"""Opening log.db: lock, settings, schema, boot number, and the epoch with its witness.

The epoch tells one life of the log from another. A witness file beside the database (epoch, heads, machine id, inode,
size of the WAL) notices a log that was copied, restored from a backup or rolled back: its seqs could be used a second
time for other records, and a receiver that deduplicates would throw the new ones away. Then a new epoch begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import typing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fluxedge.clock import Clock, boot_id, machine_id
from fluxedge.log import damage, migrations, segments, wal
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

SCHEMA = migrations.SCHEMA
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
    wal_bytes: int = 0  # of log.db-wal, which never shrinks while a log is open; 0 = the log was closed
    boot: int = 0  # number of the boot, and the kernel's id of it: they go on in the log after a damaged one
    boot_id: str = ""
    groups: dict[int, bytes] = {}  # number -> key: rounds cannot be read without, and the log may lose its own


class Missing(typing.NamedTuple):
    """Records that the witness knows to have been committed, and that the log does not hold."""

    epoch: int
    lane: Lane
    lo: int
    hi: int


@dataclass(slots=True)
class Opened:
    """A log.db that is ready to be written."""

    connection: sqlite3.Connection
    epoch: int
    boot: int
    segments: list[Segment]
    heads: dict[Lane, int]
    new_epoch_because: str  # empty: the epoch goes on, or the log is new
    missing: list[Missing]  # records that were committed, and are not in the log any more
    migrated: str = ""  # from which schema, and where the copy is; empty: it had the present one


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
    except LinkProblem:
        if connection is not None:
            connection.close()
        raise
    except sqlite3.Error as exc:
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
    witness = read_witness(witness_path)
    cut = look_at(path, witness)
    connection = connect(path)
    try:
        migrated = migrations.bring_up(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        opened = _open(connection, path, witness, cut, clock)
        connection.execute("COMMIT")
    except LinkProblem:  # it knows its cause, by which a disk that fails is told from a wrong place
        connection.close()
        raise
    except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as exc:
        connection.close()  # rolls back
        raise problem_of(path, exc) from exc
    opened.migrated = migrated
    write_witness(witness_path, path, opened.epoch, opened.heads, opened.boot)
    return opened


def look_at(path: Path, witness: Witness | None) -> str:
    """Look at a log without changing it; say what is wrong with the end of its WAL, "" where nothing is.

    Raises:
        LinkProblem: as `open_log`: it is damaged, no log of ours, or of a newer schema.
    """
    if not path.exists() and not path.is_symlink():
        return ""
    if not path.is_file():
        raise LinkProblem("log-damaged", f"{path} is no file")
    if path.stat().st_size == 0 and not wal.size_of(path):
        return ""  # as good as none
    missing_end = witness.wal_bytes - wal.size_of(path) if witness and witness.inode == inode(path) else 0
    connection: sqlite3.Connection | None = None
    try:
        connection = connect_reading(path)
        names = migrations.names(connection)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        schema = dict(connection.execute("SELECT k, v FROM meta")).get("schema") if "meta" in names else None
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as exc:
        raise problem_of(path, exc) from exc
    finally:
        if connection is not None:
            connection.close()
    if (names or pages > 1) and (problem := migrations.judge(path, names, schema)):
        raise problem
    cut = f"{missing_end} bytes of its WAL are missing" if missing_end > 0 else wal.broken_end(path)
    if cut and not names:
        raise LinkProblem("log-damaged", f"{path} is no log of fluxedge, or its first pages are damaged: {cut}")
    return cut


def remembered_id(path: Path) -> str:
    """Return the gateway's id under which a log's records were sent; "" when it cannot be told. It never raises."""
    if not path.is_file() or path.stat().st_size == 0:
        return ""
    try:
        with contextlib.closing(connect_reading(path)) as connection:
            row = connection.execute("SELECT v FROM meta WHERE k = 'gateway_id'").fetchone()
    except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError):
        return ""
    return row[0] if row is not None and isinstance(row[0], str) else ""


def remember_id(connection: sqlite3.Connection, name: str) -> None:
    """Keep the gateway's id with the log; inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('gateway_id', ?)", (name,))


def problem_of(path: Path, exc: Exception) -> LinkProblem:
    """Say what an error while opening a log means: "log-damaged" where it can be set aside."""
    if isinstance(exc, LinkProblem):
        return exc
    if damage.is_damage(exc):
        return LinkProblem("log-damaged", f"{path}: {exc}", "Move the file away; the gateway starts a new one.")
    return LinkProblem("log-write-failed", f"{path}: {exc}", _HINT)


def _open(connection: sqlite3.Connection, path: Path, witness: Witness | None, cut: str, clock: Clock) -> Opened:
    """Bring boot number and epoch up to date; inside the caller's transaction. `cut`: what `look_at` found."""
    if not migrations.names(connection):  # new, or its first start was cut short
        for statement in migrations.statements():  # executescript would commit
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))
    meta: Meta = dict(connection.execute("SELECT k, v FROM meta"))
    found = segments.load(connection)
    epoch, because = _judge_epoch(meta, found, witness, cut, os.stat(path).st_ino, clock)
    boot = _boot_of(meta, witness)
    now: Meta = {"schema": SCHEMA, "epoch": epoch, "machine": machine_id(), "boot": boot, "boot_id": boot_id()}
    # Always something new: on a file that may only be read SQLite begins a write transaction without complaint.
    now["opened_ms"] = max(clock.wall_ns() // 10**6, int(meta.get("opened_ms", 0)) + 1)
    changes = [(key, value) for key, value in now.items() if meta.get(key) != value]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes)
    heads = {lane: _head(found, lane, epoch) for lane in Lane}
    return Opened(connection, epoch, boot, found, heads, because, _missing(meta, found, witness))


def _boot_of(meta: Meta, witness: Witness | None) -> int:
    """Return the number of this boot; the witness goes on with it where the log was lost."""
    last, last_id = int(meta.get("boot", 0)), meta.get("boot_id")
    if witness is not None and witness.boot > last:
        last, last_id = witness.boot, witness.boot_id
    return last + (last_id != boot_id())


def _missing(meta: Meta, found: list[Segment], witness: Witness | None) -> list[Missing]:
    """Return what the witness saw being committed in the log's epoch, and the log does not hold."""
    if witness is None or witness.epoch != meta.get("epoch"):
        return []
    ends = [(lane, _head(found, lane, witness.epoch), witness.heads.get(lane.label, 0)) for lane in Lane]
    return [Missing(witness.epoch, lane, head + 1, seen) for lane, head, seen in ends if seen > head]


def _head(found: list[Segment], lane: Lane, epoch: int) -> int:
    return max((segment.last for segment in found if segment.lane is lane and segment.epoch == epoch), default=0)


def _judge_epoch(
    meta: Meta, found: list[Segment], witness: Witness | None, cut: str, inode: int, clock: Clock
) -> tuple[int, str]:
    """Return the epoch to write in, and why it is a new one (empty: it is not, or there was none)."""
    last = int(meta.get("epoch", 0))
    because = _why_new(meta, last, found, witness, inode)
    if last and not because and cut:
        because = f"the end of the log was lost: {cut}"
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


def write_witness(
    path: Path,
    log_path: Path,
    epoch: int,
    heads: dict[Lane, int],
    boot: int = 0,
    groups: dict[int, bytes] | None = None,
) -> None:
    """Replace the witness (blocking); a failure is harmless, the old one stays. Without boot or groups its own stay."""
    temporary = path.with_suffix(".new")
    old = read_witness(path)
    boots = (boot, boot_id() if boot else "") if boot or old is None else (old.boot, old.boot_id)
    if groups is None:
        groups = old.groups if old is not None and old.epoch == epoch else {}
    with contextlib.suppress(OSError):
        labelled = {lane.label: head for lane, head in heads.items()}
        inode, wal_bytes = log_path.stat().st_ino, wal.size_of(log_path)
        witness = Witness(epoch, machine_id(), labelled, inode, wal_bytes, *boots, groups)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(witness))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
