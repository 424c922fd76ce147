"""Asking the history reader: children that are started when somebody asks, kept for a while, and killed when in doubt.

    ask --> at most MOST children, the others wait, WAITING of them --> question --> frames --> lines

A child that has answered waits for the next question, so that it is quick. One whose answer nobody wants any more, or
that says nothing for too long, is killed; the next question starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import typing
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec

import fluxedge
from fluxedge.log.history.query import Question, Refused
from fluxedge.log.history.reader import DATA, END, FRAME, Refusal
from fluxedge.spi import Spawn

MOST = 2  # children at once
WAITING = 8  # questions that wait for one
IDLE_S = 45.0  # a child that nobody asks is ended
SILENT_S = 30.0  # a child that says nothing for so long is killed
_END_S = 5.0
_IMPORTED_FROM = str(Path(fluxedge.__file__).resolve().parents[1])  # the child's too: a checkout need not be installed


class Busy(Exception):
    """As many questions wait as may."""


class HistoryReaders:
    """Own the children that read one state directory."""

    def __init__(self, state_dir: Path, spawn: Spawn) -> None:
        self._state_dir = state_dir
        self._spawn = spawn
        self._turns = asyncio.Semaphore(MOST)
        self._waiting = 0
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    @contextlib.asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the lines of an answer, many at a time; leaving early ends the work.

        Iterating raises Refused, with the code "not-available" also where the child died or was too slow.

        Raises:
            Busy: too many wait.
        """
        if self._waiting >= WAITING:
            raise Busy
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        child: _Child | None = None
        try:
            child = self._take() or await self._start()
            frames = child.ask(question)
            async with contextlib.aclosing(frames):
                yield frames
        finally:
            self._turns.release()
            if child is not None:
                self._back(child)

    async def close(self) -> None:
        """Kill all children and wait for their end."""
        for child in list(self._all):
            await self._end(child)

    def _take(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            child.wait_no_more()
            if child.fit:
                return child
            self._spawn(self._end(child), "history-reader-end")
        return None

    async def _start(self) -> _Child:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fluxedge.log.history.reader", str(self._state_dir),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _IMPORTED_FROM},
            )  # fmt: skip
        except OSError as exc:
            raise Refused(f"the history reader cannot be started: {exc}") from exc
        child = _Child(process)
        self._all.add(child)
        return child

    def _back(self, child: _Child) -> None:
        """Keep a child for the next question, or end it."""
        if child in self._all and child.fit:
            self._idle.append(child)
            child.wait_for(IDLE_S, self._expired)
        else:
            self._spawn(self._end(child), "history-reader-end")

    def _expired(self, child: _Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            self._spawn(self._end(child), "history-reader-end")

    async def _end(self, child: _Child) -> None:
        child.wait_no_more()
        if child in self._idle:
            self._idle.remove(child)
        await child.end()
        self._all.discard(child)


class _Child:
    """One history reader."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked = False  # a question whose answer has not been read to its end
        self._timer: asyncio.TimerHandle | None = None

    @property
    def fit(self) -> bool:
        """Tell whether it can be asked."""
        return not self._asked and self._process.returncode is None

    def wait_for(self, seconds: float, expired: typing.Callable[[_Child], None]) -> None:
        """Call `expired` unless it is asked again before."""
        self._timer = asyncio.get_running_loop().call_later(seconds, expired, self)

    def wait_no_more(self) -> None:
        """Forget what `wait_for` was told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def ask(self, question: Question) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer.

        Raises:
            Refused: what the child said; "not-available" where it died or was too slow.
        """
        self._asked = True
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(msgspec.json.encode(question) + b"\n")
            while True:
                async with asyncio.timeout(SILENT_S):
                    await stdin.drain()
                    kind, length = FRAME.unpack(await stdout.readexactly(FRAME.size))
                    payload = await stdout.readexactly(length)
                if kind == DATA:
                    yield payload
                    continue
                self._asked = False
                if kind == END:
                    return
                refusal = msgspec.json.decode(payload, type=Refusal)
                raise Refused(refusal.text, refusal.code)
        except TimeoutError as exc:
            raise Refused(f"the history reader said nothing for {SILENT_S:.0f} s; ask for less") from exc
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise Refused("the history reader ended in the middle of its answer") from exc

    async def end(self) -> None:
        """Kill it and wait for its end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()
