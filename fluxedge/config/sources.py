"""The files of the configuration: where they are, in which layers, and which items stand in them.

    STATE/site         created by commands and the API       lower layer
    the directory      /etc/fluxedge or --config DIR         upper layer: an item here replaces one of the same name
    shipped drivers    read only when a device names them    lowest

Reading a file never raises: what is wrong with it becomes a mistake, and which items it may have held is kept, so that
their last good versions can go on.
"""

from __future__ import annotations

import functools
import os
import stat
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fluxedge.config import toml_lines
from fluxedge.config.decode import id_mistake, shown
from fluxedge.config.mistakes import Code, Mistake, closest, path_text

MAX_FILE_BYTES = 4 * 1024 * 1024
MAIN_FILE = "fluxedge.toml"
FOLDERS = ("devices", "drivers", "credentials", "plugins", "rules", "cameras")
PACKAGED_DRIVERS = Path("/usr/share/fluxedge/drivers")

_SINGLE = {"gateway": MAIN_FILE, "log": MAIN_FILE, "api": MAIN_FILE}  # [TABLE] -> the file it belongs into
_PLURAL = {"uplinks": "uplink", "channels": "channel", "devices": "device"}  # [TABLES.ID] -> kind of item
_HOME = {**_SINGLE, "uplinks": MAIN_FILE, "channels": "devices/*.toml", "devices": "devices/*.toml"}


def shipped_driver_dirs() -> tuple[Path, ...]:
    """Return where shipped drivers are: beside the package in a checkout, else where the Debian package puts them."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return (checkout / "drivers",)
    return (PACKAGED_DRIVERS,)


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of a gateway."""

    config_dir: Path
    state_dir: Path | None = None  # None: no site layer, no last good
    driver_dirs: tuple[Path, ...] = field(default_factory=shipped_driver_dirs)
    systemd_credentials: Path | None = None  # $CREDENTIALS_DIRECTORY

    @classmethod
    def standard(cls, config_dir: Path, state_dir: Path | None) -> Layout:
        """Return the layout of this machine."""
        systemd = os.environ.get("CREDENTIALS_DIRECTORY")
        return cls(config_dir, state_dir, systemd_credentials=Path(systemd) if systemd else None)

    @property
    def site_dir(self) -> Path | None:
        """Return where commands and the API create items."""
        return self.state_dir / "site" if self.state_dir else None

    @property
    def layers(self) -> tuple[Path, ...]:
        """Return the directories with items, the upper one first."""
        return (self.config_dir, self.site_dir) if self.site_dir else (self.config_dir,)

    @property
    def credential_dirs(self) -> tuple[Path, ...]:
        """Return where secrets are looked for, in this order."""
        ours = self.config_dir / "credentials"
        return (ours, self.systemd_credentials) if self.systemd_credentials else (ours,)


class SourceFile:
    """A file's text and, when somebody asks, the lines of its keys."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name  # as mistakes show it
        self.text = text

    @functools.cached_property
    def lines(self) -> dict[toml_lines.Path, int]:
        """Return the line of every key; found late, because a good file never needs them."""
        return toml_lines.locate(self.text)

    def line(self, path: toml_lines.Path) -> int:
        """Return the line of the key, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines[path] if path else 1


@dataclass(frozen=True, slots=True)
class Item:
    """One table as it stands in a file, not decoded yet."""

    key: str  # "device:m1"
    table: object  # a dict, if the user is right
    file: str
    source: SourceFile | None = None  # None: remembered, not read
    prefix: toml_lines.Path = ()  # of the table in its file

    @property
    def kind(self) -> str:
        """Return "gateway", "log", "api", "uplink", "channel", "device" or "driver"."""
        return self.key.partition(":")[0]

    @property
    def id(self) -> str:
        """Return the name; empty for the kinds of which there is one."""
        return self.key.partition(":")[2]

    @property
    def fields(self) -> dict[str, typing.Any]:
        """Return the table, empty when the user wrote something else."""
        return self.table if isinstance(self.table, dict) else {}

    def mistake(self, path: toml_lines.Path, message: str, hint: str = "", code: Code = "config-invalid") -> Mistake:
        """Return a mistake at a key below the item's table."""
        whole = (*self.prefix, *path)
        line = self.source.line(whole) if self.source else 0
        return Mistake(self.file, line, path_text(whole), message, hint, self.key, code)


