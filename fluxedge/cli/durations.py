"""Durations as options take them: with a unit as in TOML ("30s", "5m"), or plain seconds ("30")."""

from __future__ import annotations

import math

import click

from fluxedge.config.quantities import Seconds


def duration(text: str) -> float:
    """Return seconds; for click's `type=`.

    Raises:
        BadParameter: it is no duration; says what would be one.
    """
    try:
        return float(Seconds.parse(text.strip()))
    except ValueError:
        pass
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise click.BadParameter(f'"{text}" is not a duration; write "500ms", "30s", "5m", or plain seconds such as 30')
    return seconds
