"""The compactor: a short-lived child with low priority that copies closed hours of the log to the day files.

    python -m fluxedge.log.history.compactor STATE --wall-ns … --mono-ns … --boot … --oldest-ns … [--suspect YYYY-MM-DD]

It opens log.db read-only, in pages, and is the only one that writes below STATE/history. On its standard output it
tells, a line of JSON each, what is durable now; the parent notes in the log how far an epoch is compacted:

    {"epoch": 1764…, "upto": 72000, "rounds": 72000, "points": 3600000, …}      a unit is in the day files
    {"damaged": "2027-01-31", "moved_to": "…/2027-01-31.damaged"}               a day file was set aside
    {"done": true, "waiting": ["…"], …}                                         the last line; exit status 0
    {"failed": "SQLITE_FULL: database or disk is full"}                         the last line; exit status 1

Killed at any moment and run again, no round is in the history twice and none is missing: seam.py remembers what is in
the day files, and what was written behind that is taken away at the next start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import platform
import sqlite3
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fluxedge.log import database, placing
from fluxedge.log.history import days, seam
from fluxedge.log.history.copying import BUDGET_BYTES, Copier, write_rollups
from fluxedge.log.history.day_writer import DayWriter
from fluxedge.log.history.days import DamagedDay
from fluxedge.log.history.rescue import Taken, rescue
from fluxedge.log.history.rows import LogRows
from fluxedge.log.history.units import Now, Placer, Unit, UnitScan
from fluxedge.model import OPEN_END

NICE = 10
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # system call numbers
_IOPRIO_IDLE = 3 << 13  # class "idle": the disk when nobody else wants it

Tell = Callable[[dict[str, typing.Any]], None]


def lower_priority() -> None:
    """Let everybody else go first, where the system permits it."""
    os.nice(NICE)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IOPRIO_IDLE)


class Compactor:
    """One run."""

    def __init__(self, state_dir: Path, now: Now, tell: Tell) -> None:
        """Open the log.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        self._now = now
        self._tell = tell
        self._folder = days.folder_of(state_dir)
        connection = database.connect_reading(state_dir / "log.db")
        connection.isolation_level = None
        self._connection = connection
        self._rows = LogRows(connection)
        self._placer = Placer(now, placing.load(connection))
        self._copier = Copier(self._rows, self._placer, self._folder, BUDGET_BYTES)
        self._seam = seam.load(self._folder, writing=True)

    def close(self) -> None:
        """Close the log."""
        self._connection.close()

    def run(self, suspects: Sequence[str] = ()) -> None:
        """Copy everything that is closed.

        Raises:
            sqlite3.Error, OSError: the log cannot be read, or the disk takes nothing.
        """
        self._folder.mkdir(exist_ok=True)
        self._clean_up()
        for day in suspects:
            self._check(day)
        self._rebuild_all()
        waiting = [reason for epoch in self._rows.epochs() if (reason := self._compact(epoch))]
        if self._seam.open:
            self._save(open_=False)
        self._tell({"done": True, "waiting": waiting, "unreadable": sorted(self._rows.unreadable)})

    # --- units --------------------------------------------------------------------------------------------------------

    def _compact(self, epoch: int) -> str:
        """Copy the closed hours of an epoch; return why it waits, if it does."""
        while True:
            unit = self._next_unit(epoch)
            if unit.upto > unit.after:
                self._copy(unit)
            if unit.upto == unit.after or unit.waiting:
                return f"epoch {epoch} waits behind {unit.upto} for the clock" if unit.waiting else ""

    def _next_unit(self, epoch: int) -> Unit:
        after = self._seam.upto.get(epoch, 0)
        scan = UnitScan(epoch, after, self._now, self._placer, self._rows.groups)
        for head, row in self._rows.read(epoch, after, OPEN_END):
            if not scan.take(head, row):
                break
        return scan.unit

    def _copy(self, unit: Unit) -> None:
        copier = self._copier
        before = copier.rounds, copier.points, copier.written_bytes
        if not self._seam.open:
            self._save(open_=True)

        def copy() -> None:
            copier.rounds, copier.points, copier.written_bytes = before  # what is done again counts once
            copier.copy(unit)

        self._on_damage(copy, unit)
        self._seam.upto[unit.epoch] = unit.upto
        self._save(open_=True)
        self._tell(
            {
                "epoch": unit.epoch,
                "upto": unit.upto,
                "rounds": copier.rounds - before[0],
                "points": copier.points - before[1],
                "bytes": copier.written_bytes - before[2],
                "skipped_rows": unit.skipped_rows,
            }
        )

    def _on_damage(self, work: Callable[[], None], unit: Unit) -> None:
        """Do `work`; days that are found damaged are set aside and made anew, then it is done again."""
        for _ in range(3):  # more damage than that is no accident of single files
            try:
                work()
            except DamagedDay as damage:
                self._set_aside(damage.path.stem)
                self._take_away({unit.epoch: unit.after})
                self._rebuild_all()
                continue
            return
        work()

    # --- leftovers and damage -----------------------------------------------------------------------------------------

    def _save(self, *, open_: bool) -> None:
        self._seam.open = open_
        seam.save(self._folder, self._seam)

    def _clean_up(self) -> None:
        """Agree with the log on the seam, and take away what is behind it."""
        noted, ours = self._rows.compacted, self._seam.upto
        for epoch in self._rows.epochs():
            if noted.get(epoch, 0) < ours.get(epoch, 0):
                self._tell({"epoch": epoch, "upto": ours[epoch]})
        ours |= {epoch: upto for epoch, upto in noted.items() if upto > ours.get(epoch, 0)}
        if self._seam.open:
            self._take_away({epoch: ours.get(epoch, 0) for epoch in {*self._rows.epochs(), *ours}})

    def _take_away(self, upto: Mapping[int, int]) -> None:
        """Remove the chunks of these epochs that are behind a seq from all day files; set damaged files aside."""
        for _, path in days.files(self._folder):
            try:
                self._take_away_of(path, upto)
            except DamagedDay:
                self._set_aside(path.stem)

    def _take_away_of(self, path: Path, upto: Mapping[int, int]) -> None:
        writer = DayWriter(path)
        try:
            writer.begin()
            touched = {place for epoch, seq in upto.items() for place in writer.leftovers(epoch, seq)}
            if touched:
                write_rollups(writer, touched, writer.groups())
            writer.commit()
        finally:
            writer.close()

    def _check(self, day: str) -> None:
        """Look at a day file that a query found damaged; set it aside where that is so."""
        path = self._folder / f"{day}.db"
        if days.day_of(path) is not None and path.exists() and not days.is_sound(path):
            self._set_aside(day)

    def _set_aside(self, day: str) -> None:
        self._seam.rebuild = sorted({*self._seam.rebuild, day})
        self._save(open_=self._seam.open)
        moved = days.set_aside(self._folder / f"{day}.db")
        self._tell({"damaged": day, "moved_to": str(moved)})

    def _rebuild_all(self) -> None:
        for day in list(self._seam.rebuild):
            self._rebuild(self._folder / f"{day}.db")
            self._seam.rebuild = [other for other in self._seam.rebuild if other != day]
            self._save(open_=self._seam.open)

    def _rebuild(self, path: Path) -> None:
        """Make a day's file anew from what can be read of the old one, and what the log still has of it."""
        number = days.day_of(path)
        if number is None:
            return
        before = path.with_suffix(".before")
        if path.exists() and not days.is_sound(path):  # the renaming was cut short
            days.set_aside(path)
        elif path.exists() and not before.exists():
            path.rename(before)  # or it was, and the disk reads it now
        path.unlink(missing_ok=True)  # what an interrupted rebuild has written since
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        taken = Taken()
        rescue(path, dict.fromkeys(self._rows.epochs(), 0) | self._seam.upto, taken)
        for epoch in self._rows.epochs():
            self._copier.copy_day(Unit(epoch, 0, self._seam.upto.get(epoch, 0)), number, taken.has)
        before.unlink(missing_ok=True)


