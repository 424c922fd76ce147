"""Aligned columns of plain text, for terminals and pipes alike; a Chinese character takes two places."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import click


def width(text: str) -> int:
    """Return how many places a text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def lines(rows: Iterable[Sequence[str]], heads: Sequence[str] = (), *, right: Iterable[int] = ()) -> list[str]:
    """Return the rows with columns of equal width, numbers of the columns in `right` to the right."""
    table = [tuple(heads), *map(tuple, rows)] if heads else [tuple(row) for row in rows]
    if not table:
        return []
    widths = [max(width(row[i]) for row in table) for i in range(len(table[0]))]
    to_right = set(right)
    found = []
    for row in table:
        cells = [
            " " * (widths[i] - width(cell)) + cell if i in to_right else cell + " " * (widths[i] - width(cell))
            for i, cell in enumerate(row)
        ]
        found.append("  ".join(cells).rstrip())
    if heads:
        found[0] = click.style(found[0], bold=True)  # click.echo takes styles away where no terminal reads
    return found


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return "1 device", "2 devices", "0 devices"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
