"""The service: a gateway with its configuration directory. Start, reload, watch files, tell systemd, stop.

load -> Gateway.start -> remember as last good -> READY
SIGHUP, `fluxedge reload`, a changed file -> load -> Gateway.apply -> remember

A reload is where files of others are read while devices are being polled: whatever it raises becomes a problem.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fluxedge import __version__, apply, journal
from fluxedge.api.server import ApiServer
from fluxedge.api.sockets import socket_path
from fluxedge.app import Gateway, make_state_dir
from fluxedge.clock import Clock
from fluxedge.commands import Request, Result
from fluxedge.config import held, last_good, watch
from fluxedge.config.load import Layout, Loaded, load
from fluxedge.config.mistakes import Mistake
from fluxedge.config.structs import Config
from fluxedge.problems import ConfigProblem, Problem

_log = logging.getLogger("fluxedge")
T = typing.TypeVar("T")
STATUS_S = 10.0
TOLD = 100  # mistakes a reload puts into the journal; a file can hold a hundred thousand
WATCH_AGAIN_FIRST_S, WATCH_AGAIN_MOST_S = 5.0, 300.0
OTHER_FILES = 256  # open files besides channels and uplinks: the API's 192 connections, log, rules, what is read


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

    @classmethod
    def nothing(cls, *mistakes: Mistake) -> Reloaded:
        """Return what a reload did that changed nothing."""
        return cls((), (), (), mistakes, {}, {})


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
        self._seen: watch.Stamp = frozenset()  # of the files that were read at the start
        self._complained: set[tuple[str, str]] = set()  # (item, code) of configuration problems that stand

    async def run(self, started: Callable[[Service], typing.Any] | None = None) -> int:
        """Run until a signal; return the exit code. `started` is called when the gateway polls.

        Raises:
            BadConfig: nothing can be started.
            LinkProblem: the state directory, the log or the API's socket cannot be used.
        """
        make_state_dir(self.state_dir)
        self._seen = watch.stamp(self.layout)
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
            api = self._bind_api(gateway)
            async with self._reloading:  # a SIGHUP in the meantime waits
                await gateway.start()
                assert gateway.failed is not None
                gateway.failed.add_done_callback(lambda _: self._stop.set())
                await self._applied(loaded, {})
            await api.start()
            gateway.owner.spawn(self._watch_files(), "config-watch")
            gateway.owner.spawn(self._tell_systemd(), "systemd")
            if started is not None:
                started(self)
            self._greet(gateway)
            journal.notify("READY=1")
            await self._stop.wait()
        finally:
            self._stop.set()
            journal.notify("STOPPING=1")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            if self.api is not None:
                await self.api.stop()
            async with self._reloading:  # a reload in progress ends first
                await gateway.stop()
        return 1 if gateway.failed.done() else 0

    def _bind_api(self, gateway: Gateway) -> ApiServer:
        cfg = gateway.booted.api
        path = socket_path(cfg.socket, self.state_dir)
        self.api = ApiServer(gateway, path, cfg.listen, gateway.owner.spawn, Request, Result)
        self.api.bind()
        return self.api

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stop.set()

    def _greet(self, gateway: Gateway) -> None:
        """Say what runs, and that nothing does where nothing is configured."""
        assert self.api is not None
        channels = sum(poller.channel is not None for poller in gateway.pollers.values())
        counts = [
            _counted(len(gateway.protocols), "device"),
            _counted(channels, "channel"),
            _counted(len(gateway.forwarders), "uplink"),
        ]
        _log.info(
            "gateway %s runs: fluxedge %s, %s; configuration %s, state %s, socket %s",
            gateway.id, __version__, ", ".join(counts), self.layout.config_dir, self.state_dir, self.api.path,
        )  # fmt: skip
        if not gateway.protocols:
            _log.warning("no device is configured: nothing is read; put a file into %s/devices", self.layout.config_dir)

    async def reload(self) -> Reloaded:
        """Load everything again and apply what differs; what is wrong goes on as its last good version.

        Raises nothing: where it fails as a whole, that is a problem and a mistake of the answer.
        """
        assert self.gateway is not None
        async with self._reloading:
            if self._stop.is_set() or self.loaded is None:
                return Reloaded.nothing()
            journal.notify("RELOADING=1")
            done, problem = await self._survive(self._load_and_apply(self.gateway, self.loaded))
            if problem is None:
                self.gateway.problems.clear("config:reload")
            else:
                self.gateway.problems.report("config:reload", problem)
                await self._survive(self.gateway.apply(self.loaded.config))  # where it broke off in the middle
            journal.notify("READY=1")
        if done is not None:
            return done
        assert problem is not None
        return Reloaded.nothing(Mistake("", 0, "", problem.message, problem.hint, "reload"))

    async def _survive(self, work: Awaitable[T]) -> tuple[T | None, Problem | None]:
        """Await a part of a reload; return its result, or the problem that what it raised is."""
        assert self.gateway is not None
        hint = "`fluxedge reload` tries again."
        trace: BaseException | None = None
        try:
            return await work, None
        except OSError as exc:
            problem = Problem("reload-failed", f"the reload failed, the old configuration goes on: {exc}", hint)
        except Exception as defect:  # files that others wrote led here; they must not end the gateway
            text = f"a defect ended the reload, the old configuration goes on: {defect!r}"
            problem, trace = Problem("bug", text, f"Please report it. {hint}"), defect
        extra = journal.fields("config:reload", problem.code)
        _log.error("%s", problem.message, exc_info=trace, extra=extra)
        return None, problem

    async def _load_and_apply(self, gateway: Gateway, before: Loaded) -> Reloaded:
        loaded, kept_secrets = await asyncio.to_thread(self._load_again, gateway.config, before)
        self._tell(loaded)
        steps = await gateway.apply(loaded.config)
        await self._applied(loaded, kept_secrets)
        return Reloaded(
            started=tuple(steps.started),
            stopped=tuple(steps.stopped),
            restart_needed=steps.restart_needed,
            mistakes=loaded.mistakes,
            kept=loaded.kept,
            left_out=loaded.left_out,
        )

    def _load_again(self, running: Config, before: Loaded) -> tuple[Loaded, dict[str, str]]:
        """Load with what runs as the last good versions; those on the disk may be unreadable just now."""
        loaded = load(self.layout, apply.findings, last_good.items_of(before))
        return held.hold(running, loaded, self.layout)

    async def _applied(self, loaded: Loaded, kept_secrets: dict[str, str]) -> None:
        """Remember what runs now as the last good version; report what is wrong with the files as problems."""
        assert self.gateway is not None
        self.loaded = loaded
        problems = self.gateway.problems
        try:
            await asyncio.to_thread(last_good.remember, self.layout, loaded)
        except OSError as exc:
            text = f"the last good version is not kept: {exc}"
            problems.report("config", Problem("log-write-failed", text, "Is the disk full or read-only?"))
        else:
            problems.clear("config", "log-write-failed")
        found = _problems_of(loaded, kept_secrets)
        complaints = {(item, problem.code) for item, problem in found.items()}
        for item, code in self._complained - complaints:
            problems.clear(item, code)
        for item, problem in found.items():
            problems.report(item, problem)
        self._complained = complaints
        changed = self.gateway.restart_needed
        if changed:
            problems.report("config:restart", ConfigProblem("restart-needed", f"changed: {', '.join(changed)}"))
        else:
            problems.clear("config:restart")
        short = files_problem(self.gateway)
        if short is not None:
            problems.report("gateway", short)
        else:
            problems.clear("gateway", "file-limit")

    def _tell(self, loaded: Loaded) -> None:
        """Log mistakes and warnings that were not there before."""
        before = {*self.loaded.mistakes, *self.loaded.warnings} if self.loaded is not None else set()
        found = [(logging.ERROR, mistake) for mistake in loaded.mistakes if mistake not in before]
        found += [(logging.WARNING, warning) for warning in loaded.warnings if warning not in before]
        for level, mistake in found[:TOLD]:
            fields = journal.fields(mistake.item or f"file:{mistake.file}", mistake.code)
            _log.log(level, "%s", mistake.text(), extra=fields)
        if len(found) > TOLD:
            _log.error("and %d more; `fluxedge check` says all of it", len(found) - TOLD)

    def _hup(self) -> None:
        if self.gateway is not None:
            self.gateway.owner.spawn(self.reload(), "reload")

    async def _watch_files(self) -> None:
        """Reload when files change. While they cannot be watched that is a problem, and tried again."""
        assert self.gateway is not None
        problems = self.gateway.problems
        pause_s = WATCH_AGAIN_FIRST_S
        blind = False
        while not self._stop.is_set():
            try:
                async with contextlib.aclosing(watch.changes(self.layout, self._stop, self._seen)) as changes:
                    async for paths in changes:
                        if blind or paths:  # what changed while nobody watched is not known
                            problems.clear("config", "config-unwatched")
                            pause_s, blind = WATCH_AGAIN_FIRST_S, False
                            await self.reload()
            except ConfigProblem as problem:
                problems.report("config", problem)
                blind = True
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, WATCH_AGAIN_MOST_S)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of `run`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _tell_systemd(self) -> None:
        """Feed the watchdog while turns come back from the writer; keep the STATUS line."""
        gateway = self.gateway
        assert gateway is not None
        loop = asyncio.get_running_loop()
        limit_s = journal.watchdog_s()
        every_s = min(STATUS_S, limit_s / 3) if limit_s else STATUS_S
        while not self._stop.is_set():
            idle_s = loop.time() - gateway.pipeline.last_outcome_s
            if limit_s and idle_s < limit_s:
                journal.notify("WATCHDOG=1")
            journal.notify(f"STATUS={status_line(gateway)}")
            await self._sleep(every_s)


def files_problem(gateway: Gateway) -> Problem | None:
    """Return the problem that the system permits too few open files for what is configured."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    channels = sum(poller.channel is not None for poller in gateway.pollers.values())
    wanted = channels + len(gateway.forwarders) + OTHER_FILES
    if limit == resource.RLIM_INFINITY or wanted <= limit:
        return None
    uplinks = _counted(len(gateway.forwarders), "uplink")
    text = f"{_counted(channels, 'channel')} and {uplinks} want {wanted} open files, {limit} are permitted"
    return Problem("file-limit", text, "Raise LimitNOFILE= of the unit, or `ulimit -Hn` before `fluxedge run`.")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _problems_of(loaded: Loaded, kept_secrets: dict[str, str]) -> dict[str, Problem]:
    """Return the problems that a configuration's mistakes are, one an item."""
    of_item: dict[str, list[Mistake]] = {}
    for mistake in loaded.mistakes:
        of_item.setdefault(mistake.item or f"file:{mistake.file}", []).append(mistake)
    found: dict[str, Problem] = {}
    for item, why in kept_secrets.items():
        hint = "Put it back into credentials/ of the configuration directory."
        found[f"config:{item}"] = ConfigProblem("credential-missing", why, hint)
    for item, mistakes in of_item.items():
        if item in kept_secrets:
            continue
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
