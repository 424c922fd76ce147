"""The service: a gateway with its configuration directory. Start, reload, watch files, tell systemd, stop.

load -> Gateway.start -> remember as last good -> READY
SIGHUP, `fluxedge reload`, a changed file -> load -> Gateway.apply -> remember
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluxedge import apply, journal
from fluxedge.api.server import ApiServer
from fluxedge.api.sockets import socket_path
from fluxedge.app import Gateway
from fluxedge.clock import Clock
from fluxedge.commands import Request, Result
from fluxedge.config import last_good, watch
from fluxedge.config.load import Layout, Loaded, load
from fluxedge.config.mistakes import Mistake
from fluxedge.problems import ConfigProblem, Problem

_log = logging.getLogger("fluxedge")
STATUS_S = 10.0


class BadConfig(Exception):
    """fluxedge.toml is unusable and there is no last good version: exit 78."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did."""

    started: tuple[str, ...]  # "device:m1"
    stopped: tuple[str, ...]
    restart_needed: tuple[str, ...]  # tables of fluxedge.toml
    mistakes: tuple[Mistake, ...]
    kept: dict[str, str]  # items on their last good version -> why
    left_out: dict[str, str]


def load_all(layout: Layout) -> Loaded:
    """Run the daemon's own loader, protocols included; `fluxedge check` calls the same. Blocks on the disk."""
    return load(layout, apply.findings)


