"""Redact: take secrets out of whatever leaves the machine.

Three nets, each of which would do for most secrets:

    by place    values below keys such as password, token, key, username; users and passwords in URLs; private keys
    by value    what stands in credentials/ and behind such keys in the configuration files, wherever it turns up: a
                user who writes the password itself where its name belongs reads it in a message
    at the end  a part in which a known secret is found all the same is left out

A secret that was cut short ("abcdefgh…") is found by its first eight characters; one of fewer than four characters only
where it stands alone or between quotes, because it would be found everywhere.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from fluxedge.config.sources import Layout

Data = typing.Any  # JSON
HIDDEN = "***"
SHORT, CUT = 4, 8  # characters
MOST_BYTES = 1 << 20  # of one file
MOST_FILES = 2000

_WORDS = r"pass|pwd|secret|token|credential|private|psk|api[-_]?key|auth|login"
_KEY = re.compile(rf"({_WORDS})|(^|[-_.])(key|pin|user|username)$", re.IGNORECASE)
_ASSIGNED = re.compile(  # bounded everywhere: a hostile file must not make it slow
    rf"""(?P<key>(?:{_WORDS})[\w.-]{{0,64}}|(?<!\w)(?:key|pin|user|username))["']?\s{{0,64}}[=:]\s{{0,64}}
    (?P<value>\"\"\".{{0,4096}}?\"\"\" | '''.{{0,4096}}?''' | "(?:[^"\\\n]|\\.){{0,65536}}" | '[^'\n]{{0,65536}}'
    | \[[^\]]{{0,4096}}\] | [^\s,;}}\]][^,;}}\]\n]{{0,65536}})""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"|\'([^\'\n]*)\'')
_USERINFO = re.compile(r"://([^\s\"'<>]{0,4096})@")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_PLAIN_ASSIGNED = re.compile(rf"(\b[\w-]{{0,64}}(?:{_WORDS})[\w-]{{0,64}}=)[^\s&,;]+", re.IGNORECASE)
_PUBLIC = ("true", "false", "none", "null", "full", "localhost", "fluxedge", "admin", "root", "user", "username")
_LONG_NAME = 16  # a user name of this length may be an access token


class Redactor:
    """Hides known secrets, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets for form in _forms(secret)}
        self.secrets = sorted(found, key=lambda secret: (-len(secret), secret))

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        text = _PEM.sub(HIDDEN, text)
        for secret in self.secrets:
            text = _without(secret, text)
        text = _USERINFO.sub(f"://{HIDDEN}@", text)
        return _PLAIN_ASSIGNED.sub(rf"\1{HIDDEN}", text)

    def data(self, data: Data) -> Data:
        """Return JSON without secrets; what is below a key of a secret goes as a whole."""
        if isinstance(data, dict):
            return {
                self.text(str(key)): HIDDEN if value and _KEY.search(str(key)) else self.data(value)
                for key, value in data.items()
            }
        if isinstance(data, list | tuple):
            return [self.data(value) for value in data]
        if isinstance(data, str):
            return HIDDEN if data in self.secrets else self.text(data)
        if isinstance(data, int | float) and not isinstance(data, bool) and str(data) in self.secrets:
            return HIDDEN
        return data

    def leaks(self, content: bytes) -> bool:
        """Tell whether a known secret stands in a text all the same."""
        text = content.decode(errors="replace")
        return any(secret in text for secret in self.secrets if len(secret) >= SHORT)


def known_secrets(layout: Layout) -> set[str]:
    """Return every secret that the files of a gateway hold, as far as this user may read them."""
    found: set[str] = set()
    names: set[str] = set()
    for place in layout.credential_dirs:
        for path in _files(place, "*"):
            names.add(path.name)
            found |= of_credential(_text(path))
    sources = [path for layer in layout.layers for path in _files(layer, "*.toml")]
    if layout.state_dir is not None:
        sources.append(layout.state_dir / "last-good" / "config.json")
    for path in sources:
        found |= assigned(_text(path), names)
    return found


def of_credential(text: str) -> set[str]:
    """Return what is secret of a file below credentials/: all of it, and each line; not public certificates."""
    if "-----BEGIN CERTIFICATE-----" in text and "PRIVATE KEY" not in text:
        return set()
    lines = {line.strip() for line in text.splitlines() if not line.startswith("-----")}
    return {secret for secret in {text.strip(), *lines} if secret}


def assigned(text: str, names: Iterable[str] = ()) -> set[str]:
    """Return what a TOML or JSON text assigns to keys of secrets, and the passwords in its URLs.

    `names` are credentials: naming one is no secret.
    """
    found: set[str] = set()
    public = {*names, *_PUBLIC}
    for match in _ASSIGNED.finditer(text):
        user = match["key"].lower() in ("user", "username")
        for value in _values(match["value"]):
            if value not in public and not value.startswith("/") and (not user or len(value) >= _LONG_NAME):
                found.add(value)
    for match in _USERINFO.finditer(text):
        name, _, password = match[1].partition(":")
        found |= {part for part in (password, name if len(name) >= _LONG_NAME else "") if part}
        if not password and name not in public:
            found.add(name)  # a token in place of a user
    return found


def _values(text: str) -> set[str]:
    if text.startswith(('"""', "'''")):
        return {line.strip() for line in [text[3:-3], *text[3:-3].splitlines()] if line.strip()}
    quoted = [match[1] or match[2] or "" for match in _QUOTED.finditer(text)]
    if not quoted:  # a number, or a string that was never closed
        quoted = [text.partition("#")[0].strip().strip("\"'[")]
    return {form for value in quoted if value for form in (value, _unescaped(value))}


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _forms(secret: str) -> set[str]:
    """Return a secret as it is written in texts, JSON, Python and URLs."""
    forms = {secret, quote(secret, safe=""), quote(secret), unquote(secret), repr(secret)[1:-1]}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return {form for form in forms if form.strip()}


def _without(secret: str, text: str) -> str:
    if len(secret) < SHORT:
        return re.sub(rf"([\"'])({re.escape(secret)})\1", rf"\1{HIDDEN}\1", text)
    text = text.replace(secret, HIDDEN)
    if len(secret) <= CUT:
        return text
    start = secret[:CUT]
    parts = text.split(start)
    for i in range(1, len(parts)):  # the rest of what was cut short goes, too
        rest, same = parts[i], 0
        while same < len(rest) and CUT + same < len(secret) and rest[same] == secret[CUT + same]:
            same += 1
        parts[i] = rest[same:]
    return HIDDEN.join(parts)


def _files(place: Path, pattern: str) -> list[Path]:
    try:
        return sorted(path for path in place.rglob(pattern) if path.is_file())[:MOST_FILES]
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
