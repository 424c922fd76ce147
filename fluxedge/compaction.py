"""Compaction: when the compactor child runs, what it has done, and which days of the history go.

    an hour closes ─► child: log.db ─► STATE/history/ ─► "a unit is durable" ─► the log notes how far it is compacted
                                                     └─► too old, too much, disk too full: the oldest days are unlinked

One task, one child at a time. The child is run two to five minutes after each full hour, so that late rounds are in,
and soon after the start; after a failure again, at longer and longer intervals. What is not noted is copied once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import fluxedge
from fluxedge.clock import Clock
from fluxedge.config.structs import LogCfg
from fluxedge.log import Log
from fluxedge.log.damage import LogFault
from fluxedge.log.history import days
from fluxedge.problems import Problem, ProblemBook

ITEM = "history"
FIRST_S = 20.0  # after the start: devices and uplinks first
GRACE_S = (120.0, 300.0)  # behind a full hour, drawn anew each time
AGAIN_S, AGAIN_MOST_S = 60.0, 3600.0  # after a failure
WAITING_S = 600.0  # while rounds wait for the clock
LOOK_S = 60.0  # how often caps, ages and the hour are looked at
HOUR_S = 3600
SILENT_S = 6 * 3600.0  # a child that says nothing for so long is killed; to make a large day anew takes hours
DAMAGE_TOLD_NS = 86_400 * 10**9  # so long a damaged day stands as a problem after it was set aside
LOOKED_AT_NS = 3600 * 10**9  # a suspected day is not looked at again before that: queries may ask for it each second
_IMPORTED_FROM = str(Path(fluxedge.__file__).resolve().parents[1])  # the child's too: a checkout need not be installed
_NEVER = 2**63  # the day of a file that was set aside: it goes for room, not for its age
_WORDS_KEPT = 5  # lines that the child said beside its report

Submit = Callable[..., object]  # kind, item, data


class Report(msgspec.Struct):
    """One line of the child (log/history/compactor.py)."""

    epoch: int = 0
    upto: int = 0
    rounds: int = 0
    points: int = 0
    skipped_rows: int = 0
    damaged: str = ""
    moved_to: str = ""
    done: bool = False
    waiting: list[str] = []
    unreadable: list[str] = []
    failed: str = ""


@dataclass(slots=True)
class Figures:
    """What the metrics show."""

    used_bytes: int = 0  # of STATE/history, everything included
    days: int = 0
    last_run_ns: int = 0  # UTC, end of the last run that did all it should; 0 = none yet
    last_run_s: float = 0.0  # how long it took
    runs_total: int = 0
    failures_total: int = 0
    points_total: int = 0  # copied since the start
    skipped_rows_total: int = 0  # damaged rows of the log
    removed_days_total: int = 0


class _Failed(Exception):
    """A run ended before it had done everything."""


class Compaction:
    """Keep the history files up to date and within their limits."""

    def __init__(
        self,
        log: Log,
        state_dir: Path,
        cfg: LogCfg,
        clock: Clock,
        problems: ProblemBook,
        rng: random.Random,
        submit: Submit,
    ) -> None:
        self._log = log
        self._state_dir = state_dir
        self._folder = days.folder_of(state_dir)
        self._cfg = cfg
        self._clock = clock
        self._problems = problems
        self._rng = rng
        self._submit = submit
        self._suspects: set[str] = set()
        self._looked_at_ns: dict[str, int] = {}  # day -> when it was suspected, CLOCK_BOOTTIME
        self._damaged_ns: int | None = None  # when a day was last set aside, CLOCK_BOOTTIME
        self._wake = asyncio.Event()
        self.figures = Figures()

    def suspect(self, day: str) -> None:
        """Let the file of a day (YYYY-MM-DD) be looked at: a query could not read it. Once an hour at most."""
        now_ns = self._clock.mono_ns()
        self._looked_at_ns = {d: ns for d, ns in self._looked_at_ns.items() if now_ns - ns < LOOKED_AT_NS}
        if day not in self._looked_at_ns:
            self._looked_at_ns[day] = now_ns
            self._suspects.add(day)
            self._wake.set()

    async def run(self) -> None:
        """Run the child whenever an hour has closed, until cancelled."""
        wait_s, again_s = FIRST_S, AGAIN_S
        done_hour = -1
        while True:
            await self._sleep(wait_s)
            self._forget_damage()
            hour = self._hour()
            if hour == done_hour and not self._suspects:
                wait_s = self._until_due_s()
                await self._retain()
                continue
            if not self._log.is_durable(self._log.epoch):  # the log is in memory: nothing of it is history
                wait_s = LOOK_S
                await self._retain()  # room on the disk is what brings it back
                continue
            try:
                waiting = await self._run_child()
            except (_Failed, LogFault, OSError) as failure:
                self._fail(failure)
                wait_s, again_s = again_s, min(2 * again_s, AGAIN_MOST_S)
            else:
                again_s = AGAIN_S
                self._problems.clear(ITEM, "history-failed")
                done_hour = hour if not waiting else done_hour
                wait_s = min(self._until_due_s(), WAITING_S if waiting else HOUR_S)
            await self._retain()

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until a day is suspected."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _hour(self) -> int:
        """Return the hour, since 1970-01-01, that is over with its grace."""
        return int((self._clock.wall_ns() / 10**9 - GRACE_S[0]) // HOUR_S)

    def _until_due_s(self) -> float:
        """Return how long to wait; a minute at most, because the clock may be set in the meantime."""
        since_s = (self._clock.wall_ns() / 10**9 - GRACE_S[0]) % HOUR_S
        jitter_s = self._rng.uniform(0, GRACE_S[1] - GRACE_S[0])
        return HOUR_S - since_s + jitter_s if HOUR_S - since_s <= LOOK_S else LOOK_S

    def _forget_damage(self) -> None:
        """Clear what stands of a damaged day when nothing was added to it for a day."""
        if self._damaged_ns is not None and self._clock.mono_ns() - self._damaged_ns >= DAMAGE_TOLD_NS:
            self._damaged_ns = None
            self._problems.clear(ITEM, "history-damaged")

    def _fail(self, failure: Exception) -> None:
        self.figures.failures_total += 1
        text = str(failure) or type(failure).__name__
        hint = "Is the disk full, or the folder not writable? Nothing is lost; it is tried again."
        self._problems.report(ITEM, Problem("history-failed", text, hint))

    # --- the child ----------------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        now_ns = self._clock.wall_ns()
        age_ms = self._log.age.careful_ms()
        oldest_ns = (now_ns if age_ms is None else age_ms * 10**6) - int(self._cfg.keep_s * 10**9)
        command = [sys.executable, "-m", "fluxedge.log.history.compactor", str(self._state_dir)]
        command += ["--wall-ns", str(now_ns), "--mono-ns", str(self._clock.mono_ns())]
        command += ["--boot", str(self._log.boot), "--oldest-ns", str(oldest_ns)]
        for day in sorted(self._suspects):
            command += ["--suspect", day]
        return command

    async def _run_child(self) -> bool:
        """Run the child once, note what it has done; tell whether rounds wait for the clock.

        Raises:
            _Failed, LogFault, OSError: not everything could be done.
        """
        started_ns = self._clock.mono_ns()
        suspects = set(self._suspects)
        child = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": _IMPORTED_FROM},
        )
        try:
            last = await self._follow(child)
            status = await child.wait()
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
            transport = getattr(child, "_transport", None)
            if transport is not None:
                transport.close()  # the pipe, where what it said was not read to its end
        if status or not last.done:
            raise _Failed(last.failed or f"the compactor ended with status {status}")
        self._suspects -= suspects
        figures = self.figures
        figures.runs_total += 1
        figures.last_run_ns = self._clock.wall_ns()
        figures.last_run_s = (self._clock.mono_ns() - started_ns) / 10**9
        return bool(last.waiting)

    async def _follow(self, child: asyncio.subprocess.Process) -> Report:
        """Take the child's reports as they come; return the last one."""
        assert child.stdout is not None
        last = Report()
        words: list[str] = []
        while line := await _line_of(child.stdout):
            try:
                last = msgspec.json.decode(line, type=Report)
            except (msgspec.DecodeError, UnicodeDecodeError):
                words = [*words[1 - _WORDS_KEPT :], line.decode(errors="replace").strip()]
                continue
            await self._take(last)
        if words and not last.done:
            last.failed = last.failed or "; ".join(words)
        return last

    async def _take(self, report: Report) -> None:
        figures = self.figures
        if report.epoch:
            await self._log.note_compacted(report.epoch, report.upto)
            if not self._log.is_durable(self._log.epoch):
                raise _Failed("the disk takes nothing: how far the log is compacted could not be noted")
            figures.points_total += report.points
            figures.skipped_rows_total += report.skipped_rows
        if report.damaged:
            text = f"{report.damaged} could not be read; it was set aside as {report.moved_to}"
            hint = (
                "What can be read of it and what the log still has of that day is kept. Look after the disk's health."
            )
            self._damaged_ns = self._clock.mono_ns()
            self._problems.report(ITEM, Problem("history-damaged", text, hint))

    # --- retention ----------------------------------------------------------------------------------------------------

    async def _retain(self) -> None:
        """Unlink the days that are too old or too much."""
        old_day = None
        if (now_ms := self._log.age.careful_ms()) is not None:  # not UTC, which may leap
            old_day = int((now_ms / 10**3 - self._cfg.keep_s) // 86_400)
        try:
            gone, failure = await asyncio.to_thread(self._unlink_days, old_day)
        except OSError as exc:
            gone, failure = [], exc
        for day, size_bytes, why in gone:
            self.figures.removed_days_total += 1
            self._submit("dropped", ITEM, {"day": day, "bytes": size_bytes, "why": why})
        if failure is not None:  # tried again in a minute
            self._fail(failure)

    def _unlink_days(self, old_day: int | None) -> tuple[list[tuple[str, int, str]], OSError | None]:
        """Return (day, bytes, why) of what went, and why something did not; the newest day stays.

        On a thread, while no child runs.
        """
        gone: list[tuple[str, int, str]] = []
        failure: OSError | None = None
        held = days.files(self._folder)
        used_bytes = _size_of(self._folder)
        aside = [(_NEVER, path) for path in days.aside(self._folder)]  # before what queries can read
        for day, path in [*aside, *held[:-1]]:
            try:
                if not (why := self._why_out(day, old_day, used_bytes)):
                    if day == _NEVER:
                        continue
                    break
                size_bytes = path.stat().st_size
                path.unlink()
                path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # of a child that was killed
            except OSError as exc:  # a directory, for instance; the next day goes in its place
                failure = exc
                continue
            used_bytes -= size_bytes
            gone.append((path.stem if day < _NEVER else path.name, size_bytes, why))
        self.figures.used_bytes = used_bytes
        self.figures.days = len(days.files(self._folder))
        return gone, failure

    def _why_out(self, day: int, old_day: int | None, used_bytes: int) -> str:
        if old_day is not None and day < old_day:
            return "age"
        if used_bytes > self._cfg.history_bytes:
            return "history"
        disk = os.statvfs(self._folder)
        return "disk" if disk.f_bavail * disk.f_frsize < self._cfg.free_space_bytes else ""


async def _line_of(stdout: asyncio.StreamReader) -> bytes:
    """Return the child's next line, empty at its end.

    Raises:
        _Failed: it says nothing, or more than a line may have.
    """
    try:
        async with asyncio.timeout(SILENT_S):
            return await stdout.readline()
    except TimeoutError as exc:
        raise _Failed(f"the compactor said nothing for {SILENT_S:.0f} s") from exc
    except ValueError as exc:
        raise _Failed(f"the compactor said what nobody understands: {exc}") from exc


def _size_of(folder: Path) -> int:
    """Return what the files of a folder take."""
    size_bytes = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                size_bytes += entry.stat().st_size
    return size_bytes
