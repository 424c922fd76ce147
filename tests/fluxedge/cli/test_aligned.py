"""Columns line up, whatever script they are written in."""

from __future__ import annotations

import click

from fluxedge.cli import aligned


def test_columns_line_up_with_chinese_text() -> None:
    rows = aligned.lines([("电压", "1"), ("current", "22")])
    assert rows == ["电压     1", "current  22"]


def test_numbers_stand_at_the_right() -> None:
    assert aligned.lines([("a", "1.5"), ("b", "100.25")], right=(1,)) == ["a     1.5", "b  100.25"]


def test_the_heads_are_part_of_the_table() -> None:
    rows = aligned.lines([("u", "230")], ("Point", "Value"))
    assert [click.unstyle(row) for row in rows] == ["Point  Value", "u      230"]


def test_combining_marks_take_no_place() -> None:
    assert aligned.width("a\u0301") == 1


def test_nothing_gives_no_lines() -> None:
    assert aligned.lines([]) == []


def test_counting_words_agree_with_their_number() -> None:
    assert aligned.counted(1, "device") == "1 device"
    assert aligned.counted(2000, "device") == "2,000 devices"
    assert aligned.counted(0, "entry", "entries") == "0 entries"