@dataclass(slots=True)
class Sources:
    """Everything that was read."""

    items: dict[str, Item] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # items that are given twice, or whose names cannot be used
    broken: set[str] = field(default_factory=set)  # files, or folders, whose items could not be read
    tables: set[tuple[str, str]] = field(default_factory=set)  # (file, kind): tables of items that are no tables
    unread_drivers: set[str] = field(default_factory=set)
    main_broken: bool = False

    def lost(self, item: Item) -> bool:
        """Tell whether a remembered item may stand where nothing could be read; else it was deleted."""
        return item.file in self.broken or os.path.dirname(item.file) in self.broken or (
            (item.file, item.kind) in self.tables
        )  # fmt: skip


def read_sources(layout: Layout) -> Sources:
    """Read every file of every layer except the shipped drivers."""
    sources = Sources()
    for directory in layout.layers:
        upper = directory == layout.config_dir
        if upper and not directory.is_dir():
            name = printable(str(directory))
            text = "there is no such directory" if not directory.exists() else "is not a directory"
            sources.mistakes.append(Mistake(name, 0, "", text, "Name the directory with --config.", f"file:{name}"))
            sources.broken |= {MAIN_FILE, "devices", "drivers"}
            sources.main_broken = True
            continue
        reader = _LayerReader(sources, directory, "" if upper else f"{printable(str(directory))}/")
        reader.read()
        for key, item in reader.items.items():
            sources.items.setdefault(key, item)
    return sources


def read_shipped(name: str, layout: Layout, sources: Sources) -> Item | None:
    """Return a shipped driver, None when there is none of this name."""
    for directory in layout.driver_dirs:
        if not id_mistake(name) and (directory / f"{name}.toml").is_file():
            reader = _LayerReader(sources, directory, f"{printable(str(directory))}/")
            reader.read_driver(directory / f"{name}.toml", printable(str(directory / f"{name}.toml")))
            return reader.items.get(f"driver:{name}")
    return None


def shipped_names(layout: Layout) -> list[str]:
    """Return the names of all shipped drivers."""
    return sorted({printable(path.stem) for directory in layout.driver_dirs for path in directory.glob("*.toml")})


