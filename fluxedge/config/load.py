"""Load the configuration: every file of every layer, every mistake, and the last good version of what is wrong.

    files -> items -> assemble -> mistakes? -> the bad items step back to their last good versions -> assemble -> ...

An item steps back at most twice: to its last good version, then out. So it ends, and start and reload share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from fluxedge.config import last_good
from fluxedge.config.assemble import Assembly, assemble
from fluxedge.config.mistakes import Mistake, path_text, shortened
from fluxedge.config.sources import Item, Layout, Sources, read_shipped, read_sources, shipped_names
from fluxedge.config.structs import Config
from fluxedge.config.toml_lines import Path
from fluxedge.config.trial import Compile

__all__ = ["Compile", "Layout", "Loaded", "load"]

_SINGLES = ("gateway", "log", "api")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and everything that is wrong with its files."""

    config: Config  # what can run; `mistakes` or not
    mistakes: tuple[Mistake, ...]  # by file and line
    warnings: tuple[Mistake, ...]
    kept: dict[str, str]  # items that go on as their last good version -> why
    left_out: dict[str, str]  # items that do not run at all -> why
    fatal: bool  # fluxedge.toml is unusable, and there is no last good: exit 78
    items: dict[str, Item]  # in use, by key ("device:m1")
    set_aside: dict[str, Item]  # last good versions of items that are left out, but not deleted
    origins: dict[str, str]  # id of a device -> key of its item ("device:bank" makes bank-1, bank-2, ...)

    def item_of(self, key: str) -> Item | None:
        """Return the item that "device:bank-3" or "uplink:cloud" comes from."""
        kind, _, id_ = key.partition(":")
        return self.items.get(self.origins.get(id_, key) if kind == "device" else key)

    def place(self, key: str, path: Path = ()) -> str:
        """Return FILE:LINE of an item, or of a key below it; "" for what no file names."""
        item = self.item_of(key)
        if item is None:
            return ""
        return f"{item.file}:{item.source.line((*item.prefix, *path))}" if item.source else item.file


def load(layout: Layout, compile: Compile | None = None, running: Mapping[str, Item] | None = None) -> Loaded:
    """Read everything again; touches no network and no device, changes nothing on disk. Blocks on the disk.

    `running` are the last good items of a gateway that runs: it needs no file to know them. None: they are read.
    """
    return _Loader(layout, compile, running).run()


