"""Secrets: files below credentials/ of the configuration directory, then systemd's credentials.

A secret is named in TOML, never written there. Its text is a `Secret`: `repr` hides it, and msgspec refuses to encode
it, so that no dump of a configuration can show it.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAX_BYTES = 1024 * 1024  # a bundle of every public certificate authority is about 220 KiB


class Secret(str):
    """A text that is used, never shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that was found."""

    path: Path
    text: Secret  # without the line end that editors add
    exposed: bool  # every user of the machine may read the file


def find(name: str, places: tuple[Path, ...]) -> Credential:
    """Return the credential `name` from the first of the directories that has it.

    Raises:
        ValueError: there is none that can be used; the text says why.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name}" is not the name of a credential: use letters, digits, . _ and -, no folders')
    for place in places:
        try:
            (place / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise ValueError(f"{place / name} cannot be read: {exc.strerror}") from exc
        return read(place / name)
    raise ValueError(f'there is no credential "{name}" in {" or ".join(str(place) for place in places)}')


def read(path: Path) -> Credential:
    """Return the secret in one file.

    Raises:
        ValueError: it cannot be used; the text says why.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a file")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than 1 MiB")
        text = path.read_bytes().decode()
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path} is not UTF-8 text") from exc
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError(f"{path} is empty")
    return Credential(path, Secret(text), bool(status.st_mode & stat.S_IROTH))
