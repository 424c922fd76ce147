"""How the verbs show things: tables and colours on a terminal, aligned text elsewhere; times and sizes in words."""

from __future__ import annotations

import datetime
import os
import sys
import time
import typing
from collections.abc import Collection, Iterable, Sequence

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
NARROW = 16  # places that a column of texts needs at least
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


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    right: Iterable[int] = (),
    *,
    drop: Sequence[str] = (),
    fold: Collection[str] = (),
) -> None:
    """Print a table.

    On a terminal that is too narrow the columns of `drop` go, the first one first, and that is said. Only the columns
    of `fold` are broken into lines: an id can be copied.
    """
    found = list(rows)
    if not sys.stdout.isatty():
        plain = [[_text(cell) for cell in row] for row in found]
        for line in aligned.lines(plain, heads, right=right):
            click.echo(line)
        return
    from rich.console import Console  # slow to import, and only a terminal needs it

    console = Console(highlight=False)
    kept = fitting(heads, found, console.width, drop, fold)
    made = rich_table(heads, found, right, kept=kept, fold=fold)
    if (needed := _width(heads, found, kept, fold)) > console.width:
        console.width = needed  # the terminal breaks the lines; an id stays whole when it is copied
    console.print(made)
    if gone := [head for i, head in enumerate(heads) if i not in kept]:
        click.echo(styled(f"Not shown, the terminal is narrow: {', '.join(gone)}", "dim"))


def rich_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    right: Iterable[int] = (),
    *,
    kept: Collection[int] | None = None,
    fold: Collection[str] = (),
    cut: Collection[str] = (),
) -> Table:
    """Return a table of the columns `kept` (None: of all), for a terminal; `cut`: columns that end in … instead."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    to_right = set(right)
    shown = [i for i in range(len(heads)) if kept is None or i in kept]
    for i in shown:
        whole = heads[i] not in fold and heads[i] not in cut
        made.add_column(heads[i], justify="right" if i in to_right else "left", overflow="fold", no_wrap=whole)

    def made_of(i: int, cell: Cell) -> Text:
        text, style = (cell, "") if isinstance(cell, str) else cell
        return Text(text, style, no_wrap=True, overflow="ellipsis") if heads[i] in cut else Text(text, style)

    for row in rows:
        made.add_row(*[made_of(i, row[i]) for i in shown])
    return made


def fitting(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    width: int,
    drop: Sequence[str],
    narrow: Collection[str] = (),
) -> set[int]:
    """Return the columns that are shown at a width: all, without the first few of `drop`.

    The columns of `narrow` may be narrower than what is in them.
    """
    kept = set(range(len(heads)))
    for head in drop:
        if _width(heads, rows, kept, narrow) <= width:
            break
        if head in heads:
            kept.discard(list(heads).index(head))
    return kept


def _width(heads: Sequence[str], rows: Sequence[Sequence[Cell]], kept: Collection[int], narrow: Collection[str]) -> int:
    """Return how wide a table of some columns is at least."""
    found = 0
    for i in kept:
        widest = max((aligned.width(text) for text in (heads[i], *(_text(row[i]) for row in rows))), default=0)
        found += min(widest, NARROW) if heads[i] in narrow else widest
    return found + 2 * (len(kept) - 1)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


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
