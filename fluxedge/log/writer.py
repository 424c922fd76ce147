"""The writer: the one thread that writes log.db and checkpoints it.

Jobs run in the order in which they come; each is one transaction. Debian 12's SQLite can corrupt a database that two
connections write or checkpoint at the same moment, so nobody else ever does.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import typing
from collections.abc import Callable
from concurrent.futures import Future

T = typing.TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


class Writer:
    """Run jobs on the writing connection, one transaction each, in their order."""

    def __init__(self, connection: sqlite3.Connection, name: str = "log-writer") -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[tuple[Job[typing.Any], Future[typing.Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, job: Job[T]) -> asyncio.Future[T]:
        """Queue one job: BEGIN IMMEDIATE, `job`, COMMIT; on an error everything is rolled back.

        The future fails with the sqlite3.Error of the job or of its commit. A failed commit may yet have happened:
        jobs are repeatable. A job whose turn has come is carried out even if nobody waits for it any more.
        """
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return asyncio.wrap_future(future)

    async def run(self, job: Job[T]) -> T:
        """Run one job; cancelling the caller does not take it back.

        Raises:
            sqlite3.Error: the job or its commit failed.
        """
        return await asyncio.shield(self.start(job))

    def close(self) -> None:
        """Let the thread finish its jobs, fold the WAL in and close the connection (blocking)."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            self._carry_out(*item)
            del item  # a batch must not live until the next job comes
        self._connection.close()

    def _carry_out(self, job: Job[T], future: Future[T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._transact(job)
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)

    def _transact(self, job: Job[T]) -> T:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = job(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
                connection.execute("ROLLBACK")
            raise
        return result
