"""Tables on terminals of every width."""

from __future__ import annotations

import click
import pytest
from rich.console import Console

from fluxedge.cli import aligned, show

HEADS = ("device", "label", "driver", "state")
ROWS: list[list[show.Cell]] = [
    ["io", "一号车间的远程 I/O 模块 / Remote I/O of hall one", "moxa-iologik-e1212", show.state("ok")],
    ["main-meter", "总表", "siemens-pac2200", show.state("offline")],
]


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int) -> list[str]:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    show.table(HEADS, ROWS, drop=("driver", "label"), fold=("label",))
    return click.unstyle(capsys.readouterr().out).splitlines()


def test_a_wide_terminal_gets_all_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(monkeypatch, capsys, 120)
    assert lines[0].split() == list(HEADS)
    assert len(lines) == 3


def test_a_narrow_terminal_folds_texts_first_then_loses_columns_and_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(monkeypatch, capsys, 60)
    assert lines[0].split() == list(HEADS)
    assert len(lines) > 3
    lines = printed(monkeypatch, capsys, 40)
    assert lines[0].split() == ["device", "label", "state"]
    assert lines[-1].endswith("Not shown, the terminal is narrow: driver")
    assert all(aligned.width(line) <= 40 for line in lines[:-1])


@pytest.mark.parametrize("columns", [5, 20, 40, 60, 80, 120])
def test_an_id_is_never_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    lines = printed(monkeypatch, capsys, columns)
    assert any(line.startswith("main-meter ") for line in lines)
    if "driver" in lines[0]:
        assert any("moxa-iologik-e1212" in line for line in lines)


def test_columns_go_in_the_order_given_and_no_more_than_needed() -> None:
    rows = [["a" * 10, "b" * 10, "c" * 10]]
    heads = ("x", "y", "z")
    assert show.fitting(heads, rows, 34, ("y", "z")) == {0, 1, 2}
    assert show.fitting(heads, rows, 33, ("y", "z")) == {0, 2}
    assert show.fitting(heads, rows, 21, ("y", "z")) == {0}
    assert show.fitting(heads, rows, 5, ("y", "z")) == {0}
    assert show.fitting(heads, [], 80, ("y",)) == {0, 1, 2}


def test_a_column_that_is_cut_takes_one_line() -> None:
    console = Console(width=40)
    with console.capture() as capture:
        console.print(show.rich_table(HEADS, ROWS, kept={0, 1, 3}, cut=("label",)))
    lines = capture.get().splitlines()
    assert len(lines) == 3
    assert lines[1].split()[0] == "io"
    assert "…" in lines[1]
    assert lines[2].split() == ["main-meter", "总表", "offline"]
