"""How the verbs show things: tables and colours on a terminal, aligned text elsewhere; times and sizes in words."""

from __future__ import annotations

import datetime
import os
import sys
import time
import typing
from collections.abc import Iterable, Sequence

import click

from fluxedge.cli import aligned

if typing.TYPE_CHECKING:
    from rich.table import Table

Data = typing.Any  # JSON
Cell = str | tuple[str, str]  # (text, style)
STATE_STYLE = {
    "ok": "green", "open": "green", "connected": "green", "GOOD": "", "offline": "red", "closed": "red", "down": "red",
    "UNCERTAIN": "yellow", "BAD": "red", "OFFLINE": "red", "waiting": "yellow", "disabled": "dim",
}  # fmt: skip
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def styled(text: str, style: str | None = None) -> str:
    """Return a text with a colour where colours are wanted; `style` None = the one of a state of this name."""
    style = STATE_STYLE.get(text, "") if style is None else style
    if not style or "NO_COLOR" in os.environ:
        return text
    return click.style(text, dim=True) if style == "dim" else click.style(text, fg=style)


def state(text: str) -> Cell:
    """Return a state as a cell in its colour."""
    return text, STATE_STYLE.get(text, "")


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], right: Iterable[int] = ()) -> None:
    """Print a table."""
    found = list(rows)
    if not sys.stdout.isatty():
        plain = [[cell if isinstance(cell, str) else cell[0] for cell in row] for row in found]
        for line in aligned.lines(plain, heads, right=right):
            click.echo(line)
        return
    from rich.console import Console  # slow to import, and only a terminal needs it

    Console(highlight=False).print(rich_table(heads, found, right))


def rich_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], right: Iterable[int] = ()) -> Table:
    """Return a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    to_right = set(right)
    for i, head in enumerate(heads):
        made.add_column(head, justify="right" if i in to_right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[Text(cell) if isinstance(cell, str) else Text(cell[0], style=cell[1]) for cell in row])
    return made


def span(seconds: float) -> str:
    """Return a duration in words: its two largest units."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms" if seconds else "0 s"
    left = int(seconds)
    words: list[str] = []
    for unit, size in _UNITS:
        if left >= size and len(words) < 2:
            words.append(f"{left // size} {unit}")
            left %= size
        elif words:
            break
    return " ".join(words)


def age(at_us: int, now_s: float | None = None) -> str:
    """Return how long ago an instant was; "never" for none."""
    if not at_us:
        return "never"
    return span(max(0.0, (now_s if now_s is not None else time.time()) - at_us / 1e6))


def moment(at_us: int) -> str:
    """Return an instant in local time, to the second."""
    return datetime.datetime.fromtimestamp(at_us / 1e6).strftime("%Y-%m-%d %H:%M:%S") if at_us else "never"


def size(count: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def value(point: Data) -> str:
    """Return a point's value with its unit, or the names of its enum or bits."""
    found = point["value"]
    if found is None:
        return "-"
    if point.get("text"):
        return f"{point['text']} ({found})"
    shown = number(found)
    return f"{shown} {unit}" if (unit := shown_unit(point.get("unit", ""))) else shown


def number(found: object) -> str:
    """Return a number with as many digits as it has, without noise; a switch as on or off; a text as it is."""
    if isinstance(found, bool):
        return "on" if found else "off"
    return f"{found:.7g}" if isinstance(found, float) else str(found)


def shown_unit(ucum: str) -> str:
    """Return a UCUM unit as people read it: "1" (a plain number) is nothing, braces are only words."""
    return "" if ucum == "1" else ucum.strip("{}")
