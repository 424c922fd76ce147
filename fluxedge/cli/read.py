"""`fluxedge read`: read a device now, by its URL without a daemon, or by its name through the running gateway."""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.durations import duration
from fluxedge.cli.main import FAILED

if typing.TYPE_CHECKING:
    from fluxedge.cli.direct import Outcome, Seen
    from fluxedge.config.structs import DriverCfg
    from fluxedge.problems import Problem

_MOST_WORDS = 19  # four registers; --trace and --json show all


@click.command()
@click.argument("target")
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("--driver", "driver_name", help="Driver file: its name, or a path that ends in .toml.")
@click.option("--at", help="An address instead of a driver file: 30001, 400001, hr:0x10, hr:10.3, co:0 …")
@click.option("--type", "type_", default="", help="Type of the value at --at: uint16, int32, float32, string …")
@click.option("--order", default="", help="Its byte order as letters: ABCD, CDAB …")
@click.option("--count", type=click.IntRange(1, 2000), default=1, help="How many such values, one behind the other.")
@click.option("--length", type=click.IntRange(1, 250), help="Bytes of a string or of bytes.")
@click.option("--unit", type=click.IntRange(0, 247), help="Modbus unit id [the driver's, else 1].")
@click.option("--timeout", type=duration, help="How long to wait for each answer: 500ms, 2s, 2 [1s].")
@click.option("--trace", is_flag=True, help="Show every byte, its direction and its time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--config", "config_dir", type=click.Path(path_type=Path), help="Configuration directory, for drivers.")
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="State directory.")
@click.option("--socket", "socket", type=click.Path(path_type=Path), help="Socket of the running gateway.")
def read(target: str, points: tuple[str, ...], driver_name: str | None, at: str | None, **options: typing.Any) -> None:
    """Read a device now.

    \b
    Without a daemon:
      fluxedge read tcp://192.168.1.10 --driver eastron-sdm630
      fluxedge read "serial:///dev/ttyUSB0?baud=9600" --driver xy-md02 temperature humidity --trace
      fluxedge read rtu+tcp://192.168.1.7:4001 --unit 3 --at 30001 --type float32 --order CDAB --count 4
    Through the running gateway:
      fluxedge read meter-1
      fluxedge read meter-1.u_l1

    TARGET is a URL (tcp://HOST[:502], rtu+tcp://HOST:PORT, serial:///dev/…?baud=9600&parity=N), DEVICE or DEVICE.POINT.

    Exit codes: 0 everything was read, 1 not, 2 no such driver, point, address or type, 3 the gateway does not run.
    """
    if "://" not in target:
        if driver_name or at:
            raise click.UsageError(f"{target!r} is not a URL; write for example tcp://192.168.1.10")
        _through_gateway(target, points, options)
        return
    if (driver_name is None) == (at is None):
        raise click.UsageError("give --driver NAME, or --at ADDRESS; `fluxedge drivers ls` lists the drivers")
    from fluxedge.cli.driver_files import BrokenDriver
    from fluxedge.problems import ConfigProblem, LinkProblem, Problem

    try:
        _direct(target, points, driver_name, at, options)
    except BrokenDriver as problem:
        _complain(problem)
        sys.exit(FAILED)
    except ConfigProblem as problem:
        raise click.UsageError(f"{problem.message}\n{problem.hint}".rstrip()) from problem
    except Problem as problem:
        _complain(problem)
        socket = places.socket_path(options["socket"], options["state_dir"])
        if isinstance(problem, LinkProblem) and socket.exists():
            click.echo("A gateway runs here and may own that wire; read through it: fluxedge read DEVICE", err=True)
        sys.exit(FAILED)


def _through_gateway(target: str, points: tuple[str, ...], options: dict[str, typing.Any]) -> None:
    from fluxedge.cli.online import Daemon
    from fluxedge.cli.points import now

    if points and "." in target:
        raise click.UsageError("write DEVICE POINT…, or DEVICE.POINT")
    daemon = Daemon(places.socket_path(options["socket"], options["state_dir"]))
    now(daemon, target, points, options["as_json"])