@dataclass(slots=True)
class _Loader:
    layout: Layout
    compile: Compile | None
    running: Mapping[str, Item] | None = None
    items: dict[str, Item] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    mistakes: dict[Mistake, None] = field(default_factory=dict)  # ordered, each once
    warnings: dict[Mistake, None] = field(default_factory=dict)
    fatal: bool = False
    _fetched: set[str] = field(default_factory=set)  # names of drivers looked for among the shipped ones
    _sources: Sources = field(default_factory=Sources)
    _remembered: dict[str, Item] = field(default_factory=dict)  # last good items
    _first_time: bool = True  # nothing was ever remembered
    _shipped: list[str] = field(default_factory=list)
    _resurrected: set[str] = field(default_factory=set)  # deleted, but an item on its last good version needs them

    def run(self) -> Loaded:
        self._sources = read_sources(self.layout)
        remembered, trouble = last_good.recall(self.layout) if self.running is None else (dict(self.running), "")
        self._first_time = remembered is None
        self._remembered = remembered or {}
        self._shipped = shipped_names(self.layout)
        if trouble:
            hint = "It is written anew at the next successful apply."
            self.warnings[Mistake("last-good", 0, "", trouble, hint)] = None
        self.items = dict(self._sources.items)
        self.fatal = self._sources.main_broken and self._first_time
        self._restore_lost()
        for key in sorted(self._sources.refused - set(self.kept)):
            self._step_back(key, "it is given twice")
        assembly = self._settle()
        self._note_warnings(assembly)
        return self._loaded(assembly)

    def _settle(self) -> Assembly:
        """Assemble until nothing in use has a mistake."""
        while True:
            self._fetch_drivers()
            self.items = {key: self.items[key] for key in sorted(self.items, key=self._precedence)}
            names = sorted({item.id for item in self.items.values() if item.kind == "driver"} | set(self._shipped))
            unread = [name for name in sorted(self._sources.broken) if "devices" in PurePath(name).parts]
            assembly = assemble(self.items, self.layout, names, self.left_out, unread)
            reasons = self._note_errors(assembly) or assembly.findings.blocked
            bad = {key: why for key, why in reasons.items() if key in self.items}
            if not bad:
                return assembly
            for key, why in bad.items():
                self._step_back(key, why)

    def _precedence(self, key: str) -> tuple[int, int]:
        """Where two items cannot both be, who changed last has the mistake, and good ones go before last good ones."""
        if key in self._resurrected:
            return 3, 0
        if key in self.kept:
            return 2, 0
        before = self._remembered.get(key)
        return (0 if before and before.table == self.items[key].table else 1), 0

    def _restore_lost(self) -> None:
        """Items of a file that cannot be read are bad, not deleted."""
        for key, item in self._remembered.items():
            now = self.items.get(key)
            moved = now is not None and (_is_upper(now) or not _is_upper(item))
            if self._sources.lost(item) and not moved:
                self.items[key] = item
                self.kept[key] = f"{item.file} cannot be read"
        for key in self._sources.unread_drivers - set(self.items):
            self.left_out[key] = "its file cannot be read"

    def _fetch_drivers(self) -> None:
        """Read shipped drivers that devices name and no layer has."""
        for item in list(self.items.values()):
            name = item.fields.get("driver") if item.kind == "device" else None
            key = f"driver:{name}"
            if not isinstance(name, str) or name in self._fetched or key in self.items or key in self.left_out:
                continue
            self._fetched.add(name)
            found = read_shipped(name, self.layout, self._sources)
            if found is not None:
                self.items[key] = found
            elif key in self._sources.unread_drivers:
                self.left_out[key] = "its file cannot be read"
                if key in self._remembered:
                    self._keep(key, self.left_out.pop(key))

    def _note_errors(self, assembly: Assembly) -> dict[str, str]:
        """Make mistakes of findings; return why each bad item is bad."""
        findings = list(assembly.findings.errors)
        if self.compile is not None:
            findings += assembly.trial.findings(self.compile)
        reasons: dict[str, str] = {}
        for finding in findings:
            kind, _, id_ = finding.item.partition(":")
            key = assembly.origins.get(id_, finding.item) if kind == "device" else finding.item
            item = self.items.get(key)
            if item is None:
                mistake = Mistake("", 0, path_text(finding.path), finding.message, finding.hint, key, finding.code)
            else:
                mistake = item.mistake(finding.path, finding.message, finding.hint, finding.code)
            if key in self.kept:
                reasons.setdefault(key, f"its last good version cannot be used either: {finding.message}")
            else:
                self.mistakes[mistake] = None
                reasons.setdefault(key, mistake.text())
        return reasons

    def _step_back(self, key: str, why: str) -> None:
        if key not in self.kept and key in self._remembered:
            self._keep(key, why)
            self._resurrect(self._remembered[key])
            return
        del self.items[key]
        self.kept.pop(key, None)
        self._resurrected.discard(key)
        if key not in _SINGLES:
            self.left_out[key] = why
        elif self._first_time:
            self.fatal = True
        else:
            self.kept[key] = why  # what was applied last had no such table: the defaults are the last good version

    def _keep(self, key: str, why: str) -> None:
        self.items[key] = self._remembered[key]
        self.kept[key] = why

    def _resurrect(self, item: Item) -> None:
        """A device on its last good version needs the driver and the channel of that time, if they were deleted."""
        if item.kind != "device":
            return
        self._fetch_drivers()
        for key in (f"driver:{item.fields.get('driver')}", f"channel:{item.fields.get('channel')}"):
            if key in self._remembered and key not in self.items and key not in self.left_out:
                self._keep(key, f"{item.key} needs it")
                self._resurrected.add(key)

    def _note_warnings(self, assembly: Assembly) -> None:
        for warning in self._sources.warnings:
            self.warnings[warning] = None
        for finding in assembly.findings.warnings:
            item = self.items.get(finding.item)
            if item is not None and finding.item not in self.kept:
                self.warnings[item.mistake(finding.path, finding.message, finding.hint)] = None

    def _loaded(self, assembly: Assembly) -> Loaded:
        for mistake in self._sources.mistakes:
            self.mistakes[mistake] = None
            nameless = mistake.item.startswith("file:") or mistake.item in self.items
            if not nameless and mistake.item not in self.kept:
                self.left_out.setdefault(mistake.item, mistake.text())
        set_aside = {key: self._remembered[key] for key in self.left_out if key in self._remembered}
        return Loaded(
            config=assembly.config,
            mistakes=tuple(shortened(sorted(self.mistakes, key=_order))),
            warnings=tuple(sorted(self.warnings, key=_order)),
            kept=self.kept,
            left_out=self.left_out,
            fatal=self.fatal,
            items=self.items,
            set_aside=set_aside,
            origins=assembly.origins,
        )


def _is_upper(item: Item) -> bool:
    """Tell whether an item stands in the configuration directory: only its files have relative names."""
    return not PurePath(item.file).is_absolute()


def _order(mistake: Mistake) -> tuple[str, int, str, str]:
    return mistake.file, mistake.line, mistake.path, mistake.message
