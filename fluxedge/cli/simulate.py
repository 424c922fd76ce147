"""`fluxedge simulate`: devices that behave as their driver files say, over TCP, a serial port or a pseudo terminal."""

from __future__ import annotations

import sys
import typing
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.main import FAILED, OK

if typing.TYPE_CHECKING:
    from fluxedge.config.structs import DriverCfg
    from fluxedge.simulate import Server

DEFAULT_TCP = "127.0.0.1:5020"
HOLES = 64  # addresses between two known ones that can be read along, as with most products


@click.command()
@click.argument("drivers", nargs=-1, required=True, metavar="DRIVER[@UNIT]...")
@click.option("--tcp", metavar="HOST:PORT", help=f"Serve Modbus TCP there; port 0 = any free one [{DEFAULT_TCP}].")
@click.option("--rtu", metavar="PATH", help="Serve Modbus RTU on this serial port.")
@click.option("--pty", metavar="LINK", help="Serve Modbus RTU on a new pseudo terminal; LINK will lead to it.")
@click.option("--baud", type=click.IntRange(50, 4_000_000), default=9600, help="Of the serial line [9600].")
@click.option("--parity", type=click.Choice(["N", "E", "O"]), default="N", help="Of the serial line [N].")
@click.option("--config", "config_dir", type=click.Path(path_type=Path), help="Configuration directory, for drivers.")
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="State directory, for drivers.")
def simulate(
    drivers: tuple[str, ...],
    tcp: str | None,
    rtu: str | None,
    pty: str | None,
    baud: int,
    parity: str,
    config_dir: Path | None,
    state_dir: Path | None,
) -> None:
    """Simulate devices from driver files until Ctrl-C.

    \b
      fluxedge simulate eastron-sdm630
      fluxedge simulate eastron-sdm120@1-4 xy-md02@9 --pty /tmp/bus

    Values move plausibly; writable points keep what is written to them. Units count up from the driver's own, else
    from 1, unless they are given.

    Exit codes: 0 it was ended, 1 it cannot serve there, 2 wrong usage; there is no such driver.
    """
    import asyncio

    from fluxedge.cli.driver_files import BrokenDriver
    from fluxedge.problems import ConfigProblem, Problem

    if rtu is not None and pty is not None:
        raise click.UsageError("--rtu and --pty: give one of them")
    if tcp is None and rtu is None and pty is None:
        tcp = DEFAULT_TCP
    try:
        units = _units(drivers, config_dir, state_dir)
        code = asyncio.run(_serve(units, _host_port(tcp), rtu, pty, baud, parity))
    except ConfigProblem as problem:
        if not isinstance(problem, BrokenDriver):
            raise click.UsageError(f"{problem.message}\n{problem.hint}".rstrip()) from problem
        click.echo(problem.message, err=True)
        sys.exit(FAILED)
    except Problem as problem:
        click.echo(f"{problem.message}\n{problem.hint}".rstrip(), err=True)
        sys.exit(FAILED)
    except OSError as exc:
        click.echo(f"{exc.__cause__ or exc}: {exc}" if exc.__cause__ else str(exc), err=True)
        sys.exit(FAILED)
    sys.exit(code)


def _units(wanted: tuple[str, ...], config_dir: Path | None, state_dir: Path | None) -> dict[int, DriverCfg]:
    """Return unit -> driver."""
    from fluxedge.cli import driver_files
    from fluxedge.config.devices import parse_units, unit_of
    from fluxedge.config.load import Layout
    from fluxedge.config.structs import DeviceCfg

    layout = Layout.standard(places.config_dir(config_dir), places.state_dir(state_dir))
    found: dict[int, DriverCfg] = {}
    for text in wanted:
        name, at, numbers = text.partition("@")
        driver = driver_files.need(layout, name)
        if at:
            try:
                units = parse_units(numbers)
            except ValueError as exc:
                raise click.UsageError(f"{text}: {exc}") from exc
        else:
            first = max(1, unit_of(driver, DeviceCfg(driver=driver.id)))
            units = [next(unit for unit in range(first, 1000) if unit not in found)]
        for unit in units:
            if unit in found:
                raise click.UsageError(f"unit {unit} is both {found[unit].id} and {driver.id}")
            found[unit] = driver
    return dict(sorted(found.items()))


def _host_port(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise click.UsageError(f"--tcp: {text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


async def _serve(
    units: dict[int, DriverCfg], tcp: tuple[str, int] | None, rtu: str | None, pty: str | None, baud: int, parity: str
) -> int:
    import asyncio
    import signal

    from fluxedge.simulate import DriverSimulator, serve_pty, serve_rtu, serve_tcp

    devices = {unit: DriverSimulator(driver, seed=unit, holes=HOLES) for unit, driver in units.items()}
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    servers: list[Server] = []
    link = _Link(pty)
    try:
        if tcp is not None:
            servers.append(await serve_tcp(devices, *tcp))
            _introduce(units, _tcp_url(tcp[0], servers[-1].port))
        if rtu is not None:
            servers.append(await serve_rtu(devices, rtu, baud, parity))
            click.echo(f"Serving on {rtu}, {baud} baud, parity {parity}. The gateway opens the other end of the line:")
            _introduce(units, f"serial:///dev/ttyXX?baud={baud}&parity={parity}")
        if pty is not None:
            servers.append(await serve_pty(devices, baud))
            _introduce(units, f"serial://{link.make(servers[-1].path)}?baud={baud}")
        click.echo("Ctrl-C ends.")
        await stop.wait()
    finally:
        for server in servers:
            await server.close()
        link.remove()
    return OK


class _Link:
    """A name that leads to a pseudo terminal, as long as it is there."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path).absolute() if path else None
        self._made = False

    def make(self, target: str) -> str:
        """Raises OSError: something else has this name."""
        assert self._path is not None
        if self._path.is_symlink() and not self._path.exists():  # left by one that was killed
            self._path.unlink()
        self._path.symlink_to(target)
        self._made = True
        return str(self._path)

    def remove(self) -> None:
        if self._made and self._path is not None:
            self._path.unlink(missing_ok=True)


def _tcp_url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"tcp://[{reachable}]:{port}" if ":" in reachable else f"tcp://{reachable}:{port}"


def _introduce(units: dict[int, DriverCfg], url: str) -> None:
    """Say what is served and what to write to read it."""
    from fluxedge.cli import aligned

    click.echo(click.style(f"Serving on {url}", bold=True))
    rows = [
        (f"  unit {unit}", driver.id, driver.name, aligned.counted(len(driver.points), "point"))
        for unit, driver in units.items()
    ]
    for line in aligned.lines(rows):
        click.echo(line)
    click.echo("\nA device file to paste, for example /etc/fluxedge/devices/simulated.toml:\n")
    click.echo(device_file(units, url))
    unit, driver = next(iter(units.items()))
    click.echo(f"Or read it at once:\n\n  fluxedge read '{url}' --driver {driver.id} --unit {unit}\n")


def device_file(units: dict[int, DriverCfg], url: str) -> str:
    """Return a device file for the served units."""
    channel = "simulated" if len(units) > 1 else url
    text = f'[channels.simulated]\nurl = "{url}"\n\n' if len(units) > 1 else ""
    names = [driver.id for driver in units.values()]
    for unit, driver in units.items():
        name = driver.id if names.count(driver.id) == 1 else f"{driver.id}-{unit}"
        text += f'[devices.{name}]\ndriver = "{driver.id}"\nchannel = "{channel}"\nunit = {unit}\n\n'
    return text
