"""A damaged log: told from other trouble, and set aside, so that the gateway starts with a new one within seconds.

    STATE/log.db  log.db-wal  log.db-shm   ->   STATE/log.damaged-20270131T235959Z/
    STATE/log.broken                            made when a commit finds damage: whoever opens the log sets it aside

Nothing of it is thrown away but the oldest of more than three such folders, those first that were salvaged.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

from fluxedge.problems import LinkProblem

KEPT = 3
_FILES = ("log.db-shm", "log.db-wal", "log.db")  # a log.db without its -wal is set aside again, the reverse is not
_NAMES = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")
UNREADABLE = ("SQLITE_CORRUPT", "SQLITE_IOERR")  # of a row; the second may pass
_WORDS = ("no such table", "no such column", "Could not decode")  # in a file whose schema is known


def is_damage(exc: Exception) -> bool:
    """Tell whether an error that opening or writing a log met says that its content is not what was written."""
    if not isinstance(exc, sqlite3.Error):
        return isinstance(exc, ValueError | TypeError | OverflowError)  # a number that is a text, a lane of 7
    return getattr(exc, "sqlite_errorname", "").startswith(_NAMES) or str(exc).startswith(_WORDS)


def is_corruption(error: sqlite3.Error) -> bool:
    """Tell whether SQLite itself says so; an error in a question of ours can read like damage."""
    return getattr(error, "sqlite_errorname", "").startswith(_NAMES)


class LogFault(LinkProblem):
    """The log cannot be written; the same batch may be committed again."""


def fault_of(exc: sqlite3.Error) -> LogFault:
    """Say what a failed transaction means."""
    name = getattr(exc, "sqlite_errorname", type(exc).__name__)
    hint = "Is the disk full, read-only or failing?"
    if is_damage(exc):
        hint = "The log is damaged: it is set aside, and a new one is started."
    return LogFault("log-write-failed", f"{name}: {exc}", hint)


def marked(path: Path) -> bool:
    """Tell whether a commit found the log damaged."""
    return _marker(path).exists()


def mark(path: Path) -> None:
    """Let whoever opens the log next set it aside (blocking)."""
    with contextlib.suppress(OSError):
        _marker(path).touch()


def set_aside(path: Path, now_s: float, why: LinkProblem) -> LinkProblem:
    """Move a log that is closed into a folder of its own; return the problem that stands then.

    Raises:
        LinkProblem: "log-damaged": it cannot be moved.
    """
    try:
        folder = _make_folder(path.parent, time.strftime("log.damaged-%Y%m%dT%H%M%SZ", time.gmtime(now_s)))
        for name in _FILES:
            file = path.with_name(name)
            if file.exists():
                file.rename(folder / name)
        with contextlib.suppress(OSError):
            if why.code == "log-damaged":  # it tells the salvage up to where there was something
                shutil.copy2(path.with_suffix(".witness"), folder)
            else:  # a file that was put in the place of ours: nothing is to be salvaged of it
                (folder / "salvaged.json").write_text("{}\n")
        _marker(path).unlink(missing_ok=True)
    except OSError as exc:
        text = f"{path} is damaged, and cannot be set aside: {exc.strerror}"
        raise LinkProblem("log-damaged", text, "Move it away; the gateway starts a new one.") from exc
    with contextlib.suppress(OSError):  # too many stay then
        others = sorted(other for other in path.parent.glob("log.damaged-*") if other != folder)
        others.sort(key=lambda other: not (other / "salvaged.json").exists())
        for old in others[: max(0, len(others) + 1 - KEPT)]:
            shutil.rmtree(old, ignore_errors=True)
    text = f"{why.message}; it was set aside in {folder}, a new log was started"
    hint = "What can be read of it is being saved. Look after the disk's health (dmesg)."
    if why.code != "log-damaged":
        hint = "What was not delivered yet went with the log; it is announced as gaps. Find out who did that."
    return LinkProblem("log-damaged", text, hint)


def _make_folder(parent: Path, name: str) -> Path:
    for number in range(1, 100):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(17, f"{name} exists a hundred times")


def _marker(path: Path) -> Path:
    return path.with_suffix(".broken")
