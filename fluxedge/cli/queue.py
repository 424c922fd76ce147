"""`fluxedge queue`."""

from __future__ import annotations

import click

from fluxedge.cli import queue_table
from fluxedge.cli.online import Daemon, options, print_json


@click.command()
@options
def queue(daemon: Daemon, as_json: bool) -> None:
    """Show how far each uplink is behind.

    sent: records acknowledged since the start. refused: records in quarantine. lost: records given up and announced as
    gaps. autonomy: how long the log, growing as now, can wait for this uplink before it has to give something up.
    """
    found = daemon.get("/uplinks")
    if as_json:
        print_json(found)
    else:
        queue_table.show_queue(found)
