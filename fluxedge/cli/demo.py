"""`fluxedge demo`: simulated devices, a broker and the gateway for real, from one command and without root.

simulators (here) ◄── Modbus TCP, RTU on a pty ── gateway (child: fluxedge run) ──MQTT──► broker (child)
                                                      ▲ API, totals                       │
screen (here) ────────────────────────────────────────┘ ◄──────── subscriber (here) ◄─────┘ values, proof
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
import typing
from dataclasses import dataclass
from pathlib import Path

import click

from fluxedge.cli.durations import duration as a_duration
from fluxedge.cli.main import FAILED, OK

if typing.TYPE_CHECKING:
    from fluxedge.cli.demo_child import Child
    from fluxedge.cli.demo_screen import Facts
    from fluxedge.cli.demo_tally import Tally
    from fluxedge.mqtt import Session

SHORTEST_S = 1.0
FIRST_VALUES_S = 20.0
REDRAW_S = 0.25
LINE_S = 5.0  # without a terminal
STRAGGLERS_S = 0.5  # messages that are on their way when the gateway has stopped


@click.command()
@click.option("--duration", type=a_duration, help="End by itself after this time: 30s, 5m, 30 [at Ctrl-C].")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the broker [a free one].")
@click.option("--broker", type=click.Choice(["mosquitto", "amqtt"]), default=None, help="Which [the better one].")
@click.option("--keep", is_flag=True, help="Keep the folder with configuration, log and state.")
def demo(duration: float | None, port: int, broker: str | None, keep: bool) -> None:
    """Run a gateway with simulated devices and a broker, and show what it does.

    Exit codes: 0 it ran and nothing is missing, 1 something failed.
    """
    from fluxedge.cli.demo_child import ChildDied
    from fluxedge.problems import Problem

    if duration is not None and duration < SHORTEST_S:
        raise click.BadParameter(f"at least {SHORTEST_S:g} s", param_hint="--duration")
    folder = new_folder(Path(tempfile.gettempdir()))
    code = FAILED
    try:
        code = asyncio.run(Demo(folder, port, broker or "").run(duration))
    except ChildDied as exc:
        click.echo(str(exc), err=True)
        keep = True
    except Problem as problem:
        click.echo(f"{problem.message}\n{problem.hint}".rstrip(), err=True)
    except OSError as exc:
        click.echo(f"The demo cannot run: {exc}", err=True)
    finally:
        if keep:
            click.echo(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


@dataclass(slots=True)
class _Running:
    """What runs, in the order in which it was started."""

    broker: Child | None = None
    session: Session | None = None
    gateway: Child | None = None

    def check(self) -> None:
        """Raises ChildDied."""
        for child in (self.broker, self.gateway):
            if child is not None:
                child.check()


class Demo:
    """One run of the demo in a folder of its own."""

    def __init__(self, folder: Path, port: int, broker: str) -> None:
        from fluxedge.cli.demo_child import free_port
        from fluxedge.config.load import Layout

        self._folder = folder
        self._port = free_port(port)
        self._broker = broker
        self._layout = Layout(folder / "etc", folder)
        self._run = _Running()
        self._stop = asyncio.Event()

    async def run(self, duration_s: float | None) -> int:
        """Start everything, show it, end everything; return the exit code.

        Raises:
            ChildDied: a child ended by itself.
            LinkProblem: the broker does not take the demo's own connection.
        """
        from fluxedge.cli.demo_site import Simulators

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        simulators = Simulators(self._layout)
        begun_s = time.monotonic()
        try:
            tally, facts = await self._start(simulators)
            await self._first_values(tally)
            await self._show(tally, facts, begun_s, duration_s)
            tally.status = await self._ask() or tally.status
            totals, elapsed_s = tally.totals(), time.monotonic() - begun_s
        finally:
            await self._end(simulators)
        from fluxedge.cli.demo_screen import summary

        click.echo("\n".join(summary(tally, totals, facts, elapsed_s)))
        told = tally.status is not None
        if not told:
            click.echo("The gateway did not answer at its socket; see gateway.log (--keep).", err=True)
        return OK if told and tally.received and not tally.missing else FAILED

    async def _start(self, simulators: typing.Any) -> tuple[Tally, Facts]:
        from fluxedge.cli import demo_broker, demo_site
        from fluxedge.cli.demo_child import Child, ChildDied, wait_for_port
        from fluxedge.cli.demo_screen import Facts, paste_lines
        from fluxedge.cli.demo_tally import Tally

        kind = demo_broker.choose(self._folder, self._port, self._broker)
        if kind is None:
            wanted = self._broker or "a broker"
            raise ChildDied(f"There is no {wanted}: apt-get install mosquitto, or pip install 'fluxedge[demo]'")
        if sys.stdout.isatty():
            click.echo(f"Starting {kind.name}, simulated devices and the gateway …")
        self._run.broker = Child("broker", kind.command, self._folder / "broker.log")
        await wait_for_port(self._run.broker, self._port)
        await simulators.start()
        names = {"mqtt_port": str(self._port), "mqtt_version": kind.version}
        demo_site.write_files(self._layout.config_dir, simulators.names | names)
        loaded = demo_site.load(self._layout)
        tally = Tally(demo_site.points_of(loaded))
        self._run.session = await self._subscribe(tally, kind.version)
        command = (sys.executable, "-m", "fluxedge.cli.main", "run")
        where = ("--config", str(self._layout.config_dir), "--state", str(self._folder))
        self._run.gateway = Child("gateway", (*command, *where), self._folder / "gateway.log")
        paste = paste_lines(fluxedge_command(), str(self._folder), self._port)
        facts = Facts(kind.name, self._port, str(self._folder), len(loaded.config.devices), paste)
        return tally, facts

    async def _subscribe(self, tally: Tally, version: str) -> Session:
        from fluxedge.mqtt import Session, Settings

        settings = Settings(host="127.0.0.1", port=self._port, client_id="fluxedge-demo-verify", version=version)
        session = Session(settings, lambda incoming: tally.take(incoming.payload))
        await session.open()
        for lane in ("rounds", "events"):
            await session.subscribe(f"fluxedge/demo/{lane}")
        return session

    async def _first_values(self, tally: Tally) -> None:
        from fluxedge.cli.demo_child import ChildDied

        deadline_s = time.monotonic() + FIRST_VALUES_S
        while not tally.values and not self._stop.is_set():
            self._run.check()
            if time.monotonic() > deadline_s:
                log = self._run.gateway.tail() if self._run.gateway else ""
                raise ChildDied(f"No value arrived within {FIRST_VALUES_S:.0f} s.\n{log}")
            await asyncio.sleep(0.05)

    async def _show(self, tally: Tally, facts: Facts, begun_s: float, duration_s: float | None) -> None:
        """Show the state until Ctrl-C, the end of the time, or the death of a child."""
        from fluxedge.cli import demo_screen

        live, console = self._live(facts)
        next_line_s = 0.0
        next_ask_s = 0.0
        try:
            while not self._stop.is_set():
                elapsed_s = time.monotonic() - begun_s
                if duration_s is not None and elapsed_s >= duration_s:
                    return
                self._run.check()
                if elapsed_s >= next_ask_s:
                    next_ask_s = elapsed_s + 1.0
                    tally.status = await self._ask() or tally.status
                if live is not None:
                    live.update(demo_screen.frame(tally, facts, elapsed_s, *console.size), refresh=True)
                elif elapsed_s >= next_line_s:
                    next_line_s = elapsed_s + LINE_S
                    click.echo(demo_screen.line(tally, elapsed_s))
                await asyncio.sleep(REDRAW_S)
        finally:
            if live is not None:
                live.stop()

    def _live(self, facts: Facts) -> tuple[typing.Any, typing.Any]:
        """Return rich's live display and console; without a terminal say once what to paste."""
        if not sys.stdout.isatty():
            click.echo("\n".join(["Paste into another terminal:", *(f"  {command}" for command in facts.paste)]))
            return None, None
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        live.start()
        return live, console

    async def _ask(self) -> typing.Any:
        """Return the gateway's status; None while it does not answer."""
        from fluxedge.cli.online import Daemon, Trouble

        try:
            return await asyncio.to_thread(Daemon(self._folder / "api.sock").get, "/status")
        except Trouble:
            return None

    async def _end(self, simulators: typing.Any) -> None:
        """End the gateway first: it commits and delivers what it has; the broker last."""
        run = self._run
        if run.gateway is not None:
            await run.gateway.stop()
            await asyncio.sleep(STRAGGLERS_S)
        if run.session is not None:
            await run.session.close()
        await simulators.close()
        if run.broker is not None:
            await run.broker.stop()


def new_folder(parent: Path) -> Path:
    """Return a new folder with a name that is short enough to be pasted."""
    for number in range(1, 100):
        folder = parent / ("fluxedge-demo" if number == 1 else f"fluxedge-demo-{number}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # another demo, a kept folder, or somebody else's
            continue
        return folder
    return Path(tempfile.mkdtemp(prefix="fluxedge-demo-", dir=parent))


def fluxedge_command() -> str:
    """Return how to call fluxedge from any folder."""
    if shutil.which("fluxedge"):
        return "fluxedge"
    beside = Path(sys.executable).parent / "fluxedge"
    return str(beside) if beside.exists() else f"{sys.executable} -m fluxedge.cli.main"
