"""`fluxedge restore`."""

from __future__ import annotations

import contextlib
import typing
from pathlib import Path

import click

from fluxedge.cli import places, show
from fluxedge.cli.main import FAILED
from fluxedge.cli.online import Trouble, print_json
from fluxedge.cli.progress import Progress

if typing.TYPE_CHECKING:
    from fluxedge.log.backup.archive import Manifest
    from fluxedge.log.backup.restoring import Plan

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_PATH)
@click.option("--config", "config_dir", type=_PATH, help="Configuration directory [/etc/fluxedge].")
@click.option("--state", "state_dir", type=_PATH, help="State directory; no gateway may use it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(file: Path, config_dir: Path | None, state_dir: Path | None, yes: bool, as_json: bool) -> None:
    """Put back what `fluxedge backup` has saved, on this machine or on another one.

    FILE is checked as a whole first. What is there now is kept in folders before-restore-TIME of the two directories.
    Stop the gateway before. Exit codes: 0 restored; 1 FILE or the directories cannot be used, nothing was changed.
    """
    from fluxedge.log.backup import restoring
    from fluxedge.log.backup.archive import BackupProblem, check
    from fluxedge.problems import Problem

    config, state = places.config_dir(config_dir).absolute(), places.state_dir(state_dir).absolute()
    if config.resolve() == state.resolve():
        raise Trouble(f"{config} cannot be both: configuration and state", "Name two directories.")
    progress = Progress()
    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(file.open("rb"))
            size = file.stat().st_size
            checked = check(opened, lambda done: progress.bytes("checking", done, size))
            restoring.judge(checked.manifest)
            progress.end()
            stack.enter_context(restoring.lock(state))
            plan = restoring.plan(checked, config, state)
            if not yes:
                _ask(checked.manifest, plan, config)
            restoring.room_for(checked, state)
            kept = restoring.restore(checked, plan, progress.parts)
    except BackupProblem as problem:
        raise Trouble(f"{file}: {problem.message}", f"{problem.hint} Nothing was changed.".strip()) from problem
    except Problem as problem:
        raise Trouble(problem.message, problem.hint) from problem
    except OSError as exc:
        raise Trouble(f"{exc.filename or file}: {exc.strerror or exc}", "Nothing was changed.") from exc
    finally:
        progress.end()
    if as_json:
        print_json({"gateway": checked.manifest.gateway, "kept": [str(folder) for folder in kept]})
        return
    _tell(checked.manifest, kept)


def _ask(manifest: Manifest, plan: Plan, config: Path) -> None:
    """Show what a restore does, and go on only when somebody wants it."""
    heads = " and ".join(f"{lane} to {head:,}" for lane, head in manifest.heads.items())
    made = f"saved {show.moment(manifest.made_us)}, {show.age(manifest.made_us)} ago, by fluxedge {manifest.fluxedge}"
    click.echo(f"gateway {manifest.gateway or '(without an id)'}, {made}", err=True)
    if manifest.log:
        click.echo(f"log: {heads} of epoch {manifest.epoch}", err=True)
    for place in plan.replaced:
        click.echo(f"steps aside  {place}", err=True)
    for place in plan.new:
        click.echo(f"new          {place}", err=True)
    if not manifest.credentials:
        click.echo(f"Credentials are not in it: those in {config} stay as they are.", err=True)
    if not click.confirm("Restore?", err=True):
        click.echo("Nothing was changed.", err=True)
        raise SystemExit(FAILED)


def _tell(manifest: Manifest, kept: list[Path]) -> None:
    click.echo(f"Restored gateway {manifest.gateway}." if manifest.gateway else "Restored.")
    for folder in kept:
        click.echo(f"What was there is in {folder}")
    if manifest.log:
        click.echo(
            "The gateway begins a new epoch when it starts; what was not delivered yet is sent with its old one."
        )
    click.echo("Start it: systemctl start fluxedge. The machine that was saved must not run any more.")
