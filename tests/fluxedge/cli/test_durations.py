"""Durations of options: with a unit, or plain seconds."""

from __future__ import annotations

import click
import pytest

from fluxedge.cli.durations import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("20", 20.0), ("20s", 20.0), ("1.5", 1.5), ("500ms", 0.5), ("2 min", 120.0), (" 3 ", 3.0)]
)
def test_a_unit_and_plain_seconds_mean_the_same(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "20 years", "-1", "nan", "inf", "1e400"])
def test_what_is_no_duration_is_told_what_would_be(text: str) -> None:
    with pytest.raises(click.BadParameter, match='is not a duration; write "500ms", "30s", "5m", or plain seconds'):
        duration(text)
