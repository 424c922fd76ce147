"""`fluxedge drivers ls | show`: which products are known, and what a driver file says."""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.main import FAILED, Words

if typing.TYPE_CHECKING:
    from fluxedge.cli.driver_files import DriverFile
    from fluxedge.config.load import Layout
    from fluxedge.config.structs import DriverCfg

_config = click.option("--config", "config_dir", type=click.Path(path_type=Path), help="Configuration directory.")
_state = click.option("--state", "state_dir", type=click.Path(path_type=Path), help="State directory (layer `site`).")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Words)
def drivers() -> None:
    """List or show driver files: one file describes one product.

    Layers: config (drivers/ of the configuration directory) before site (created by the API) before shipped.
    """


@drivers.command()
@_config
@_state
@_json
def ls(config_dir: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """List all drivers."""
    from fluxedge.cli import aligned, driver_files
    from fluxedge.cli.show import table

    layout = _layout(config_dir, state_dir)
    files = [driver_files.find(layout, name) for name in driver_files.names(layout)]
    found = [file for file in files if file is not None]
    if as_json:
        click.echo(json.dumps([_facts(file) for file in found], ensure_ascii=False, indent=2))
        return
    rows = []
    for file in found:
        driver = file.driver
        if driver is None:
            rows.append(
                (
                    file.id,
                    f"{aligned.counted(len(file.mistakes), 'mistake')}: fluxedge drivers show {file.id}",
                    "",
                    "",
                    "",
                    file.layer,
                )
            )
        else:
            rows.append((file.id, driver.name, driver.protocol, str(len(driver.points)), driver.verified, file.layer))
    heads = ("Driver", "Product", "Protocol", "Points", "Verified", "Layer")
    table(heads, rows, right=(3,), drop=("Protocol", "Points", "Layer"), fold=("Product",))


@drivers.command()
@click.argument("name")
@_config
@_state
@_json
def show(name: str, config_dir: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show one driver: its source, its points, what goes on the wire. NAME may also be the path of a file."""
    from fluxedge.cli import driver_files
    from fluxedge.config.mistakes import unknown

    layout = _layout(config_dir, state_dir)
    file = driver_files.find(layout, name)
    if file is None:
        raise click.UsageError(unknown("driver", name, driver_files.names(layout)))
    if file.driver is None:
        click.echo("\n".join(mistake.text() for mistake in file.mistakes), err=True)
        sys.exit(FAILED)
    if as_json:
        click.echo(json.dumps(_facts(file) | {"table": _table(file.driver)}, ensure_ascii=False, indent=2))
    else:
        _print(file, file.driver)


def _layout(config_dir: Path | None, state_dir: Path | None) -> Layout:
    from fluxedge.config.load import Layout

    return Layout.standard(places.config_dir(config_dir), places.state_dir(state_dir))


def _facts(file: DriverFile) -> dict[str, typing.Any]:
    facts: dict[str, typing.Any] = {"id": file.id, "layer": file.layer, "path": str(file.path)}
    driver = file.driver
    if driver is None:
        return facts | {"mistakes": [mistake.to_json() for mistake in file.mistakes]}
    return facts | {
        "name": driver.name,
        "vendor": driver.vendor,
        "protocol": driver.protocol,
        "source": driver.source,
        "verified": driver.verified,
        "points": len(driver.points),
    }


def _table(driver: DriverCfg) -> list[dict[str, typing.Any]]:
    import msgspec

    return [
        {"name": name, "wire": wire} | msgspec.to_builtins(driver.points[name], enc_hook=str)
        for name, wire in _wires(driver).items()
    ]


def _wires(driver: DriverCfg) -> dict[str, str]:
    """Return point -> what goes on the wire; empty words where there is no wire."""
    from fluxedge.apply import build, made_of
    from fluxedge.cli.driver_files import alone

    protocol = build(driver.id, made_of(alone(driver))[driver.id])
    words = getattr(protocol, "describe_points", None)
    if words is None:
        return dict.fromkeys(driver.points, "")
    lines: list[str] = words()
    return {name: text for name, _, text in (line.partition(": ") for line in lines)}


def _print(file: DriverFile, driver: DriverCfg) -> None:
    from fluxedge.cli import aligned
    from fluxedge.cli.show import table
    from fluxedge.config.quantities import Seconds

    verified = {"document": "against documents", "device": "on a device", "none": "not yet"}[driver.verified]
    groups = "".join(f"; {name} every {Seconds(group.every_s)}" for name, group in driver.groups.items())
    facts = [("file", f"{file.path} ({file.layer})"), ("protocol", driver.protocol), ("source", driver.source)]
    facts += [("verified", verified), ("read", f"every {Seconds(driver.every_s)}{groups}")]
    click.echo(click.style(driver.name, bold=True))
    for line in aligned.lines(facts):
        click.echo(f"  {line}")
    click.echo()
    rows = []
    for name, wire in _wires(driver).items():
        point = driver.points[name]
        kind = getattr(point, "type", "")
        kind = kind if isinstance(kind, str) else ""
        kind += f" × {point.scale:g}" * (point.scale != 1.0) + f" {point.offset:+g}" * (point.offset != 0.0)
        notes = [word for word in ("writable" if getattr(point, "write", False) else "", point.note) if word]
        rows.append((name, wire, kind.strip(), point.unit, point.group, point.label, "; ".join(notes)))
    heads = ("Point", "On the wire", "Type", "Unit", "Group", "Label", "")
    columns = [i for i, head in enumerate(heads) if any(row[i] for row in rows)]
    table(
        [heads[i] for i in columns], [[row[i] for i in columns] for row in rows],
        drop=("Group", "Label"), fold=("Label", ""),
    )  # fmt: skip
