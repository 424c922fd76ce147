"""The writer: the one thread that writes log.db and checkpoints it.

Jobs run in the order in which they come; each is one transaction. Debian 12's SQLite can corrupt a database that two
connections write or checkpoint at the same moment, so nobody else ever does.
"""

from __future__ import annotations

import asyncio
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

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[tuple[Job[typing.Any], Future[typing.Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    async def run(self, job: Job[T]) -> T:
        """Run one job inside BEGIN IMMEDIATE ... COMMIT; on an error everything is rolled back.

        Raises:
            sqlite3.Error: the job or its commit failed. A failed commit may yet have happened: jobs are repeatable.
        """
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread finish its jobs, fold the WAL in and close the connection."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._transact(job)
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)
            del item, job, future
        self._connection.close()

    def _transact(self, job: Job[T]) -> T:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = job(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result
