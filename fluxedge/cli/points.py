"""`fluxedge points`."""

from __future__ import annotations

import click

from fluxedge.cli import show
from fluxedge.cli.online import Daemon, Data, Trouble, options, print_json

HEADS = ("point", "value", "quality", "age", "label")


@click.command()
@click.argument("glob", required=False, default="")
@options
def points(glob: str, daemon: Daemon, as_json: bool) -> None:
    """List all points with their latest values; GLOB chooses some: 'boiler.*', '*.flow_temp'."""
    found = daemon.get("/points", match=glob)
    if as_json:
        print_json(found)
        return
    if not found:
        raise Trouble(f"no point matches {glob}" if glob else "there are no points: no devices are configured")
    show.table(HEADS, map(row, found), right=(3,))


def now(daemon: Daemon, target: str, as_json: bool) -> None:
    """Show the latest values of a point or of all points of a device: `fluxedge read` of what the gateway reads.

    Raises:
        Trouble: there is no such point or device; the hint names what was probably meant.
    """
    one = "." in target
    found = [daemon.get(f"/points/{target}")] if one else daemon.get("/points", device=target)
    if as_json:
        print_json(found[0] if one else found)
        return
    show.table(HEADS, map(row, found), right=(3,))


def row(point: Data) -> list[show.Cell]:
    """Return a point as a row of the table."""
    quality: show.Cell = show.state(point["quality"]) if point["quality"] else ("not read yet", "yellow")
    age = show.age(point["at_us"]) if point["at_us"] else "-"
    return [point["id"], show.value(point), quality, age, point["label"]]