def _direct(
    url: str, points: tuple[str, ...], driver_name: str | None, at: str | None, options: dict[str, typing.Any]
) -> None:
    import asyncio

    from fluxedge.cli import direct

    if at is not None and points:
        raise click.UsageError("names of points belong to --driver; use --count to read more than one value")
    traced: list[tuple[float, str, bytes]] = []

    def trace(at_s: float, direction: str, data: bytes) -> None:
        traced.append((at_s, direction, data))
        if not options["as_json"]:
            click.echo(f"{at_s * 1000:9.1f} ms  {'→' if direction == '>' else '←'} {data.hex(' ').upper()}")

    driver = _driver(driver_name, at, options)
    device = direct.device_of(driver, options["unit"], points)
    tracer = trace if options["trace"] else None
    outcome = asyncio.run(direct.read_once(url, driver, device, options["timeout"], tracer))
    if options["as_json"]:
        _print_json(outcome, traced if options["trace"] else None)
    else:
        _print(outcome, options["trace"])
    sys.exit(FAILED if any(seen.value is None for seen in outcome.seen) else 0)


def _driver(name: str | None, at: str | None, options: dict[str, typing.Any]) -> DriverCfg:
    from fluxedge.cli import direct, driver_files
    from fluxedge.config.load import Layout

    if at is not None:
        return direct.points_at(
            at, options["type_"], order=options["order"], count=options["count"], length=options["length"]
        )
    layout = Layout.standard(places.config_dir(options["config_dir"]), places.state_dir(options["state_dir"]))
    return driver_files.need(layout, name or "")


def _complain(problem: Problem) -> None:
    click.echo(click.style(problem.message, fg="red"), err=True)
    if problem.hint:
        click.echo(problem.hint, err=True)


def _print(outcome: Outcome, after_trace: bool) -> None:
    from fluxedge.cli import aligned, show
    from fluxedge.cli.shown import shown

    def row(seen: Seen) -> tuple[str, ...]:
        point = seen.point
        scaled = point.scale != 1.0 or point.offset != 0.0
        raw = "" if not scaled or seen.raw is None else str(seen.raw)
        words = seen.words if len(seen.words) <= _MOST_WORDS else f"{seen.words[:_MOST_WORDS]}…"
        return point.name, shown(point, seen.value), point.unit, seen.quality.name, raw, words, point.label

    if after_trace:
        click.echo()
    rows = [row(seen) for seen in outcome.seen]
    heads = ("Point", "Value", "Unit", "Quality", "Raw", "Words", "Label")
    columns = [i for i in range(len(heads)) if any(cells[i] for cells in rows)]
    right = [columns.index(i) for i in (1, 4) if i in columns]
    show.table(
        [heads[i] for i in columns], [[cells[i] for i in columns] for cells in rows], right,
        drop=("Words", "Raw", "Label"), fold=("Value", "Label"),
    )  # fmt: skip
    spent = f"{(outcome.elapsed_s - outcome.opened_s) * 1000:.0f} ms, and {outcome.opened_s * 1000:.0f} ms to open"
    click.echo(f"\n{aligned.counted(len(rows), 'point')} in {spent}")
    for problem in outcome.problems:
        _complain(problem)


def _print_json(outcome: Outcome, traced: list[tuple[float, str, bytes]] | None) -> None:
    import base64

    def plain(value: object) -> object:
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    body: dict[str, typing.Any] = {
        "points": [
            {
                "name": seen.point.name,
                "value": plain(seen.value),
                "unit": seen.point.unit,
                "quality": seen.quality.name,
                "raw": plain(seen.raw),
                "words": seen.words,
            }
            for seen in outcome.seen
        ],
        "problems": [{"code": p.code, "message": p.message, "hint": p.hint} for p in outcome.problems],
        "elapsed_ms": round(outcome.elapsed_s * 1000, 1),
    }
    if traced is not None:
        body["trace"] = [
            {"ms": round(at_s * 1000, 1), "direction": "sent" if way == ">" else "received", "bytes": data.hex(" ")}
            for at_s, way, data in traced
        ]
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))
