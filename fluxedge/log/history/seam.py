"""STATE/history/seam: what the day files hold, as the compactor remembers it; one small JSON file, replaced as a whole.

    {"upto": {"1764000000000": 72000}, "open": true, "rebuild": ["2027-01-31"]}

    upto     epoch -> last seq that is in the day files
    open     chunks beyond that may be in them: a unit is being written, or was when the compactor died
    rebuild  days that are being made anew from the log after damage

The log notes `upto` as well, and readers go by that; it may be behind, when the daemon died before it noted something,
or when log.db was salvaged or restored from a backup. Then this file knows what must not be copied a second time.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NAME = "seam"
KEPT_EPOCHS = 100  # the newest


class Seam(msgspec.Struct):
    """See above."""

    upto: dict[int, int] = {}
    open: bool = False
    rebuild: list[str] = []


def load(folder: Path, *, writing: bool = False) -> Seam:
    """Return what the file says; where it cannot be read, anything may be in the day files beyond what the log says.

    Raises:
        OSError: the disk cannot read it, and who asks is `writing`.
    """
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Seam)
    except FileNotFoundError:
        return Seam()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Seam(open=True)
    except OSError:
        if writing:
            raise
        return Seam()


def save(folder: Path, seam: Seam) -> None:
    """Replace the file, durably (blocking)."""
    seam.upto = dict(sorted(seam.upto.items())[-KEPT_EPOCHS:])
    temporary = folder / f"{NAME}.new"
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(seam))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the names of day files that were made before, too
    finally:
        os.close(handle)
