"""A file that appears whole or not at all: written beside its place, flushed to the disk, then renamed.

    FILE.part-XXXXXXXX   mode 0600   -->   FILE

Whatever ends the writing (a full disk, Ctrl-C, an error) removes the part; FILE stays as it was.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

from fluxedge.cli.online import Trouble


@contextlib.contextmanager
def landing(path: Path) -> Iterator[typing.BinaryIO]:
    """Give a file to write to; `path` is it as soon as the block ends well.

    Raises:
        Trouble: it cannot be written; says why.
    """
    if path.is_dir():
        raise Trouble(f"{path} is a directory", "Name a file.")
    try:
        number, name = tempfile.mkstemp(prefix=f"{path.name}.part-", dir=path.parent)
    except OSError as exc:
        raise Trouble(f"{path}: {exc.strerror}", _remedy(exc)) from exc
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        part.replace(path)
        _sync(path.parent)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise Trouble(f"{path}: {exc.strerror or exc}", _remedy(exc)) from exc
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _remedy(exc: OSError) -> str:
    if exc.errno in (28, 122, 27):  # ENOSPC, EDQUOT, EFBIG
        return "Nothing was left behind. Name a file on a disk with more room."
    return "Name a place that you may write to."


def _sync(directory: Path) -> None:
    """Make the renaming last."""
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
