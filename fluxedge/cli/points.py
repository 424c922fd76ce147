"""`fluxedge points`."""

from __future__ import annotations

from collections.abc import Sequence

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
    show.table(HEADS, map(row, found), right=(3,), drop=("label",), fold=("value", "label"))


def now(daemon: Daemon, target: str, names: Sequence[str], as_json: bool) -> None:
    """Show the latest values of a point, of a device's points `names`, or of all of a device: `fluxedge read`.

    Raises:
        Trouble: there is no such point or device; the hint names what was probably meant.
    """
    ids = [f"{target}.{name}" for name in names] or [target]
    by_id = "." in ids[0]
    found = [daemon.get(f"/points/{id_}") for id_ in ids] if by_id else daemon.get("/points", device=target)
    if as_json:
        print_json(found[0] if by_id and len(ids) == 1 else found)
        return
    show.table(HEADS, map(row, found), right=(3,), drop=("label",), fold=("value", "label"))


def row(point: Data) -> list[show.Cell]:
    """Return a point as a row of the table."""
    quality: show.Cell = show.state(point["quality"]) if point["quality"] else ("not read yet", "yellow")
    age = show.age(point["at_us"]) if point["at_us"] else "-"
    return [point["id"], show.value(point), quality, age, point["label"]]
