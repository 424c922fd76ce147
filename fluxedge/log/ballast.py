"""The ballast: a file that is there to be given up. On a full disk nothing else makes room.

    STATE/log.ballast    8 MiB, really allocated

SQLite cannot delete a row, drop a table or checkpoint on a full disk: each of them writes first. Unlinking a file does
work. What that frees is enough to save cursors, drop segments and checkpoint; then the log goes on in its own pages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

BALLAST_BYTES = 8 << 20
_PIECE = bytes(1 << 20)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Ballast:
    """The file, made when there is room and given up when there is none. Every method blocks on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def held_bytes(self) -> int:
        """Return what giving it up would free."""
        try:
            found = self._path.lstat()
        except OSError:
            return 0
        return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0

    def keep(self, free_bytes: int, floor_bytes: int) -> None:
        """Make it where there is room for it above the floor; a failure is no harm, it is tried again."""
        if self.held_bytes >= BALLAST_BYTES or free_bytes < floor_bytes + 2 * BALLAST_BYTES:
            return  # twice: it would be given up at once again otherwise
        try:
            with self._path.open("wb") as file:
                _allocate(file.fileno())
        except OSError:
            self.give_up()

    def give_up(self) -> bool:
        """Remove it; tell whether there was something to remove."""
        freed = self.held_bytes > 0
        with contextlib.suppress(OSError):
            self._path.unlink()
            return freed
        return False


def _allocate(fd: int) -> None:
    try:
        os.posix_fallocate(fd, 0, BALLAST_BYTES)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise
        for at in range(0, BALLAST_BYTES, len(_PIECE)):
            os.pwrite(fd, _PIECE, at)
    os.fsync(fd)  # delayed allocation would find out too late that there is no room