def lock(folder: Path) -> int:
    """Keep every other compactor away from a folder until this process ends.

    Raises:
        BlockingIOError: another one is at work.
    """
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fluxedge.log.history.compactor", description="Run by the fluxedge daemon.")
    parser.add_argument("state", type=Path)
    for name in ("--wall-ns", "--mono-ns", "--boot", "--oldest-ns"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--suspect", action="append", default=[])
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run, tell what was done, return the exit status."""
    given = _arguments(words)

    def tell(line: dict[str, typing.Any]) -> None:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()  # fails when the parent is gone, and ends this process

    lower_priority()
    now = Now(given.wall_ns, given.mono_ns, given.boot, given.oldest_ns)
    failure = ""
    try:
        folder = days.folder_of(given.state)
        folder.mkdir(exist_ok=True)
        lock(folder)
        compactor = Compactor(given.state, now, tell)
        try:
            compactor.run(given.suspect)
        finally:
            compactor.close()
    except BlockingIOError:
        failure = "another compactor is at work"
    except DamagedDay as damage:
        failure = str(damage)
    except sqlite3.Error as exc:
        failure = f"{getattr(exc, 'sqlite_errorname', type(exc).__name__)}: {exc}"
    except OSError as exc:
        failure = f"{exc.filename or given.state}: {exc.strerror}"
    if failure:
        with contextlib.suppress(OSError):
            tell({"failed": failure})
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
