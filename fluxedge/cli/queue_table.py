"""The table of uplinks, for `fluxedge queue` and `fluxedge status uplinks`."""

from __future__ import annotations

import base64

import click

from fluxedge.cli import aligned, show
from fluxedge.cli.online import Data


def show_queue(found: Data) -> None:
    """Print how far each uplink is behind, a row per lane."""
    if not found:
        click.echo("No uplinks are configured: what is read stays in the log.")
        return
    heads = ("uplink", "state", "for", "lane", "behind", "oldest", "sent", "refused", "lost", "autonomy")
    rows: list[list[show.Cell]] = []
    for uplink in found:
        since_us = uplink["connected_since_us"] or uplink.get("down_since_us")  # not told before an upgrade's restart
        since = show.age(since_us) if since_us else "-"
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


def show_details(found: Data) -> None:
    """Print everything about the queues of some uplinks."""
    if not found:
        click.echo("No uplinks are configured: what is read stays in the log.")
    for i, uplink in enumerate(found):
        if i:
            click.echo()
        _details(uplink)


def _details(uplink: Data) -> None:
    head = f"{uplink['id']}   {show.styled(uplink['state'])}"
    if uplink["state"] != "not-configured":
        head += f"   autonomy {_autonomy(uplink)}"
    if uplink["budget_bytes"]:
        head += f"   backlog may take {show.size(uplink['budget_bytes'])}/s"
    click.echo(head)
    rows: list[list[show.Cell]] = []
    for lane in uplink["lanes"]:
        oldest = show.age(lane["oldest_us"]) if lane["oldest_us"] else "-"
        counts = [f"{n:,}" for n in (lane["records"], lane["live"], lane["records"] - lane["live"])]
        first, *more = [_place(one) for one in lane["ranges"]] or [("-", "")]
        if lane["ranges_count"] > len(lane["ranges"]):
            more.append((f"and {lane['ranges_count'] - len(lane['ranges']):,} more ranges", ""))
        rows.append([lane["lane"], *counts, oldest, show.size(lane["bytes"]), *first])
        rows += [["", "", "", "", "", "", *other] for other in more]
    heads = ("lane", "waiting", "live", "backlog", "oldest", "bytes", "seqs", "epoch")
    show.table(heads, rows, right=(1, 2, 3, 5), drop=("bytes", "live", "epoch", "backlog"))
    _gaps(uplink)
    _quarantine(uplink)


def _gaps(uplink: Data) -> None:
    if not uplink["gaps"]:
        return
    click.echo(f"\nlost and given up: {aligned.counted(uplink['gap_records'], 'record')}")
    rows: list[list[show.Cell]] = [
        [show.moment(gap["at_us"]), gap["lane"], gap["why"], f"{gap['last'] - gap['first'] + 1:,}", *_place(gap),
         "announced" if gap["announced"] else ("not yet announced", "yellow")]
        for gap in uplink["gaps"]
    ]  # fmt: skip
    heads = ("at", "lane", "why", "records", "seqs", "epoch", "")
    show.table(heads, rows, right=(3,), drop=("epoch", "at", "seqs"))


def _quarantine(uplink: Data) -> None:
    if not uplink["quarantine_rows"]:
        return
    records, count = (aligned.counted(uplink[f"quarantine_{what}s"], what) for what in ("record", "row"))
    click.echo(f"\nin quarantine: {records} in {count}, {show.size(uplink['quarantine_bytes'])}")
    rows: list[list[show.Cell]] = [
        [str(row["id"]), row["lane"], f"{row['last'] - row['first'] + 1:,}", *_place(row), show.age(row["at_us"]),
         str(row["tries"]), ("to be sent again", "yellow") if row["again"] else "", row["reason"]]
        for row in uplink["quarantine"]
    ]  # fmt: skip
    heads = ("id", "lane", "records", "seqs", "epoch", "age", "tries", "", "reason")
    show.table(heads, rows, right=(0, 2, 6), drop=("epoch", "lane", "age"), fold=("reason",))
    if uplink["quarantine_rows"] > len(uplink["quarantine"]):
        click.echo(f"and {uplink['quarantine_rows'] - len(uplink['quarantine']):,} more: fluxedge queue export")


def show_ranges(ranges: Data) -> None:
    """Print ranges, one a line, to standard error."""
    for one in ranges[:10]:
        click.echo(f"  {_range(one)}", err=True)
    if len(ranges) > 10:
        click.echo("  …", err=True)


def show_payload(row: Data) -> None:
    """Print what a row of the quarantine holds to standard output, and what it is to standard error."""
    kind = row["content_type"] or "no content type"
    place = f"{row['lane']} {_range(row)} for {row['uplink']}"
    click.echo(f"{place}: {row['reason']}; {aligned.counted(row['tries'], 'try', 'tries')}, {kind}", err=True)
    click.echo(base64.b64decode(row["payload"]) if row["base64"] else row["payload"])


def _range(one: Data) -> str:
    seqs, epoch = _place(one)
    return f"{seqs} of epoch {epoch}"


def _place(one: Data) -> tuple[str, str]:
    """Return the seqs of a range, and its epoch."""
    seqs = f"{one['first']:,}" if one["first"] == one["last"] else f"{one['first']:,} to {one['last']:,}"
    return seqs, str(one["epoch"])