class _LayerReader:
    """Read one layer into items."""

    def __init__(self, sources: Sources, directory: Path, shown_prefix: str) -> None:
        self.items: dict[str, Item] = {}
        self._sources = sources
        self._directory = directory
        self._prefix = shown_prefix

    def read(self) -> None:
        main = self._directory / MAIN_FILE
        if present(main):
            self._read_tables(main, f"{self._prefix}{MAIN_FILE}")
        for path in self._files("devices"):
            self._read_tables(path, f"{self._prefix}devices/{path.name}")
        for path in self._files("drivers"):
            self.read_driver(path, f"{self._prefix}drivers/{path.name}")
        if not self._prefix:
            self._check_credentials()
            self._warn_about_strangers()

    def read_driver(self, path: Path, name: str) -> None:
        """One driver is the whole file, its id the file's name."""
        found = self._load(path, name)
        wrong = id_mistake(path.stem)
        if wrong:
            hint = f"Rename the file, for example to {path.stem.lower().replace(' ', '-')}.toml."
            self._sources.mistakes.append(Mistake(name, 0, "", wrong, hint, f"driver:{path.stem}"))
        elif found is None:
            self._sources.unread_drivers.add(f"driver:{path.stem}")
        else:
            source, document = found
            self._add(Item(f"driver:{path.stem}", document, name, source))

    def _files(self, folder: str) -> Iterator[Path]:
        """Iterate over what ends in .toml, by name; editors' hidden and back-up files do not."""
        directory = self._directory / folder
        try:
            entries = sorted(directory.iterdir())
        except FileNotFoundError:
            return
        except OSError as exc:
            name = f"{self._prefix}{folder}"
            self._sources.broken.add(name)
            text = f"cannot be read: {exc.strerror}"
            self._sources.mistakes.append(Mistake(name, 0, "", text, "", f"file:{name}"))
            return
        for path in entries:
            if path.suffix != ".toml" or path.name.startswith("."):
                continue
            if printable(path.name) == path.name:
                yield path
            else:
                self._refuse_name(f"{self._prefix}{folder}/{printable(path.name)}")

    def _check_credentials(self) -> None:
        """Secrets are read when somebody names them; who cannot be named is told here."""
        try:
            names = sorted(os.listdir(self._directory / "credentials"))
        except OSError:  # there are none, or they are missed where they are named
            return
        for name in names:
            if printable(name) != name:
                self._refuse_name(f"credentials/{printable(name)}")

    def _refuse_name(self, name: str) -> None:
        text, hint = "the file's name is not UTF-8, so that nothing can name it", "Rename it."
        self._sources.mistakes.append(Mistake(name, 0, "", text, hint, f"file:{name}"))

    def _load(self, path: Path, name: str) -> tuple[SourceFile, dict[str, typing.Any]] | None:
        try:
            text = _read_text(path)
            document = toml_lines.parse(text)
        except toml_lines.TomlMistake as exc:
            self._sources.broken.add(name)
            self._sources.main_broken = self._sources.main_broken or name == MAIN_FILE
            mistake = Mistake(name, exc.line, "", exc.message, exc.hint, f"file:{name}", "config-syntax")
            self._sources.mistakes.append(mistake)
            return None
        return SourceFile(name, text), document

    def _read_tables(self, path: Path, name: str) -> None:
        found = self._load(path, name)
        if found is None:
            return
        source, document = found
        main = name.endswith(MAIN_FILE) and path.parent == self._directory
        allowed = [key for key, home in _HOME.items() if (home == MAIN_FILE) == main]
        for key, table in document.items():
            if key not in allowed:
                self._refuse_table(source, key, allowed)
            elif key in _SINGLE:
                self._add(Item(key, table, name, source, (key,)))
            elif isinstance(table, dict):
                for id_, inner in table.items():
                    self._add(Item(f"{_PLURAL[key]}:{id_}", inner, name, source, (key, id_)))
            else:
                self._sources.tables.add((name, _PLURAL[key]))
                text = f"{shown(table)} is not a table; write [{key}.NAME]"
                self._note(source, (key,), text, f"file:{name}")

    def _refuse_table(self, source: SourceFile, key: str, allowed: list[str]) -> None:
        if key in _HOME:
            text = f"[{key}] belongs into {_HOME[key]}"
        else:
            meant = closest(key, allowed)
            text = f'unknown table "{key}"' + (
                f': did you mean "{meant}"?' if meant else f"; known are {', '.join(allowed)}"
            )
        self._note(source, (key,), text, f"file:{source.name}")

    def _add(self, item: Item) -> None:
        wrong = id_mistake(item.id) if ":" in item.key else ""
        if wrong:
            self._sources.mistakes.append(item.mistake((), wrong))
            return
        first = self.items.get(item.key)
        if first is None:
            self.items[item.key] = item
            return
        line = first.source.line(first.prefix) if first.source else 0
        text = f'there is a {item.kind} "{item.id}" already, in {first.file}:{line}'
        self._sources.mistakes.append(item.mistake((), text, "Rename or remove one of them."))
        if item.key not in self._sources.items:  # an upper layer replaces both
            self._sources.refused.add(item.key)

    def _note(self, source: SourceFile, path: toml_lines.Path, text: str, item: str) -> None:
        self._sources.mistakes.append(Mistake(source.name, source.line(path), path_text(path), text, "", item))

    def _warn_about_strangers(self) -> None:
        try:
            entries = sorted(self._directory.iterdir())
        except OSError:  # what can be read without listing was read
            return
        for path in entries:
            name = printable(path.name)
            if path.is_dir() and name not in FOLDERS and closest(name, FOLDERS):
                text = f"is not read: did you mean {closest(name, FOLDERS)}/?"
            elif path.suffix == ".toml" and name != MAIN_FILE and not name.startswith(".") and not path.is_dir():
                text = f"is not read: {MAIN_FILE}, devices/*.toml and drivers/*.toml are"
            else:
                continue
            self._sources.warnings.append(Mistake(name, 0, "", text, "", f"file:{name}"))


def printable(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 are escaped: \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def present(path: Path) -> bool:
    """Tell whether there is something of this name; also when it may not be looked at."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read_text(path: Path) -> str:
    """Raises TomlMistake, with line 0 where the file as a whole is meant."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "neither a file nor a directory"
            raise toml_lines.TomlMistake(0, f"is {what}; a file is wanted")
        if status.st_size > MAX_FILE_BYTES:
            raise toml_lines.TomlMistake(0, f"is larger than {MAX_FILE_BYTES // 2**20} MiB")
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise toml_lines.TomlMistake(0, "is a link to a file that does not exist") from exc
    except OSError as exc:
        hint = "Let the user fluxedge read it." if isinstance(exc, PermissionError) else ""
        raise toml_lines.TomlMistake(0, f"cannot be read: {exc.strerror}", hint) from exc
    try:
        return content.decode("utf-8-sig")  # Windows editors put a mark before the text
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise toml_lines.TomlMistake(line, "is not UTF-8 text", "Save the file in the encoding UTF-8.") from exc
