"""Watch the directories of the configuration: say when something was dropped, edited or removed, once it is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import Change, awatch

from fluxedge.config.sources import FOLDERS, MAIN_FILE, Layout
from fluxedge.problems import ConfigProblem

STANDS_S = 1.0  # of nothing, after which the watch is said to stand
Stamp = frozenset[tuple[Path, tuple[int, ...]]]
LOOK_S = 5.0  # how often is looked for what inotify does not tell
Places = frozenset[tuple[Path, tuple[int, ...]]]  # a path and what tells it from another one of the name
QUIET_MS = 250  # of nothing happening, before a change is told: editors and scp write in several steps
_HINT = (
    "`fluxedge reload` applies changes meanwhile. Look at fs.inotify.max_user_instances and max_user_watches, and at "
    "the limit of open files."
)
_LONGEST_MS = 2000  # a folder that never becomes quiet is told about all the same


class _Stop:
    """The caller's stop signal. awatch sets its own when it is cancelled; that must not stop the caller."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._cancelled = False

    def is_set(self) -> bool:
        return self._cancelled or self._stop.is_set()

    def set(self) -> None:
        self._cancelled = True


def stamp(layout: Layout) -> Stamp:
    """Return what tells the configuration files from themselves after a change; take it before they are read."""
    found = set()
    for root in layout.layers:
        for directory in (root, *(root / folder for folder in FOLDERS)):
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_file() and is_configuration(Path(entry.path), root):
                            status = entry.stat()
                            found.add((Path(entry.path), (status.st_mtime_ns, status.st_size, status.st_ino)))
            except OSError:  # what cannot be read now is told when it can
                continue
    return frozenset(found)


async def changes(
    layout: Layout, stop: asyncio.Event, seen: Stamp | None = None
) -> AsyncGenerator[frozenset[Path], None]:
    """Iterate over sets of files that changed, until `stop` is set. Makes STATE/site, to notice its first file.

    `seen` is the stamp of what was read: what changed until the watch stood is told as well.

    An empty set is told once, when nothing has changed for a second: the watch stands. A directory that was
    replaced, appeared or vanished is told itself, within some seconds: a watch of its old self would hear no more.

    Raises:
        ConfigProblem: "config-unwatched": a directory cannot be watched, or no longer.
    """
    try:
        if layout.site_dir is not None:
            layout.site_dir.mkdir(parents=True, exist_ok=True)
        places = await asyncio.to_thread(_places, layout)
        while not stop.is_set():
            async with contextlib.aclosing(_sets(places, layout, stop)) as found:
                async for paths in found:
                    missed = paths
                    if not paths and seen is not None:
                        now_seen = await asyncio.to_thread(stamp, layout)
                        missed = frozenset(path for path, _ in now_seen ^ seen) if seen != now_seen else paths
                    yield missed
            now = await asyncio.to_thread(_places, layout)
            if now != places and not stop.is_set():
                yield frozenset(path for path, _ in now ^ places)
            places = now
    except (OSError, RuntimeError, ExceptionGroup) as exc:  # no inotify instance, no thread; from the library's task
        raise ConfigProblem("config-unwatched", f"files are not watched: {_reason(exc)}", _HINT) from exc


async def _sets(places: Places, layout: Layout, stop: asyncio.Event) -> AsyncGenerator[frozenset[Path], None]:
    """Iterate over what changed, until the places themselves are others or `stop` is set."""
    roots = [path for path, _ in places if path in layout.layers]
    if not roots:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        return

    whole = [root.absolute() for root in roots]  # which is how watchfiles names what it found

    def matters(_change: Change, path: str) -> bool:
        return any(is_configuration(Path(path), root) for root in whole)

    quiet, looks = False, 0
    async for found in awatch(
        *roots,
        watch_filter=matters,
        debounce=_LONGEST_MS,
        step=QUIET_MS,
        stop_event=_Stop(stop),
        rust_timeout=round(STANDS_S * 1000),
        yield_on_timeout=True,
    ):
        if found or not quiet:
            quiet = True
            yield frozenset(Path(path) for _, path in found)
        looks += not found
        if found or looks * STANDS_S < LOOK_S:
            continue
        looks = 0
        with contextlib.suppress(OSError):  # no descriptor is free just now: looked at again
            if await asyncio.to_thread(_places, layout) != places:
                return


def _places(layout: Layout) -> Places:
    """Return the watched directories and what is behind symbolic links in them, each with its identity.

    inotify follows files, not names: it does not hear of a directory that another one replaced, nor of a file behind
    a link, which is how some tools swap whole configurations.
    """
    found: set[tuple[Path, tuple[int, ...]]] = set()
    for root in layout.layers:
        for directory in (root, *(root / folder for folder in FOLDERS)):
            if (status := _status(directory)) is None:
                continue
            found.add((directory, (status.st_dev, status.st_ino)))
            if not stat.S_ISDIR(status.st_mode):
                continue
            with os.scandir(directory) as entries:
                links = [Path(entry.path) for entry in entries if entry.is_symlink()]
            for link in links:
                if (status := _status(link)) is not None:
                    found.add((link, (status.st_dev, status.st_ino, status.st_mtime_ns)))
    return frozenset(found)


def _status(path: Path) -> os.stat_result | None:
    """Return what is there; None where nothing is that could be read."""
    try:
        return path.stat() if os.access(path, os.R_OK) else None
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise


def _reason(error: BaseException) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def is_configuration(path: Path, directory: Path) -> bool:
    """Tell whether a file belongs to the configuration: not what editors leave behind, not a state kept in there."""
    try:
        first, *rest = path.relative_to(directory).parts
    except ValueError:
        return False
    name = path.name
    if name.startswith(".") or name.endswith(("~", ".swp", ".swx", ".new", ".tmp", ".bak")):
        return False
    return first in FOLDERS if rest else first == MAIN_FILE or first in FOLDERS
