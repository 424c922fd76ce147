"""`fluxedge backup`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fluxedge.cli import aligned, places, show
from fluxedge.cli.landing import landing
from fluxedge.cli.online import Trouble, print_json
from fluxedge.cli.progress import Progress

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_PATH)
@click.option("--config", "config_dir", type=_PATH, help="Configuration directory [/etc/fluxedge].")
@click.option("--state", "state_dir", type=_PATH, help="State directory of the gateway, whether it runs or not.")
@click.option("--no-log", is_flag=True, help="Leave the log out: records, cursors, events.")
@click.option("--no-history", is_flag=True, help="Leave the history files out.")
@click.option("--with-credentials", is_flag=True, help="Put credentials/ in too: whoever has FILE has them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(
    file: Path, config_dir: Path | None, state_dir: Path | None, no_log: bool, no_history: bool,
    with_credentials: bool, as_json: bool,
) -> None:  # fmt: skip
    """Save configuration, log and history of a gateway into FILE, also while it runs.

    FILE (a tar, mode 0600) appears whole or not at all. What is committed when it begins is in it. `fluxedge restore`
    puts it back, on this machine or on another one. Exit codes: 0 saved; 1 something could not be read or written.
    """
    from fluxedge.log.backup.archive import BackupProblem
    from fluxedge.log.backup.saving import Wanted, save
    from fluxedge.problems import Problem

    wanted = Wanted(
        places.config_dir(config_dir), places.state_dir(state_dir), not no_log, not no_history, with_credentials
    )
    if not wanted.config_dir.is_dir():
        raise Trouble(f"there is no configuration directory {wanted.config_dir}", "Name it with --config DIR.")
    progress = Progress()
    try:
        with landing(file) as target:
            manifest = save(target, wanted, file.absolute().parent, time.time_ns() // 1000, progress.bytes)
            size = target.tell()
    except (Problem, BackupProblem) as problem:
        raise Trouble(problem.message, problem.hint) from problem
    finally:
        progress.end()
    if as_json:
        told = {"file": str(file), "bytes": size, "gateway": manifest.gateway, "epoch": manifest.epoch}
        print_json({**told, "heads": manifest.heads, "parts": len(manifest.parts), "left_out": manifest.left_out})
        return
    log = " and ".join(f"{lane} to {head:,}" for lane, head in manifest.heads.items())
    click.echo(f"{file}: {show.size(size)}, gateway {manifest.gateway or '(without an id yet)'}")
    days = sum(part.name.startswith("history/") and part.name.endswith(".db") for part in manifest.parts)
    click.echo(f"log      {log + f' of epoch {manifest.epoch}' if manifest.log else 'left out'}")
    click.echo(f"history  {aligned.counted(days, 'day') if manifest.history else 'left out'}")
    if not manifest.credentials:
        click.echo("Credentials are not in it: keep them elsewhere, or use --with-credentials.")
    if manifest.left_out:
        click.echo(f"Left out, because they are no files: {', '.join(manifest.left_out)}", err=True)
