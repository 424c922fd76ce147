"""Opening log.db: settings, schema, boot number, and the epoch with its witness.

The epoch tells one life of the log from another. A witness file beside the database (epoch, heads, machine id) notices
a log that was copied to another machine, restored from a backup or rolled back: its seqs could be used a second time
for other records, and a receiver that deduplicates would throw the new ones away. Then a new epoch begins.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from fluxedge.clock import Clock, boot_id, machine_id
from fluxedge.log import segments
from fluxedge.log.segments import Segment
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem

SCHEMA = 1
WRITER_PRAGMAS = (
    "page_size = 1024",  # 15.9 against 23.1 bytes per point on the disk at 4096, measured; before the first table
    "auto_vacuum = 0",
    "journal_mode = WAL",
    "synchronous = FULL",  # NORMAL lost up to 37 commits in 80 simulated power cuts, FULL none
    "wal_autocheckpoint = 1000",  # about 1 MB: a larger WAL writes more, not less
    "secure_delete = 0",  # Debian's library is built with it
)


class Witness(msgspec.Struct, frozen=True):
    """What the file beside the log remembers of it."""

    epoch: int
    machine: str
    heads: dict[str, int]  # lane label -> last seq


@dataclass(slots=True)
class Opened:
    """A log.db that is ready to be written."""

    connection: sqlite3.Connection
    epoch: int
    boot: int
    segments: list[Segment]
    heads: dict[Lane, int]
    new_epoch_because: str  # empty: the epoch goes on


def connect(path: Path) -> sqlite3.Connection:
    """Open the one writing connection.

    Raises:
        LinkProblem: "log-write-failed", with the reason.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in WRITER_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error as exc:
        raise LinkProblem(
            "log-write-failed",
            f"{path}: {exc}",
            "Is the folder writable for the user that runs fluxedge, and the disk healthy?",
        ) from exc
    return connection


def open_log(path: Path, witness_path: Path, clock: Clock) -> Opened:
    """Open or make the log; called once, before the loop's work begins.

    Raises:
        LinkProblem: "log-write-failed", or a schema that this version does not know.
    """
    connection = connect(path)
    meta = _meta(connection)
    if not meta:
        _create(connection)
    elif meta.get("schema") != SCHEMA:
        connection.close()
        raise LinkProblem(
            "log-write-failed",
            f"{path} has schema {meta.get('schema')}, this version knows {SCHEMA}",
            "It was written by another version of fluxedge; install that version, or move the file away.",
        )
    boot = _count_boot(connection, meta)
    found = segments.load(connection)
    epoch, because = _judge_epoch(meta, found, read_witness(witness_path), clock)
    heads = {lane: max((s.last for s in found if s.lane is lane and s.epoch == epoch), default=0) for lane in Lane}
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('machine', ?)", (machine_id(),))
    write_witness(witness_path, epoch, heads)
    return Opened(connection, epoch, boot, found, heads, because)


def _meta(connection: sqlite3.Connection) -> dict[str, int | str]:
    try:
        return dict(connection.execute("SELECT k, v FROM meta"))
    except sqlite3.OperationalError:  # no such table: a new file
        return {}


def _create(connection: sqlite3.Connection) -> None:
    script = resources.files("fluxedge.log").joinpath("schema.sql").read_text()
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nINSERT INTO meta VALUES ('schema', {SCHEMA});\nCOMMIT;")


def _count_boot(connection: sqlite3.Connection, meta: dict[str, int | str]) -> int:
    now = boot_id()
    boot = int(meta.get("boot", 0))
    if meta.get("boot_id") != now:
        boot += 1
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (now,))
    return boot


def _judge_epoch(
    meta: dict[str, int | str], found: list[Segment], witness: Witness | None, clock: Clock
) -> tuple[int, str]:
    """Return the epoch to write in, and why it is a new one (empty: it is not)."""
    last = int(meta.get("epoch", 0))
    seen = max(last, witness.epoch if witness else 0)
    fresh = max(seen + 1, clock.wall_ns() // 10**6)
    if not last:
        return fresh, "" if witness is None else "the log is gone, its witness is not"
    if str(meta.get("machine", "")) != machine_id():
        return fresh, "the log comes from another machine"
    if witness is None:
        return last, ""
    if witness.epoch > last:
        return fresh, "the log is older than its witness"
    if witness.epoch == last:
        for lane in Lane:
            head = max((s.last for s in found if s.lane is lane and s.epoch == last), default=0)
            if witness.heads.get(lane.label, 0) > head:
                return fresh, f"{lane.label} end at {head}, their witness saw {witness.heads[lane.label]}"
    return last, ""


def read_witness(path: Path) -> Witness | None:
    """Return what the witness remembers; None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Witness)
    except (OSError, msgspec.DecodeError):
        return None


def write_witness(path: Path, epoch: int, heads: dict[Lane, int]) -> None:
    """Replace the witness; a failure is harmless, the old one stays."""
    witness = Witness(epoch, machine_id(), {lane.label: head for lane, head in heads.items()})
    temporary = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        temporary.write_bytes(msgspec.json.encode(witness))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
