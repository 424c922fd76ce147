"""`fluxedge check`: the daemon's own loader, every mistake at once, the read plan, and whether the wires answer."""

from __future__ import annotations

import sys
import typing
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.main import BAD_CONFIG, FAILED, OK

if typing.TYPE_CHECKING:
    from fluxedge.cli.connect import Trial
    from fluxedge.cli.plan import Plan
    from fluxedge.config.load import Loaded

_FIRST_DEVICE = """\
There are no devices yet. A first one, in {path}:

    [devices.meter-1]
    driver  = "eastron-sdm630"             # `fluxedge drivers ls` lists what there is
    channel = "tcp://192.168.1.10:502"     # or "serial:///dev/serial/by-id/…?baud=9600"
    unit    = 1"""


@click.command()
@click.option(
    "--config", "config_dir", type=click.Path(path_type=Path), help="Configuration directory [/etc/fluxedge]."
)
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="Where the last good version is kept.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--connect", is_flag=True, help="Open every channel, ask every device, connect every uplink.")
@click.option("-v", "--plan", "points", is_flag=True, help="Say for every point what goes on the wire.")
def check(
    config_dir: Path | None, state_dir: Path | None, form: str, as_json: bool, connect: bool, points: bool
) -> None:
    """Check the configuration and say what it would do.

    Exit codes: 0 no mistakes, 78 mistakes, 1 something is in the way of --connect.
    """
    from fluxedge.cli.plan import gateway_name, plan_of
    from fluxedge.config.load import Layout
    from fluxedge.service import load_all

    directory, state = places.config_dir(config_dir), places.state_dir(state_dir)
    loaded = load_all(Layout.standard(directory, state))
    plan = plan_of(loaded.config, gateway_name(loaded.config, state))
    text = form == "text" and not as_json
    if text:
        _print_findings(loaded, directory)
        if not loaded.mistakes or points:
            _print_plan(plan, points, directory)
    trials = _try_all(loaded, state, text) if connect else []
    if text:
        _print_summary(loaded, plan, directory)
    else:
        _print_json(loaded, plan, directory, trials if connect else None)
    blocked = any(trial.problem for trial in trials)
    sys.exit(BAD_CONFIG if loaded.mistakes else FAILED if blocked else OK)


def _print_findings(loaded: Loaded, directory: Path) -> None:
    for mistake in loaded.mistakes:
        click.echo(click.style(mistake.text(), fg="red"))
    for warning in loaded.warnings:
        click.echo(click.style(f"warning: {warning.text()}", fg="yellow"))
    if not directory.is_dir() and Path("fluxedge.toml").is_file():
        click.echo("There is a fluxedge.toml here: fluxedge check --config .")
    if loaded.mistakes or loaded.warnings:
        click.echo()


def _print_plan(plan: Plan, points: bool, directory: Path) -> None:
    from fluxedge.cli.plan import lines

    for line in lines(plan, points=points):
        click.echo(line)
    if not plan.devices and directory.is_dir():
        click.echo(_FIRST_DEVICE.format(path=directory / "devices" / "first.toml"))
    click.echo()


def _print_summary(loaded: Loaded, plan: Plan, directory: Path) -> None:
    from fluxedge.cli.aligned import counted

    for item in sorted(loaded.kept):
        click.echo(f"{item.replace(':', ' ')} would go on as its last good version.")
    for item in sorted(loaded.left_out):
        click.echo(f"{item.replace(':', ' ')} would be left out.")
    if loaded.fatal:
        click.echo("The gateway would not start.")
    elif loaded.mistakes:
        click.echo(f"What would run: {plan.counts()}.")
    verdict = counted(len(loaded.mistakes), "mistake") if loaded.mistakes else "no mistakes"
    if loaded.warnings:
        verdict += f", {counted(len(loaded.warnings), 'warning')}"
    what = "" if loaded.mistakes else f" {plan.counts()};"
    click.echo(click.style(f"{directory}:{what} {verdict}", fg="red" if loaded.mistakes else "green", bold=True))


def _try_all(loaded: Loaded, state: Path, text: bool) -> list[Trial]:
    import asyncio

    from fluxedge.cli import connect

    tell: typing.Callable[[Trial], None] = _print_trial if text else lambda trial: None
    trials = asyncio.run(connect.try_all(loaded.config, tell))
    if text:
        if any(trial.problem for trial in trials) and (state / "api.sock").exists():
            click.echo("A gateway seems to run with this state; it holds its serial ports. Ask it: fluxedge status")
        click.echo()
    return trials


def _print_trial(trial: Trial) -> None:
    if trial.problem is None:
        click.echo(click.style("ok          ", fg="green") + f"{trial.item}: {trial.words}")
        return
    hint = f": {trial.problem.hint}" if trial.problem.hint else ""
    click.echo(click.style("in the way  ", fg="red") + f"{trial.item}: {trial.problem.message}{hint}")


def _print_json(loaded: Loaded, plan: Plan, directory: Path, trials: list[Trial] | None) -> None:
    import msgspec

    body: dict[str, typing.Any] = {
        "config": str(directory),
        "ok": not loaded.mistakes,
        "fatal": loaded.fatal,
        "mistakes": [mistake.to_json() for mistake in loaded.mistakes],
        "warnings": [warning.to_json() for warning in loaded.warnings],
        "kept": loaded.kept,
        "left_out": loaded.left_out,
        "channels": plan.channels,
        "uplinks": plan.uplinks,
        "disabled": plan.disabled,
    }
    if trials is not None:
        body["connect"] = [trial.to_json() for trial in trials]
    click.echo(msgspec.json.format(msgspec.json.encode(body), indent=2))
