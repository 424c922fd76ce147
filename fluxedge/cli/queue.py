"""`fluxedge queue`: what waits for each uplink, what was refused or lost, and what an operator may do about it."""

from __future__ import annotations

import contextlib
import sys
import typing
from pathlib import Path

import click

from fluxedge.cli import aligned, queue_table
from fluxedge.cli.durations import duration
from fluxedge.cli.landing import landing
from fluxedge.cli.main import Words
from fluxedge.cli.online import Daemon, Data, Trouble, options, print_json

CHANGE_S = 60.0
_LANES = click.Choice(["rounds", "events"])


class QueueVerbs(Words):
    """`fluxedge queue` alone, or with options of `ls`, is `fluxedge queue ls`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["ls", *args]
        return super().parse_args(ctx, args)


@click.group(cls=QueueVerbs)
def queue() -> None:
    """Show what waits for each uplink; retry, export or drop it. Without a verb: ls."""


@queue.command()
@options
def ls(daemon: Daemon, as_json: bool) -> None:
    """Show how far each uplink is behind.

    sent: records acknowledged since the start. refused: records in quarantine. lost: records given up and announced as
    gaps. autonomy: how long the log, growing as now, can wait for this uplink before it has to give something up.
    """
    found = daemon.get("/uplinks")
    if as_json:
        print_json(found)
    else:
        queue_table.show_queue(found)


@queue.command()
@click.argument("uplink", required=False, default="")
@click.option("--quarantine", "number", type=click.IntRange(min=1), help="Print what this row holds, as it was sent.")
@options
def show(uplink: str, number: int | None, daemon: Daemon, as_json: bool) -> None:
    """Show everything that waits for an uplink: ranges, gaps, and what its peer refused.

    Without UPLINK every uplink is shown. With --quarantine ID the payload of that row goes to standard output.
    """
    if number is not None:
        if uplink:
            raise click.UsageError("--quarantine names a row by itself: leave the uplink out")
        (row,) = daemon.get("/queue/quarantine", id=str(number))
        if as_json:
            print_json(row)
        else:
            queue_table.show_payload(row)
        return
    found = daemon.get("/queue", uplink=uplink)
    if as_json:
        print_json(found)
    else:
        queue_table.show_details(found)


@queue.command()
@click.argument("numbers", metavar="ID...", nargs=-1, type=click.IntRange(min=1))
@click.option("--all", "every", is_flag=True, help="Every row of the quarantine, of --uplink where that is given.")
@click.option("--uplink", default="", help="With --all: only rows of this uplink.")
@options
def retry(numbers: tuple[int, ...], every: bool, uplink: str, daemon: Daemon, as_json: bool) -> None:
    """Send records of the quarantine once more.

    They go as they were sent before. A row goes when the peer acknowledges it; refused again, it stays.
    """
    if bool(numbers) is every or (uplink and not every):
        raise click.UsageError("name rows by their ids (fluxedge queue show lists them), or --all [--uplink UPLINK]")
    body = {"ids": list(numbers), "all": every, "uplink": uplink}
    found = daemon.post("/queue/retry", body, CHANGE_S)
    if as_json:
        print_json(found)
    elif not found["rows"]:
        click.echo("Nothing is in quarantine.")
    else:
        click.echo(f"{_about(found)} will be sent once more.")
        _tell_missing(found)


@queue.command()
@click.argument("uplink", required=False, default="")
@click.option("--lane", type=_LANES, help="Only this lane [both].")
@click.option("--epoch", type=click.IntRange(min=1), help="Only of this epoch [all].")
@click.option("--upto", type=click.IntRange(min=1), metavar="SEQ", help="Only up to this seq, which goes too.")
@click.option("--older-than", type=duration, help='Only records older than this, "2d"; by the stamps in the log.')
@click.option("--quarantine", "numbers", metavar="ID", multiple=True, type=click.IntRange(min=1),
              help="Rows of the quarantine instead; may be repeated.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@options
def drop(uplink: str, numbers: tuple[int, ...], yes: bool, daemon: Daemon, as_json: bool, **part: typing.Any) -> None:
    """Give up records that wait for UPLINK, or rows of the quarantine.

    They are not sent any more. Consumers get an event "gap" with the reason "dropped", the log an audit event. The log
    keeps the records themselves for as long as it keeps others.
    """
    body = _drop_body(uplink, numbers, part)
    if not yes:
        planned = daemon.post("/queue/drop", {**body, "dry": True}, CHANGE_S)
        if not planned["records"]:
            click.echo("Nothing of that waits.")
            return
        click.echo(f"{_about(planned)} would be given up{' for ' + uplink if uplink else ''}:", err=True)
        queue_table.show_ranges(planned["ranges"])
        if not click.confirm("Give them up?", err=True):
            click.echo("Nothing was changed.", err=True)
            raise SystemExit(1)
    found = daemon.post("/queue/drop", body, CHANGE_S)
    if as_json:
        print_json(found)
    else:
        click.echo(
            f"{_about(found)} given up and announced as a gap." if found["records"] else "Nothing of that waits."
        )
        _tell_missing(found)


def _drop_body(uplink: str, numbers: tuple[int, ...], part: dict[str, typing.Any]) -> dict[str, typing.Any]:
    given = {name: value for name, value in part.items() if value is not None}
    if numbers:
        if uplink or given:
            raise click.UsageError("--quarantine names rows by themselves: leave the uplink and its options out")
        return {"ids": list(numbers)}
    if not uplink:
        raise click.UsageError("say of which UPLINK, or which rows with --quarantine ID")
    if "upto" in given and "older_than" in given:
        raise click.UsageError("--upto and --older-than exclude each other")
    if "older_than" in given:
        given["older_than_s"] = given.pop("older_than")
    return {"uplink": uplink, **given}


@queue.command()
@click.argument("uplink", required=False, default="")
@click.option("--what", type=click.Choice(["all", "records", "quarantine"]), default="all", show_default=True,
              help="What waits, what was refused, or both.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file; it appears whole or not at all.")
@options
def export(uplink: str, what: str, output: Path | None, daemon: Daemon, as_json: bool) -> None:
    """Write what waits for UPLINK, and what its peer refused, as JSON lines.

    {"record": {...}} is a record that waits, {"quarantine": {...}} a refused row with its payload. Nothing is taken out
    of the queue. Without UPLINK, --what quarantine is needed: it is that of all uplinks.
    """
    if not uplink and what != "quarantine":
        raise click.UsageError("say of which UPLINK; without one only --what quarantine can be exported")
    with contextlib.ExitStack() as stack:
        # The gateway is asked first: what it refuses makes no file.
        pieces = stack.enter_context(daemon.text("/queue/export", uplink=uplink, what=what))
        if output is None:
            for piece in pieces:
                sys.stdout.write(piece)
            sys.stdout.flush()
            return
        file = stack.enter_context(landing(output))
        count = 0
        for piece in pieces:
            file.write(piece.encode())
            count += piece.count("\n")
    if as_json:
        print_json({"lines": count, "file": str(output)})
    else:
        click.echo(f"{aligned.counted(count, 'line')} written to {output}", err=True)


def _about(found: Data) -> str:
    records = aligned.counted(found["records"], "record")
    return f"{aligned.counted(found['rows'], 'row')} of the quarantine ({records})" if found["rows"] else records


def _tell_missing(found: Data) -> None:
    if found["missing"]:
        names = ", ".join(map(str, found["missing"][:10])) + (" …" if len(found["missing"]) > 10 else "")
        raise Trouble(f"Not in the quarantine (any more): {names}")
