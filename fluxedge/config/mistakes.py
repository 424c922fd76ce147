"""Mistakes: what is wrong in the user's files, where, and what to write instead.

Whoever checks an item knows its keys, not its file: it makes a `Finding`. The loader, which knows where each key
stands, makes a `Mistake` of it.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fluxedge.config.toml_lines import Path

Code = typing.Literal["config-syntax", "config-invalid", "credential-missing"]  # of problems.CODES

TOLD_MOST = 100  # mistakes of one file: more are no help, and a hostile file has hundreds of thousands
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in an item, found by whoever knows what the item means."""

    item: str  # "device:m1", "driver:acme", "channel:bus", "uplink:cloud", "gateway"
    path: Path  # keys below the item's own table; () = the item as a whole
    message: str
    hint: str = ""
    code: Code = "config-invalid"


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong in a file, as the user is told about it."""

    file: str  # relative to the configuration directory; absolute for files outside it
    line: int  # from 1; 0 where a file as a whole is meant
    path: str  # "devices.m1.unit"; empty where a file as a whole is meant
    message: str
    hint: str = ""
    item: str = ""  # "device:m1"; "file:devices/a.toml" where no item is known
    code: Code = "config-invalid"

    def text(self) -> str:
        """Return one line: devices/a.toml:7: devices.m1.unit: 300 is not in 1..247."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [part for part in (place, self.path, self.message) if part]
        return ": ".join(parts) + (f" — {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, typing.Any]:
        """Return what `check --format json` prints."""
        return {
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
            "item": self.item,
            "code": self.code,
        }


@dataclass(slots=True)
class Findings:
    """What one pass over the items found."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)  # items without a fault of their own -> why they cannot run

    def error(self, item: str, path: Path, message: str, hint: str = "", code: Code = "config-invalid") -> None:
        """Add a mistake: the item cannot be used as it is."""
        self.errors.append(Finding(item, path, message, hint, code))

    def warn(self, item: str, path: Path, message: str, hint: str = "") -> None:
        """Add something the user should know about an item that can be used."""
        self.warnings.append(Finding(item, path, message, hint))

    def noting(self, item: str) -> Callable[[Path, str, str], None]:
        """Return `error` for one item, as decode calls it."""
        return lambda path, message, hint: self.error(item, path, message, hint)

    def paths(self, item: str) -> list[Path]:
        """Return where an item has mistakes."""
        return [finding.path for finding in self.errors if finding.item == item]

    def keys_below(self, item: str, table: str) -> set[str]:
        """Return the keys of one table of an item that have mistakes, in themselves or below."""
        return {str(path[1]) for path in self.paths(item) if len(path) > 1 and path[0] == table}

    def refused(self) -> set[str]:
        """Return the items that have mistakes."""
        return {finding.item for finding in self.errors}


def shortened(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Return at most TOLD_MOST mistakes of each file, and how many more there are."""
    told: list[Mistake] = []
    of_file: dict[str, int] = {}
    for mistake in mistakes:
        count = of_file[mistake.file] = of_file.get(mistake.file, 0) + 1
        if count <= TOLD_MOST:
            told.append(mistake)
    for file, count in of_file.items():
        if count > TOLD_MOST:
            told.append(Mistake(file, 0, "", f"and {count - TOLD_MOST} more mistakes", "", f"file:{file}"))
    return told


def path_text(path: Path) -> str:
    """Return a key path as TOML writes it: devices.m1.points."flow temp", url[1]."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        quoted = part.replace("\\", "\\\\").replace('"', '\\"')
        text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else f'"{quoted}"')
    return text


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant, or "" """
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence about a name that does not exist, with what was probably meant."""
    names = list(known)
    meant = closest(name, names)
    if meant:
        return f'there is no {what} "{name}": did you mean "{meant}"?'
    if not names:
        return f'there is no {what} "{name}"'
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f'there is no {what} "{name}"; there are {shown}'
