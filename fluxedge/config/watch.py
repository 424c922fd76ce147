"""Watch the directories of the configuration: say when something was dropped, edited or removed, once it is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

from fluxedge.config.sources import FOLDERS, MAIN_FILE, Layout

QUIET_MS = 250  # of nothing happening, before a change is told: editors and scp write in several steps
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


async def changes(layout: Layout, stop: asyncio.Event) -> AsyncIterator[frozenset[Path]]:
    """Iterate over sets of files that changed, until `stop` is set.

    Makes STATE/site, so that its first file is noticed. Raises OSError when a directory cannot be watched.
    """
    if layout.site_dir is not None:
        layout.site_dir.mkdir(parents=True, exist_ok=True)
    directories = [directory for directory in layout.layers if directory.is_dir()]
    if not directories:
        await stop.wait()
        return

    def matters(_change: Change, path: str) -> bool:
        return any(is_configuration(Path(path), directory) for directory in directories)

    async for found in awatch(
        *directories, watch_filter=matters, debounce=_LONGEST_MS, step=QUIET_MS, stop_event=_Stop(stop)
    ):
        yield frozenset(Path(path) for _, path in found)


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
