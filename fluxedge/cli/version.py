"""`fluxedge version`."""

from __future__ import annotations

import json
import platform
import sqlite3

import click

from fluxedge import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the version of fluxedge and of what it stands on."""
    facts = {"fluxedge": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"fluxedge {facts['fluxedge']} (Python {facts['python']}, SQLite {facts['sqlite']})")
