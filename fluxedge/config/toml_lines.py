"""Where in a TOML file each key stands: tomllib gives values, this gives their lines.

A scanner that walks a text tomllib accepts, without judging values. Where tomllib refuses the text, the same walk
often knows better where the cause is: tomllib names the end of the document for a string that is never closed, and
does not say where a key was given before.
"""

from __future__ import annotations

import bisect
import re
import tomllib
import typing

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''[\s\S]*?'''(?:'{0,2})"
    r'|"(?!"")(?:\\.|[^"\\\n])*"'
    r"|'(?!'')[^'\n]*'"
)
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")  # number, boolean or date, the latter with a space in it
_TOMLLIB_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
# What counts for `_check_limits`. An unclosed text is one too, else each quote in it would begin another walk.
_LIMITED = re.compile(
    r'"""(?:[^"\\]++|\\[\s\S]|"(?!""))*+(?:""")?'
    r"|'''(?:[^']++|'(?!''))*+(?:''')?"
    r'|"(?:[^"\\\n]++|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+"
    r"|[][{}.,=\n]"
)
KEY_PARTS_MOST = 32  # of one dotted key: a tool that goes through them all takes time with the square of their number
NESTED_MOST = 64  # arrays and tables in each other, parts of dotted keys included
_QUOTES_HINT = 'Text and quantities stand in quotes: driver = "name", every = "1s".'


class TomlMistake(ValueError):
    """A text is not TOML."""

    def __init__(self, line: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.hint = hint


class _Lost(Exception):
    """The scanner does not know where it is: the text is not TOML, and tomllib's own words are the best there are."""


def parse(text: str) -> dict[str, typing.Any]:
    """Return what tomllib returns.

    Raises:
        TomlMistake: it is not TOML; with the line of the cause.
    """
    _check_limits(text)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _explain(text, str(exc)) from exc
    except RecursionError as exc:
        raise TomlMistake(1, "arrays or tables are nested too deeply") from exc
    except ValueError as exc:  # a number beyond what Python converts (4300 digits)
        raise TomlMistake(1, f"a value cannot be read: {exc}") from exc


def _check_limits(text: str) -> None:
    """Refuse, in one walk, what would keep tomllib and the scanner busy for minutes.

    Raises:
        TomlMistake: a key has too many parts, or too much is nested.
    """
    parts = 0  # dots since the last sign that ends a key
    key = 0  # parts of the key whose value comes
    depth = 0
    opened: list[int] = []  # by how much each open bracket deepened it
    for match in _LIMITED.finditer(text):
        sign = text[match.start()]
        if sign in "\"'":
            continue
        if sign == ".":
            parts += 1
            if parts >= KEY_PARTS_MOST:
                raise _too_much(text, match.start(), f"a key has more than {KEY_PARTS_MOST} parts")
            continue
        if sign in "[{":
            opened.append(1 + key)
            depth += 1 + key
            if depth > NESTED_MOST:
                raise _too_much(text, match.start(), "arrays or tables are nested too deeply")
        elif sign in "]}" and opened:
            depth -= opened.pop()
        key = parts if sign == "=" else 0
        parts = 0


def _too_much(text: str, at: int, words: str) -> TomlMistake:
    return TomlMistake(text.count("\n", 0, at) + 1, words, "Is this a configuration file?")


def locate(text: str) -> dict[Path, int]:
    """Return the line of every key path and array element; a table's line is that of its header.

    `text` must be TOML; otherwise the paths before the first trouble are returned.
    """
    scanner = _Scanner(text)
    try:
        scanner.run()
    except (TomlMistake, _Lost, RecursionError):
        pass
    return scanner.found


def _explain(text: str, words: str) -> TomlMistake:
    place = _TOMLLIB_PLACE.search(words)
    last_line = text.rstrip().count("\n") + 1
    line = int(place[1]) if place and place[1] else last_line
    message = words[: place.start()] if place else words
    message = message[:1].lower() + message[1:]
    if place and place[2]:
        message += f" (column {place[2]})"
    hint = _QUOTES_HINT if message.startswith(("invalid value", "expected newline or end of document after a")) else ""
    try:
        _Scanner(text).run()
    except TomlMistake as better:
        if better.line <= line:
            return better
    except (_Lost, RecursionError):
        pass
    return TomlMistake(line, message, hint)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[Path, int] = {}
        self._text = text.replace("\r\n", "\n")  # as tomllib does
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", self._text)]
        self._given: dict[Path, int] = {}  # keys with a value, and table headers
        self._lengths: dict[Path, int] = {}  # of arrays of tables

    def run(self) -> None:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _expect(self, sign: str) -> None:
        if not self._text.startswith(sign, self._at):
            raise _Lost
        self._at += len(sign)

    def _give(self, path: Path, line: int, what: str) -> None:
        if path in self._given:
            name = ".".join(str(part) for part in path if isinstance(part, str))
            raise TomlMistake(line, f"{what} {name} is given twice; first in line {self._given[path]}")
        self._given[path] = line

    def _header(self) -> Path:
        line = self._line()
        self._expect("[")
        keys = self._keys()
        self._expect("]")
        path = self._enter((), keys, line)
        self._give(path, line, "table")
        self.found[path] = line  # not the line of a sub-table that happens to stand before it
        return path

    def _array_header(self) -> Path:
        line = self._line()
        self._expect("[[")
        keys = self._keys()
        self._expect("]]")
        array = (*self._enter((), keys[:-1], line), keys[-1])
        if array in self._given:
            self._give(array, line, "table")
        self.found.setdefault(array, line)
        index = self._lengths.get(array, 0)
        self._lengths[array] = index + 1
        self.found[(*array, index)] = line
        return (*array, index)

    def _enter(self, path: Path, keys: list[str], line: int) -> Path:
        """Walk down `keys`, into the last element where they name an array of tables."""
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        keys = self._keys()
        self._expect("=")
        self._skip(_SPACE)
        path = table
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
        self._give(path, line, "key")
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key(self) -> str:
        match = _BARE_KEY.match(self._text, self._at)
        if match:
            self._at = match.end()
            return match[0]
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise _Lost
        self._at = match.end()
        try:
            return next(iter(tomllib.loads(f"{match[0]} = 0")))
        except tomllib.TOMLDecodeError as exc:
            raise _Lost from exc

    def _value(self, path: Path) -> None:
        sign = self._text[self._at : self._at + 1]
        if sign == "[":
            self._array(path)
        elif sign == "{":
            self._inline_table(path)
        elif sign and sign in "\"'":
            match = _STRING.match(self._text, self._at)
            if match is None:
                raise TomlMistake(self._line(), "the text that begins here has no closing quote")
            self._at = match.end()
        else:
            match = _BARE_VALUE.match(self._text, self._at)
            if match is None:
                raise _Lost
            self._at = match.end()

    def _array(self, path: Path) -> None:
        opened = self._line()
        self._expect("[")
        index = 0
        while True:
            self._skip(_BLANK)
            sign = self._text[self._at : self._at + 1]
            if not sign:
                raise TomlMistake(opened, "the array that begins here has no closing bracket")
            if sign in "],":
                self._at += 1
                if sign == "]":
                    return
                continue
            self.found[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: Path) -> None:
        self._expect("{")
        while True:
            self._skip(_SPACE)
            sign = self._text[self._at : self._at + 1]
            if sign and sign in "},":
                self._at += 1
                if sign == "}":
                    return
                continue
            if sign == "\n":
                raise TomlMistake(
                    self._line(),
                    "a table in braces ends on the line where it begins",
                    "Write it in one line, or as a [table] of its own.",
                )
            self._pair(path)
