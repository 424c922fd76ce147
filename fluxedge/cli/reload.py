"""`fluxedge reload`."""

from __future__ import annotations

import sys

import click

from fluxedge.cli import show
from fluxedge.cli.main import BAD_CONFIG
from fluxedge.cli.online import ApiTrouble, Daemon, Data, options, print_json

RELOAD_S = 120.0  # a thousand devices compile in a second; a slow disk may take longer


@click.command()
@options
def reload(daemon: Daemon, as_json: bool) -> None:
    """Apply changed configuration files.

    What is right is applied; what is wrong goes on as its last good version and is listed with file and line. Exit
    codes: 0 everything was taken; 78 something was refused; 3 fluxedge does not run; 4 not permitted.
    """
    refused = False
    try:
        found = daemon.post("/reload", timeout_s=RELOAD_S)
    except ApiTrouble as trouble:
        if trouble.status != 422:
            raise
        found, refused = trouble.answer, True
    if as_json:
        print_json(found)
    else:
        _tell(found)
    if refused:
        sys.exit(BAD_CONFIG)


def _tell(found: Data) -> None:
    stopped, started = set(found["stopped"]), set(found["started"])
    rows = [
        *(("new", item) for item in sorted(started - stopped)),
        *(("changed", item) for item in sorted(started & stopped)),
        *(("removed", item) for item in sorted(stopped - started)),
    ]
    for what, item in rows:
        click.echo(f"{what:8} {item}")
    if not rows:
        click.echo("Nothing that runs has changed.")
    for table in found["restart_needed"]:
        click.echo(f"[{table}] of fluxedge.toml has changed: it takes effect after a restart.")
    for mistake in found["mistakes"]:
        place = f"{mistake['file']}:{mistake['line']}" if mistake["line"] else mistake["file"]
        parts = [part for part in (place, mistake["path"], mistake["message"]) if part]
        click.echo(show.styled(": ".join(parts), "red"), err=True)
        if mistake["hint"]:
            click.echo(f"    {mistake['hint']}", err=True)
    for item, why in found["kept"].items():
        click.echo(f"{item} goes on as its last good version: {why}", err=True)
    for item, why in found["left_out"].items():
        click.echo(f"{item} does not run: {why}", err=True)
