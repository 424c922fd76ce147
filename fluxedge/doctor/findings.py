"""Findings: what the doctor says. One sentence each, and what to do about it."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Verdict = typing.Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict  # ok; note: odd, or could not be seen; bad: wrong
    subject: str  # "disk", "uplink cloud"
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return what `doctor --json` prints."""
        return {"verdict": self.verdict, "subject": self.subject, "text": self.text, "remedy": self.remedy}


Found = Iterator[Finding]


def ok(subject: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding("ok", subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that somebody should know of."""
    return Finding("note", subject, text, remedy)


def bad(subject: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that something is wrong."""
    return Finding("bad", subject, text, remedy)


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return verdict -> how many."""
    found = {"ok": 0, "note": 0, "bad": 0}
    for finding in findings:
        found[finding.verdict] += 1
    return found


def counted(count: int, noun: str) -> str:
    """Return "1 device", "2 devices"."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def size(count: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
