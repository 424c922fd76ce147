"""The line that says how far a job is."""

from __future__ import annotations

import pytest

from fluxedge.cli import progress
from fluxedge.cli.progress import Progress


def test_nothing_is_said_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    line = Progress()
    line.bytes("log", 1, 2)
    line.end()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_is_written_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = Progress()
    line.bytes("history", 1 << 20, 4 << 20)
    line.bytes("log", 100, 0)
    line.parts("log", 1, 3)
    line.end()
    said = capsys.readouterr().err
    lines = [text.rstrip() for text in said.split("\r")]
    assert lines == ["", "history: 1.0 MiB of about 4.0 MiB, 25 %", "log: 100 B", "log: 33 %", "", ""]
    assert "\n" not in said


def test_it_does_not_write_more_often_than_one_can_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 60.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = Progress()
    for done in range(1000):
        line.parts("log", done, 1000)
    assert capsys.readouterr().err.count("\r") <= 1
