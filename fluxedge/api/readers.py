"""A bound on how many answers read the log at once: each has a thread and a connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fluxedge.api.errors import ApiError

MOST = 4


class Readers:
    """Count those who read the log."""

    def __init__(self) -> None:
        self._reading = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count one reader while it reads.

        Raises:
            ApiError: "too-many".
        """
        if self._reading >= MOST:
            raise ApiError("too-many", f"{MOST} clients read the log already", "Try again in a moment.")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
