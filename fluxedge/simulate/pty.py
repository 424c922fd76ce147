"""A serial cable without hardware."""

from __future__ import annotations

import asyncio
import os
import tty


class PtyPair:
    """Two pseudo terminals wired to each other like the two ends of a serial cable."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._masters: list[int] = []
        self._slaves: list[int] = []  # held open: a master whose slave nobody holds reads EIO
        for _ in range(2):
            master, slave = os.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
        self.ends = (os.ttyname(self._slaves[0]), os.ttyname(self._slaves[1]))
        for source, target in (self._masters, self._masters[::-1]):
            self._loop.add_reader(source, self._copy, source, target)

    def _copy(self, source: int, target: int) -> None:
        try:
            os.write(target, os.read(source, 4096))
        except BlockingIOError:  # the reader is gone and the buffer is full: a cable does not wait either
            pass

    def close(self) -> None:
        """Unplug both ends."""
        for master in self._masters:
            self._loop.remove_reader(master)
        for fd in (*self._masters, *self._slaves):
            os.close(fd)
        self._masters, self._slaves = [], []
