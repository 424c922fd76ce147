"""A disk that fails and gets well when a test says so."""

from __future__ import annotations

import sqlite3
import typing

import pytest

from fluxedge.log import Log, database
from fluxedge.problems import LinkProblem


def io_error(name: str = "SQLITE_IOERR_WRITE") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


class Sickness:
    """Make a log's disk fail and get well; fails also whoever opens it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: sqlite3.Error | None = None
        self.takes = -1  # transactions before it fails again; -1: all
        self.passed: list[int] = []
        self._honest = database.open_log
        monkeypatch.setattr(database, "open_log", self._open_log)

    def _open_log(self, *arguments: typing.Any) -> database.Opened:
        if self.error is not None:
            raise LinkProblem("log-write-failed", str(self.error)) from self.error
        return self._honest(*arguments)

    def infect(self, log: Log) -> None:
        """Let the writer that the log has now fail when the disk does."""
        writer = log.disk.writer
        assert writer is not None
        honest = writer._transact

        def transact(job: typing.Any) -> typing.Any:
            if self.error is not None:
                raise self.error
            if self.takes == 0:
                raise io_error()
            self.takes -= 1
            return honest(job)

        writer._transact = transact  # type: ignore[method-assign]