class Service:
    """One gateway, its directories and its signals."""

    def __init__(self, layout: Layout, state_dir: Path, clock: Clock | None = None) -> None:
        self.layout = layout
        self.state_dir = state_dir
        self.loaded: Loaded | None = None
        self.gateway: Gateway | None = None
        self.api: ApiServer | None = None
        self._clock = clock
        self._reloading = asyncio.Lock()
        self._stop = asyncio.Event()
        self._complained: set[tuple[str, str]] = set()  # (item, code) of configuration problems that stand

    async def run(self, started: Callable[[Service], typing.Any] | None = None) -> int:
        """Run until a signal; return the exit code. `started` is called when the gateway polls.

        Raises:
            BadConfig: nothing can be started.
            LinkProblem: the log or the API's socket cannot be opened.
        """
        loaded = load_all(self.layout)
        self._tell(loaded)
        if loaded.fatal:
            raise BadConfig
        gateway = self.gateway = Gateway(loaded.config, self.state_dir, self._clock)
        gateway.reload = self.reload
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hup)
        try:
            await gateway.start()
            self._applied(loaded)
            cfg = loaded.config.api
            api = self.api = ApiServer(
                gateway, socket_path(cfg.socket, self.state_dir), cfg.listen, gateway.owner.spawn, Request, Result
            )
            await api.start()
            gateway.owner.spawn(self._watch_files(), "config-watch")
            gateway.owner.spawn(self._tell_systemd(), "systemd")
            if started is not None:
                started(self)
            journal.notify("READY=1")
            return await self._wait(gateway)
        finally:
            journal.notify("STOPPING=1")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            if self.api is not None:
                await self.api.stop()
            async with self._reloading:  # a reload in progress ends first
                await gateway.stop()

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stop.set()

    async def _wait(self, gateway: Gateway) -> int:
        assert gateway.failed is not None
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            either: set[asyncio.Future[typing.Any]] = {stopping, gateway.failed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        return 1 if gateway.failed.done() else 0

    async def reload(self) -> Reloaded:
        """Load everything again and apply what differs; what is wrong goes on as its last good version."""
        assert self.gateway is not None
        async with self._reloading:
            journal.notify("RELOADING=1")
            loaded = await asyncio.to_thread(load_all, self.layout)
            self._tell(loaded)
            if loaded.fatal:
                steps = apply.Plan.nothing()
            else:
                steps = await self.gateway.apply(loaded.config)
                self._applied(loaded)
            journal.notify("READY=1")
        return Reloaded(
            started=tuple(steps.started),
            stopped=tuple(steps.stopped),
            restart_needed=steps.restart_needed,
            mistakes=loaded.mistakes,
            kept=loaded.kept,
            left_out=loaded.left_out,
        )

    def _applied(self, loaded: Loaded) -> None:
        """Remember what runs now as the last good version; report what is wrong with the files as problems."""
        assert self.gateway is not None
        self.loaded = loaded
        problems = self.gateway.problems
        try:
            last_good.remember(self.layout, loaded)
        except OSError as exc:
            text = f"{exc.filename}: {exc.strerror}: the last good version is not kept"
            problems.report("config", Problem("log-write-failed", text, "Is the disk full or read-only?"))
        found = _problems_of(loaded)
        complaints = {(item, problem.code) for item, problem in found.items()}
        for item, code in self._complained - complaints:
            problems.clear(item, code)
        for item, problem in found.items():
            problems.report(item, problem)
        self._complained = complaints
        running = self.gateway.restart_needed
        if running:
            problems.report("config:restart", ConfigProblem("restart-needed", f"changed: {', '.join(running)}"))
        else:
            problems.clear("config:restart")

    def _tell(self, loaded: Loaded) -> None:
        """Log mistakes and warnings that were not there before."""
        before = (*self.loaded.mistakes, *self.loaded.warnings) if self.loaded is not None else ()
        for level, mistakes in ((logging.ERROR, loaded.mistakes), (logging.WARNING, loaded.warnings)):
            for mistake in mistakes:
                if mistake not in before:
                    fields = journal.fields(mistake.item or f"file:{mistake.file}", mistake.code)
                    _log.log(level, "%s", mistake.text(), extra=fields)

    def _hup(self) -> None:
        if self.gateway is not None:
            self.gateway.owner.spawn(self.reload(), "reload")

    async def _watch_files(self) -> None:
        assert self.gateway is not None
        try:
            async for _ in watch.changes(self.layout, self._stop):
                await self.reload()
        except OSError as exc:  # for instance, no inotify watch is left
            hint = "Changes are applied by `fluxedge reload`; look at fs.inotify.max_user_watches, then restart."
            self.gateway.problems.report(
                "config", ConfigProblem("config-unwatched", f"files are not watched: {exc}", hint)
            )

    async def _tell_systemd(self) -> None:
        """Feed the watchdog while turns come back from the writer; keep the STATUS line."""
        gateway = self.gateway
        assert gateway is not None
        loop = asyncio.get_running_loop()
        limit_s = journal.watchdog_s()
        every_s = min(STATUS_S, limit_s / 3) if limit_s else STATUS_S
        while True:
            idle_s = loop.time() - gateway.pipeline.last_outcome_s
            if limit_s and idle_s < limit_s:
                journal.notify("WATCHDOG=1")
            journal.notify(f"STATUS={status_line(gateway)}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._stop.wait()
                    return


def _problems_of(loaded: Loaded) -> dict[str, Problem]:
    """Return the problems that a configuration's mistakes are, one an item."""
    of_item: dict[str, list[Mistake]] = {}
    for mistake in loaded.mistakes:
        of_item.setdefault(mistake.item or f"file:{mistake.file}", []).append(mistake)
    found: dict[str, Problem] = {}
    for item, mistakes in of_item.items():
        code = "using-last-good" if item in loaded.kept else mistakes[0].code
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        found[f"config:{item}"] = ConfigProblem(code, mistakes[0].text() + more, "`fluxedge check` says all of it.")
    for item, why in loaded.kept.items():
        found.setdefault(f"config:{item}", ConfigProblem("using-last-good", why, "`fluxedge check` says more."))
    return found


def status_line(gateway: Gateway) -> str:
    """Return what runs and what is wrong in one line."""
    devices = [device for poller in gateway.pollers.values() for device in poller.devices.values()]
    online = sum(device.state == "ok" for device in devices)
    uplinks = [f"{name} {'up' if f.uplink is not None else 'down'}" for name, f in gateway.forwarders.items()]
    wrong = f", {len(gateway.problems)} problems" if len(gateway.problems) else ""
    return f"{online} of {len(devices)} devices online{''.join(', ' + text for text in uplinks)}{wrong}"
