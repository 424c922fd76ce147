"""`fluxedge watch`."""

from __future__ import annotations

import sys
import time
import typing
from collections.abc import Iterator, Sequence

import click

from fluxedge.cli import points, show
from fluxedge.cli.main import NOT_RUNNING
from fluxedge.cli.online import Daemon, Data, Trouble, options

if typing.TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW_S = 0.25

Event = tuple[str, Data]


@click.command()
@click.argument("glob", required=False, default="")
@options
def watch(glob: str, daemon: Daemon, as_json: bool) -> None:
    """Show values live as they are read; GLOB chooses points: 'boiler.*', '*.flow_temp'.

    A table on a terminal, as long as its window is high; a line per value elsewhere; --json prints a JSON object per
    round. Ctrl-C ends it.
    """
    try:
        if as_json:
            _lines_of_json(daemon, glob)
        elif sys.stdout.isatty():
            _table(daemon, glob)
        else:
            _lines(daemon, glob)
    except KeyboardInterrupt:  # the usual way to end it
        return
    raise Trouble("fluxedge has stopped.", exit_code=NOT_RUNNING)


def _lines_of_json(daemon: Daemon, glob: str) -> None:
    with daemon.lines("/live", match=glob) as lines:
        for line in lines:
            if line.startswith("data: "):
                _print(line.removeprefix("data: "))


def _lines(daemon: Daemon, glob: str) -> None:
    known = {point["id"]: point for point in daemon.get("/points", match=glob)}
    with daemon.events("/live", match=glob) as events:
        for event, data in events:
            if event == "dropped":
                _warn_dropped(data)
                continue
            for point in _updated(known, data):
                quality = "" if point["quality"] == "GOOD" else f"  {point['quality']}"
                _print(f"{show.moment(data['at_us'])}  {point['id']}  {show.value(point)}{quality}")


def _table(daemon: Daemon, glob: str) -> None:
    from rich.console import Console
    from rich.live import Live

    known = {point["id"]: point for point in daemon.get("/points", match=glob)}
    lost = 0
    console = Console(highlight=False)
    screen = Live(console=console, auto_refresh=False, vertical_overflow="crop")
    with daemon.events("/live", match=glob) as events, screen as live:
        drawn_s = 0.0
        for event, data in events:
            if event == "dropped":
                lost += data["rounds"]
            else:
                list(_updated(known, data))
            if time.monotonic() - drawn_s >= REDRAW_S:
                drawn_s = time.monotonic()
                live.update(frame(list(known.values()), lost, *console.size), refresh=True)


def frame(known: Sequence[Data], lost: int, width: int, height: int) -> RenderableType:
    """Return as many points as the terminal has lines for, and what is not shown."""
    from rich.console import Group
    from rich.text import Text

    foot = [f"{lost:,} rounds not shown: this terminal is too slow"] if lost else []
    room = max(1, height - 2 - len(foot))  # the table's heading, the cursor's line
    if len(known) > room:
        room = max(1, room - 1)
        device = known[0]["id"].partition(".")[0]
        foot.insert(0, f"… {len(known) - room:,} more points; give a pattern (fluxedge watch '{device}.*')")
    rows = [points.row(point) for point in known[:room]]
    kept = show.fitting(points.HEADS, rows, width, ("label", "age"), ("value", "label"))
    table = show.rich_table(points.HEADS, rows, right=(3,), kept=kept, cut=("value", "label"))
    return Group(table, *(Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in foot))


def _updated(known: dict[str, Data], data: Data) -> Iterator[Data]:
    """Take a round in; iterate over the points it has."""
    for name, value in data["values"].items():
        id_ = f"{data['device']}.{name}"
        point = known.setdefault(id_, {"id": id_, "unit": "", "label": ""})
        point["value"] = value
        point["text"] = data["text"].get(name, "")
        point["quality"] = data["quality"].get(name, "GOOD")
        point["at_us"] = data["at_us"]
        yield point


def _warn_dropped(data: Data) -> None:
    click.echo(f"{data['rounds']:,} rounds not shown: the output is too slow", err=True)


def _print(line: str) -> None:
    typing.cast(typing.TextIO, sys.stdout).write(line + "\n")
    sys.stdout.flush()
