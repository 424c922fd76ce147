"""Findings."""

from __future__ import annotations

import pytest

from fluxedge.doctor.findings import bad, counted, counts, note, ok, size


def test_findings_are_counted_by_verdict() -> None:
    assert counts([ok("a", "b"), note("a", "b"), note("a", "b"), bad("a", "b")]) == {"ok": 1, "note": 2, "bad": 1}


def test_a_finding_is_plain_json() -> None:
    assert bad("disk", "full", "Make room.").to_json() == {
        "verdict": "bad", "subject": "disk", "text": "full", "remedy": "Make room.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (3 << 40, "3.0 TiB")],
)
def test_bytes_are_said_in_words(count: int, words: str) -> None:
    assert size(count) == words


def test_one_is_not_plural() -> None:
    assert (counted(1, "device"), counted(2000, "device")) == ("1 device", "2,000 devices")
