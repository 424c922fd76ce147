"""The table of uplinks, for `fluxedge queue` and `fluxedge status uplinks`."""

from __future__ import annotations

import click

from fluxedge.cli import show
from fluxedge.cli.online import Data


def show_queue(found: Data) -> None:
    """Print how far each uplink is behind, a row per lane."""
    if not found:
        click.echo("No uplinks are configured: what is read stays in the log.")
        return
    heads = ("uplink", "state", "for", "lane", "behind", "oldest", "sent", "refused", "lost", "autonomy")
    rows: list[list[show.Cell]] = []
    for uplink in found:
        since = show.age(uplink["connected_since_us"]) if uplink["connected_since_us"] else "-"
        first: list[show.Cell] = [uplink["id"], show.state(uplink["state"]), since]
        lost = "?" if uplink["gap_records"] is None else f"{uplink['gap_records']:,}"
        last = [f"{uplink['records']:,}", f"{uplink['refused']:,}", lost, _autonomy(uplink)]
        for lane in uplink["lanes"]:
            oldest = show.age(lane["oldest_us"]) if lane["oldest_us"] else "-"
            rows.append([*first, lane["lane"], f"{lane['records']:,}", oldest, *last])
            first, last = ["", "", ""], ["", "", "", ""]
    show.table(heads, rows, right=(4, 6, 7, 8), drop=("sent", "for", "refused", "autonomy"))


def _autonomy(uplink: Data) -> str:
    return "not known yet" if uplink["autonomy_h"] is None else show.span(uplink["autonomy_h"] * 3600)
