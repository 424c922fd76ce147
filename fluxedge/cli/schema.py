"""`fluxedge schema`: the JSON Schemas of configuration files and of what is published."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import click


@click.command()
@click.argument("kind", required=False)
@click.option("--dir", "out", type=click.Path(path_type=Path, file_okay=False), help="Write all of them there.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON; a schema is JSON anyway.")
def schema(kind: str | None, out: Path | None, as_json: bool) -> None:
    """Print one JSON Schema, list them, or write all with --dir.

    \b
    Editors use them: Even Better TOML (VS Code), taplo and others take a first line such as
      #:schema ./fluxedge.schema.json
    """
    from fluxedge.config.mistakes import unknown

    known = schemas()
    if kind is not None and kind not in known:
        raise click.UsageError(unknown("schema", kind, known))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in [kind] if kind else known:
            path = out / f"{name}.schema.json"
            path.write_text(json.dumps(known[name], ensure_ascii=False, indent=2) + "\n")
            click.echo(str(path))
    elif kind is None:
        _list(known, as_json)
    else:
        click.echo(json.dumps(known[kind], ensure_ascii=False, indent=2))


def schemas() -> dict[str, dict[str, typing.Any]]:
    """Return name -> schema: configuration files first, then payloads."""
    from importlib import resources

    from fluxedge.config.schema import all_schemas

    found = dict(all_schemas())
    payloads = resources.files("fluxedge.uplinks") / "schemas"
    if payloads.is_dir():
        for entry in sorted(payloads.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".json"):
                name = entry.name.removesuffix(".json").removesuffix(".schema")
                found[f"payload-{name}"] = json.loads(entry.read_text())
    return found


def _list(known: dict[str, dict[str, typing.Any]], as_json: bool) -> None:
    from fluxedge.cli import aligned

    if as_json:
        click.echo(json.dumps({name: body.get("title", "") for name, body in known.items()}, indent=2))
        return
    for line in aligned.lines([(name, body.get("title", "")) for name, body in known.items()], ("Schema", "Of")):
        click.echo(line)
