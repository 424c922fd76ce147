"""What the demo shows: a live table that fits the terminal, the lines to paste, and the summary at the end."""

from __future__ import annotations

import time
import typing
from dataclasses import dataclass

import click

from fluxedge.cli import aligned
from fluxedge.cli.show import shown_unit
from fluxedge.cli.shown import shown

if typing.TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fluxedge.cli.demo_tally import Tally, Totals

SHOWN = {  # device -> the points worth a line, the best first
    "main-meter": ("p", "u_l1", "i_l1", "pf", "e_imp", "u_l2", "u_l3", "i_l2", "i_l3"),
    "line-meter": ("p", "u", "f", "e_imp", "i"),
    "climate": ("temperature", "humidity"),
    "io": ("do_0", "di_0", "di_count_0", "do_pulse_on_0", "di_1"),
    "plant": ("flow_temp", "setpoint", "level", "stage"),
    "machine": ("cpu_percent", "memory_percent", "process_rss"),
}
LABELS_FROM = 100  # columns
_STYLES = {"GOOD": "green", "UNCERTAIN": "yellow", "BAD": "red", "OFFLINE": "red"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while the demo runs."""

    broker: str
    port: int
    folder: str
    devices: int
    paste: tuple[str, ...]


def paste_lines(fluxedge: str, state: str, port: int) -> tuple[str, ...]:
    """Return commands to try in another terminal."""
    return (
        f"{fluxedge} watch --state {state}",
        f"{fluxedge} status --state {state}",
        f"{fluxedge} write io.do_0 on --state {state}",
        f"mosquitto_sub -h 127.0.0.1 -p {port} -t 'fluxedge/#' -v",
        f"{fluxedge} verify --broker mqtt://127.0.0.1:{port}",
    )


def folded(command: str, width: int) -> list[str]:
    """Return a command in lines of at most `width` that can be pasted: broken at blanks, with a backslash."""
    lines, line = [], ""
    for word in command.split(" "):
        if line and len(line) + 1 + len(word) + 2 > width and len(command) > width:
            lines.append(f"{line} \\")
            line = f"    {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def chosen(points: typing.Collection[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Return the points that get a line: the best of each device first, in the order of the devices."""
    ranked = sorted(
        (rank, place, (device, name))
        for place, (device, names) in enumerate(SHOWN.items())
        for rank, name in enumerate(name for name in names if (device, name) in points)
    )
    kept = {key for _, _, key in ranked[: max(0, most)]}
    return [(device, name) for device, names in SHOWN.items() for name in names if (device, name) in kept]


def frame(tally: Tally, facts: Facts, elapsed_s: float, width: int, height: int) -> RenderableType:
    """Return the whole screen."""
    from rich.console import Group
    from rich.text import Text

    paste = [line for command in facts.paste for line in folded(command, width - 2)]
    foot = [Text(), *_totals(tally, facts), Text(), Text("Paste into another terminal (Ctrl-C here ends all):", "bold")]
    foot += [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in paste]
    head = Text.assemble(
        ("fluxedge demo", "bold"), f"   {facts.devices} devices, {len(tally.points)} points   {elapsed_s:.0f} s   ",
        (facts.folder, "dim"), no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    room = height - len(foot) - 4  # the heading, a blank line, the table's heading, the cursor's line
    return Group(head, Text(), _table(tally, chosen(tally.points, room), width), *foot)


def _table(tally: Tally, keys: list[tuple[str, str]], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("Device")
    table.add_column("Point")
    table.add_column("Value", justify="right", min_width=10)
    table.add_column("Unit", min_width=4)
    table.add_column("Quality", min_width=7)
    table.add_column("Age", justify="right", min_width=6)
    labels = width >= LABELS_FROM
    if labels:
        table.add_column("Label", no_wrap=True, overflow="ellipsis")
    before = ""
    for device, name in keys:
        point, now = tally.points[device, name], tally.now.get((device, name))
        row = [Text(device if device != before else "", "cyan"), Text(name)]
        if now is None:
            row += [Text("—", "dim"), Text(shown_unit(point.unit), "dim"), Text(), Text()]
        else:
            age_s = max(0.0, time.time() - now.at_us / 1e6)
            row += [Text(shown(point, now.value)), Text(shown_unit(point.unit), "dim")]
            row += [Text(now.quality, _STYLES.get(now.quality, "")), Text(f"{age_s:.1f} s", "dim")]
        table.add_row(*row, *([Text(point.label)] if labels else []))
        before = device
    return table


def _totals(tally: Tally, facts: Facts) -> list[typing.Any]:
    from rich.text import Text

    missing = tally.missing
    found = [
        Text.assemble(
            f"{tally.values:,} points read · ", f"{_number(tally.committed)} records committed · ",
            f"{_number(tally.acknowledged)} acknowledged by {facts.broker}", no_wrap=True, overflow="ellipsis",
        ),
        Text.assemble(
            f"{tally.received:,} verified at the broker, ",
            (f"{missing:,} missing", "red bold" if missing else "green"), no_wrap=True,
        ),
    ]  # fmt: skip
    if not tally.problems:
        return found
    first = tally.problems[0]
    more = f" (and {len(tally.problems) - 1} more)" if len(tally.problems) > 1 else ""
    words = f"{first['item']}: {first['message']}{more}"
    return [*found, Text(words, "yellow", no_wrap=True, overflow="ellipsis")]


def _number(count: int | None) -> str:
    return "…" if count is None else f"{count:,}"


def line(tally: Tally, elapsed_s: float) -> str:
    """Return the state as one line, for outputs that are no terminal."""
    return (
        f"{elapsed_s:4.0f} s: {tally.values:,} points read, {_number(tally.committed)} records committed, "
        f"{_number(tally.acknowledged)} acknowledged, {tally.received:,} verified, {tally.missing:,} missing"
    )


def summary(tally: Tally, totals: Totals, facts: Facts, elapsed_s: float) -> list[str]:
    """Return the result: the totals of the moment when the end began, what is missing after all had arrived."""
    missing = tally.missing
    rows = [
        ("points read", f"{totals.values:,}", f"{facts.devices} devices, {len(tally.points)} points"),
        ("records committed", _number(totals.committed), "rounds and events in the log"),
        ("acknowledged", _number(totals.acknowledged), f"by {facts.broker} on 127.0.0.1:{facts.port}"),
        ("verified", f"{totals.received:,}", "received from the broker by then"),
        ("missing", f"{missing:,}", "of them" if missing else "nothing was lost"),
        ("problems", f"{len(tally.problems):,}", ""),
    ]
    found = [click.style(f"fluxedge demo, {elapsed_s:.0f} s", bold=True)]
    found += [f"  {text}" for text in aligned.lines(rows, right=(1,))]
    found += [f"    {problem['item']}: {problem['code']}: {problem['message']}" for problem in tally.problems]
    return found
