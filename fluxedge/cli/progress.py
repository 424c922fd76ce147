"""How far a long job is: one line on a terminal that is written over, nothing elsewhere."""

from __future__ import annotations

import sys
import time

import click

from fluxedge.cli import show

EVERY_S = 0.1


class Progress:
    """Tell how far a job is, on standard error."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said_s = 0.0
        self._width = 0

    def bytes(self, what: str, done: int, total: int) -> None:
        """Tell how many bytes are done; `total` 0 = not known."""
        share = f" of about {show.size(total)}, {min(100, 100 * done // total)} %" if total else ""
        self._say(f"{what}: {show.size(done)}{share}")

    def parts(self, what: str, done: int, total: int) -> None:
        """Tell how many parts are done."""
        self._say(f"{what}: {100 * done // max(1, total)} %")

    def _say(self, line: str) -> None:
        now_s = time.monotonic()
        if not self._terminal or now_s - self._said_s < EVERY_S:
            return
        self._said_s = now_s
        click.echo(f"\r{line:{self._width}}", err=True, nl=False)
        self._width = len(line)

    def end(self) -> None:
        """Take the line away."""
        if self._width:
            click.echo(f"\r{'':{self._width}}\r", err=True, nl=False)
            self._width = 0
