"""`fluxedge log query` and `fluxedge log export`."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import json
import sys
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from fluxedge.cli import places, show
from fluxedge.cli.main import USAGE, Words
from fluxedge.cli.online import Daemon, Data, Trouble, quiet_pipe
from fluxedge.problems import Problem

NEWEST = 20  # records that `query` shows when no time is given
Params = dict[str, str]
F = typing.TypeVar("F", bound=Callable[..., typing.Any])


@click.group(cls=Words)
def log() -> None:
    """Query or export what the log holds.

    The running gateway is asked; with --state DIR the files of a gateway are read directly, whether it runs or not.
    """


def _options(verb: F) -> F:
    path = click.Path(path_type=Path)
    for option in (
        click.option("--socket", "socket_path", type=path, help="Unix socket of the running gateway."),
        click.option("--state", type=path, help="Read the log below this directory, without a gateway."),
        click.option("--limit", type=click.IntRange(min=0), help="At most so many records; 0 = all."),
        click.option("--kind", multiple=True, help="Only events of this kind, --lane events; may be repeated."),
        click.option("--point", multiple=True, help="Only this DEVICE.POINT, of rounds; may be repeated."),
        click.option("--device", multiple=True, help="Only this device; may be repeated."),
        click.option("--until", default="", help="Before this instant."),
        click.option("--since", default="", help='From then on: "1h" (ago), "2026-03-01", "2026-03-01T12:00+08:00".'),
        click.option("--lane", type=click.Choice(["rounds", "events"]), help="[rounds; with --kind events]"),
    ):
        verb = option(verb)
    return verb


@log.command()
@_options
@click.option("--format", "form", type=click.Choice(["table", "jsonl", "csv"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
def query(form: str, as_json: bool, since: str, until: str, limit: int | None, **given: typing.Any) -> None:
    """Show records, oldest first; without --since or --until the newest 20."""
    form = "jsonl" if as_json else form
    newest = not since and not until and limit != 0
    count = limit if limit is not None else NEWEST if newest else 0
    params = _params(given) | {"since": since, "until": until, "limit": str(count)}
    if newest:
        params["order"] = "newest"
    params["format"] = "csv" if form == "csv" else "jsonl"
    if form == "table":
        _table(params["lane"], _oldest_first(_text(given, params), params))
    elif newest:
        with quiet_pipe():
            click.echo(_oldest_first(_text(given, params), params), nl=False)
    else:
        _write(given, params, None)


@log.command()
@_options
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def export(
    form: str, as_json: bool, output: Path | None, since: str, until: str, limit: int | None, **given: typing.Any
) -> None:
    """Write records as CSV (a line per value) or as JSON lines (an object per record), oldest first."""
    params = _params(given) | {"since": since, "until": until, "limit": str(limit or 0)}
    _write(given, params | {"format": "jsonl" if as_json else form}, output)


def _params(given: dict[str, typing.Any]) -> Params:
    """Return the parameters that both verbs have, as the API takes them."""
    lane = given["lane"] or ("events" if given["kind"] else "rounds")
    if given["kind"] and lane == "rounds":
        raise click.UsageError("--kind is for events: leave --lane rounds out")
    if given["point"] and lane == "events":
        raise click.UsageError("--point is for rounds: events have no points; --device chooses events of a device")
    lists = {name: ",".join(given[name]) for name in ("device", "point", "kind")}
    return {"lane": lane, **lists}


@contextlib.contextmanager
def _chunks(given: dict[str, typing.Any], params: Params) -> Iterator[Iterator[str]]:
    """Give the answer in pieces of text, from the running gateway."""
    daemon = Daemon(places.socket_path(given["socket_path"], None))
    with daemon.text("/log", **params) as pieces:
        yield pieces


def _write(given: dict[str, typing.Any], params: Params, output: Path | None) -> None:
    """Write what the API or the file gives, as it is."""
    with quiet_pipe(), contextlib.ExitStack() as stack:
        file: typing.TextIO = sys.stdout
        if output is not None:
            try:
                file = stack.enter_context(output.open("w", encoding="utf-8", newline=""))
            except OSError as exc:
                raise Trouble(f"{output}: {exc.strerror}") from exc
        if given["state"] is not None:
            _offline(given["state"], params, file.write)
        else:
            with _chunks(given, params) as pieces:
                for piece in pieces:
                    file.write(piece)
        file.flush()


def _offline(state: Path, params: Params, write: Callable[[str], object]) -> None:
    """Read the log's file.

    Raises:
        Trouble: there is none, or a parameter means nothing.
    """
    from fluxedge.api.logs import wanted
    from fluxedge.log import export as exports
    from fluxedge.log import placing
    from fluxedge.log import query as queries

    damaged = 0

    def count(*_: object) -> None:
        nonlocal damaged
        damaged += 1

    async def read() -> None:
        asked = wanted(lambda name: params.get(name, ""), time.time_ns())
        places = await placing.load_file(state / "log.db")
        async with contextlib.aclosing(queries.query(state / "log.db", asked, count)) as found:
            if params.get("format") == "csv":
                await exports.export_csv(found, write, asked.lane, places)
            else:
                await exports.export_jsonl(found, write, places)

    try:
        asyncio.run(read())
    except ValueError as exc:
        raise Trouble(str(exc), exit_code=USAGE) from exc
    except Problem as problem:
        raise Trouble(problem.message, problem.hint) from problem
    if damaged:
        click.echo(f"{damaged} rows of the log are damaged; their records are missing here.", err=True)


def _text(given: dict[str, typing.Any], params: Params) -> str:
    """Return the answer as a whole."""
    if given["state"] is not None:
        pieces: list[str] = []
        _offline(given["state"], params, pieces.append)
    else:
        with _chunks(given, params) as found:
            pieces = list(found)
    return "".join(pieces)


def _oldest_first(text: str, params: Params) -> str:
    """Return an answer in the order of the log; the newest records are asked for newest first."""
    if params.get("order") != "newest":
        return text
    if params["format"] == "jsonl":
        return "".join(f"{line}\n" for line in reversed(text.split("\n")) if line)
    csv.field_size_limit(sys.maxsize)  # the data of an event may be long
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    buffer = io.StringIO(newline="")
    lines = csv.writer(buffer)  # as log/export.py
    lines.writerow(head)
    records = [list(record) for _, record in itertools.groupby(rows, key=lambda row: row[-2:])]  # seq, epoch
    lines.writerows(itertools.chain.from_iterable(reversed(records)))
    return buffer.getvalue()


def _table(lane: str, text: str) -> None:
    """Print records as a table."""
    records = [json.loads(line) for line in text.split("\n") if line]  # texts may have lines of Unicode's kinds
    with quiet_pipe():
        if lane == "events":
            show.table(("seq", "at", "item", "event", "data"), map(_event, records), right=(0,), fold=("data",))
        else:
            show.table(("seq", "at", "device", "values"), map(_round, records), right=(0,), fold=("values",))


def _event(record: Data) -> list[show.Cell]:
    data = "  ".join(f"{key}={_shown(value)}" for key, value in record["data"].items())
    return [str(record["seq"]), _at(record), record["item"], record["kind"], data]


def _round(record: Data) -> list[show.Cell]:
    quality = record.get("quality", {})
    words = [
        f"{name}={_shown(value)}" + (f" ({quality[name]})" if name in quality else "")
        for name, value in record["values"].items()
    ]
    return [str(record["seq"]), _at(record), record["device"], "  ".join(words)]


def _shown(value: Data) -> str:
    """Return a value as the table shows it: a list of plain ones with commas, deeper ones as JSON."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(_shown, value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return show.number(value)


def _at(record: Data) -> str:
    mark = "" if "unsynced" not in record else " placed" if "stamped_ns" in record["unsynced"] else " unsynced"
    return show.moment(int(record["at_ns"]) // 1000) + mark
