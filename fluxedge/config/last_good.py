"""Last good: what every item was when it was last applied, so that a mistake costs nothing, also over a reboot.

One file, STATE/last-good/config.json, replaced as a whole:

    {"format": 1, "items": {"device:m1": {"file": "devices/a.toml", "table": {...}}}}
"""

from __future__ import annotations

import os
import typing
from pathlib import Path

import msgspec

from fluxedge.config.sources import Item, Layout

_FORMAT = 1


class _Remembered(msgspec.Struct, frozen=True):
    file: str
    table: dict[str, typing.Any]


class _Book(msgspec.Struct, frozen=True):
    format: int
    items: dict[str, _Remembered]


class Usable(typing.Protocol):
    """What a loaded configuration says about its items (load.Loaded)."""

    @property
    def items(self) -> dict[str, Item]:
        """Items in use, by key, as they are used."""
        ...

    @property
    def set_aside(self) -> dict[str, Item]:
        """Last good versions of items that are left out now, but not deleted."""
        ...


def recall(layout: Layout) -> tuple[dict[str, Item] | None, str]:
    """Return the last good items, and what is wrong with the file; None when nothing was ever remembered."""
    path = _path(layout)
    if path is None:
        return None, ""
    try:
        book = msgspec.json.decode(path.read_bytes(), type=_Book)
    except FileNotFoundError:
        return None, ""
    except OSError as exc:
        return None, f"{path} cannot be read: {exc.strerror}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, f"{path} is damaged"
    if book.format != _FORMAT:
        return None, f"{path} was written by another version"
    return {key: Item(key, kept.table, kept.file) for key, kept in book.items.items()}, ""


def items_of(loaded: Usable) -> dict[str, Item]:
    """Return the last good items after `loaded` was applied."""
    return {key: Item(key, item.fields, item.file) for key, item in (loaded.set_aside | loaded.items).items()}


def remember(layout: Layout, loaded: Usable) -> bool:
    """Keep what is in use, after it was applied. Writes nothing when nothing changed; tells whether it wrote.

    Raises:
        OSError: the file cannot be written.
    """
    path = _path(layout)
    if path is None:
        return False
    kept = {key: _Remembered(item.file, item.fields) for key, item in sorted(items_of(loaded).items())}
    content = msgspec.json.format(msgspec.json.encode(_Book(_FORMAT, kept)), indent=1)
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    return True


def _path(layout: Layout) -> Path | None:
    return layout.state_dir / "last-good" / "config.json" if layout.state_dir else None


def replace_file(path: Path, content: bytes) -> None:
    """Write so that after a power cut either the old or the new file is there, whole.

    Raises:
        OSError: it cannot be written; the old file is there still.
    """
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
