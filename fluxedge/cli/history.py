"""`fluxedge history`: what points were, out of the log and the history."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
import sys
import time
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from fluxedge.cli import places, show
from fluxedge.cli.main import USAGE
from fluxedge.cli.online import Daemon, Data, Trouble, quiet_pipe

BUCKETS = 20  # when nothing else is asked for
BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
BAR_MOST = 100  # buckets that the line of bars has room for
RAW_COLUMNS = ("at", "point", "value", "quality", "unit", "seq", "epoch")
BUCKET_COLUMNS = ("from", "to", "point", "count", "last", "min", "max", "mean", "unit")


@click.command()
@click.argument("points", nargs=-1, required=True, metavar="POINT...")
@click.option("--last", default="", metavar="DURATION", help="The last 24h, 7d, ...; the default is 24h.")
@click.option("--from", "from_", default="", metavar="TIME", help='From then on: "2d" (ago), "2026-03-01T12:00+08:00".')
@click.option("--to", default="", metavar="TIME", help="Before this instant; now unless given.")
@click.option("--at", default="", metavar="TIME", help="The value at one instant.")
@click.option("--buckets", type=click.IntRange(min=1), help=f"So many stretches of time.  [{BUCKETS}]")
@click.option("--raw", is_flag=True, help="The samples themselves.")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many samples of each point; 0 = all.  [10000]")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON lines.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the answer as CSV.")
@click.option("--state", type=click.Path(path_type=Path), help="Read below this directory, without a gateway.")
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), help="Unix socket of the running gateway.")
def history(points: tuple[str, ...], as_json: bool, as_csv: bool, **given: typing.Any) -> None:
    """Show what POINTs were: samples, or count, last, min, max and mean of stretches of time.

    The running gateway is asked; with --state DIR the files of a gateway are read directly, whether it runs or not.
    """
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    lines = _answer(points, given)
    with quiet_pipe(), contextlib.closing(lines):
        if as_json:
            for line in lines:
                _write(line + "\n")
            return
        head = json.loads(next(lines))["head"]
        if as_csv:
            _csv(head, lines)
        else:
            _show(head, lines)


def _params(points: tuple[str, ...], given: dict[str, typing.Any]) -> dict[str, str]:
    """Return the parameters as the API takes them."""
    if given["last"] and (given["from_"] or given["to"]):
        raise click.UsageError("--last ends now: leave --from and --to out, or --last")
    if given["at"] and any(given[name] for name in ("last", "from_", "to", "buckets", "raw", "limit")):
        raise click.UsageError("--at is one instant: leave --last, --from, --to, --buckets, --raw and --limit out")
    if given["raw"] and given["buckets"]:
        raise click.UsageError("--raw are samples: leave --buckets out")
    if given["limit"] is not None and not given["raw"]:
        raise click.UsageError("--limit is for samples: say --raw too")
    params = {"points": ",".join(points), "from": given["from_"] or given["last"] or "24h", "to": given["to"]}
    if given["raw"]:
        return params | ({} if given["limit"] is None else {"limit": str(given["limit"])})
    return params | {"buckets": str(given["buckets"] or BUCKETS)}


def _answer(points: tuple[str, ...], given: dict[str, typing.Any]) -> typing.Generator[str, None, None]:
    """Yield the lines of the answer.

    Raises:
        Trouble: there is none; says why.
    """
    params = _params(points, given)
    if given["state"] is not None:
        yield from _offline(given["state"], params, points, given["at"])
        return
    daemon = Daemon(places.socket_path(given["socket_path"], None))
    if given["at"]:
        yield from _at(daemon, points, given["at"])
        return
    with daemon.lines("/history", **params) as lines:
        ended = False
        for line in lines:
            ended = line.startswith('{"end"')
            yield line
        if not ended:
            raise Trouble("the gateway stopped in the middle of its answer")


def _at(daemon: Daemon, points: tuple[str, ...], at: str) -> Iterator[str]:
    """Yield the lines of an answer about one instant."""
    found = [daemon.get(f"/points/{name}/at", t=at) for name in points]
    named = [{"id": answer["id"], "unit": answer["unit"]} for answer in found]
    yield json.dumps({"head": {"kind": "at", "at_us": found[0]["t_us"], "points": named}}, ensure_ascii=False)
    rows = [
        {"point": answer["id"]} | {key: answer[key] for key in ("at_us", "value", "quality", "epoch", "seq")}
        for answer in found
        if answer["quality"]
    ]
    for row in rows:
        yield json.dumps(row, ensure_ascii=False)
    damaged = sorted({text for answer in found for text in answer["damaged"]})
    yield json.dumps({"end": {"rows": len(rows), "damaged": damaged}}, ensure_ascii=False)


def _offline(state: Path, params: dict[str, str], points: tuple[str, ...], at: str) -> Iterator[str]:
    from fluxedge.api.history import instant, question
    from fluxedge.log.history.query import Question, Reading, Refused

    now_ns = time.time_ns()
    try:
        if at:
            at_ns = instant("at", at, now_ns)
            asked = Question("at", points, at_ns, at_ns, now_ns)
        else:
            asked = question(lambda name: params.get(name, ""), now_ns)
    except ValueError as exc:
        raise Trouble(str(exc), exit_code=USAGE) from exc
    try:
        with contextlib.closing(Reading(state)) as reading:
            for piece in reading.answer(asked):
                yield from piece.decode().rstrip("\n").split("\n")  # texts may have lines of Unicode's kinds
    except Refused as refused:
        hint = "Name the state folder with --state." if "there is no log" in str(refused) else ""
        raise Trouble(str(refused), hint) from refused


def _csv(head: Data, lines: Iterable[str]) -> None:
    units = {point["id"]: point["unit"] for point in head["points"]}
    columns = BUCKET_COLUMNS if head["kind"] == "buckets" else RAW_COLUMNS
    out = csv.writer(sys.stdout)
    out.writerow(columns)
    for row in _rows(lines):
        named = row | {"unit": units[row["point"]]}
        named |= {name: _iso(row[f"{name}_us"]) for name in ("at", "from", "to") if f"{name}_us" in row}
        out.writerow([_plain(named[column]) for column in columns])


def _show(head: Data, lines: Iterable[str]) -> None:
    units = {point["id"]: show.shown_unit(point["unit"]) for point in head["points"]}
    rows = list(_rows(lines))
    if head["kind"] == "buckets":
        for name in units:
            _show_buckets(name, units[name], [row for row in rows if row["point"] == name])
        return
    cells = [
        (_moment(row["at_us"]), row["point"], f"{_cell(row['value'])} {units[row['point']]}".rstrip(), row["quality"])
        for row in rows
    ]
    show.table(("at", "point", "value", "quality"), cells, right=(2,))
    without = [name for name in units if all(row["point"] != name for row in rows)]
    if without:
        when = "until then" if head["kind"] == "at" else "in this time"
        click.echo(f"no sample {when}: {', '.join(without)}", err=True)


def _show_buckets(name: str, unit: str, rows: list[Data]) -> None:
    """Print one point: its name with a line of bars, and a table."""
    means = [row["mean"] for row in rows]
    bars = sparkline(means) if len(means) <= BAR_MOST else ""
    click.echo(f"{name}{f' [{unit}]' if unit else ''}  {bars}".rstrip())
    number = any(mean is not None for mean in means)
    heads = ("from", "count", "last", *(("min", "mean", "max") if number else ()))
    cells = [[_moment(row["from_us"]), *(_cell(row[key]) for key in heads[1:])] for row in rows]
    show.table(heads, cells, right=range(1, len(heads)))


def sparkline(values: Iterable[float | None]) -> str:
    """Return a line of bars, from the lowest to the highest value; a dot where there is none."""
    found = list(values)
    numbers = [value for value in found if value is not None]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    span = high - low

    def bar(value: float) -> str:
        share = (value - low) / span if 0 < span < float("inf") else 0.0
        return BARS[min(len(BARS) - 1, int(share * len(BARS)))]

    return "".join(GAP if value is None else bar(value) for value in found)


def _rows(lines: Iterable[str]) -> Iterator[Data]:
    """Yield the rows between head and end; what could not be read is said on standard error."""
    for line in lines:
        row = json.loads(line)
        if "end" in row:
            for text in row["end"]["damaged"]:
                click.echo(f"damaged, and missing here: {text}", err=True)
        else:
            yield row


def _cell(value: Data) -> str:
    return "-" if value is None else show.number(value)


def _plain(value: Data) -> Data:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _moment(at_us: int) -> str:
    """Return an instant in local time; 0 is one too. A device's own time may lie in no calendar."""
    try:
        return datetime.datetime.fromtimestamp(at_us / 1e6).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{at_us} us"


def _iso(at_us: int) -> str:
    from fluxedge.log.export import iso

    return iso(at_us * 1000)


def _write(text: str) -> None:
    sys.stdout.write(text)
