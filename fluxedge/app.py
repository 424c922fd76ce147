"""The composition root: configuration -> objects -> tasks. The only file that knows everyone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
import sys
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from fluxedge import journal
from fluxedge.apply import Plan, build, by_channel, channel_of, made_of, plan
from fluxedge.channels import open_channel
from fluxedge.clock import Clock, SystemClock, UtcOf
from fluxedge.clock_watch import ClockWatch
from fluxedge.commands import Commander, Request, decode
from fluxedge.compaction import Compaction
from fluxedge.config.last_good import replace_file
from fluxedge.config.structs import ID_PATTERN, Config, UplinkCfg
from fluxedge.latest import Latest
from fluxedge.log import Log, LogFault
from fluxedge.log.database import remember_id, remembered_id
from fluxedge.log.flash import FlashLedger
from fluxedge.log.salvage.salvage import Salvage
from fluxedge.model import Group, Lane
from fluxedge.permissions import Principal
from fluxedge.pipeline import Pipeline
from fluxedge.poller import Poller
from fluxedge.problems import LinkProblem, Problem, ProblemBook, Standing
from fluxedge.protocols.host import HostProtocol
from fluxedge.spi import Channel, Protocol, UplinkCommand
from fluxedge.tasks import TaskOwner
from fluxedge.uplinks.delivery import Terms
from fluxedge.uplinks.forward import Forwarder
from fluxedge.uplinks.mqtt import MqttUplink
from fluxedge.uplinks.tls import tls_context

_log = logging.getLogger("fluxedge")
ID_LONGEST = 64  # structs.Id
ANSWERING = 1000  # commands of uplinks that may wait for their answers; more are refused
SWITCH_INTERVAL_S = (
    0.001  # the reader thread may hold the interpreter this long: the loop's lag, not throughput, counts
)


def make_state_dir(state_dir: Path) -> None:
    """Make the state directory.

    Raises:
        LinkProblem: "log-write-failed": it cannot be.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        text = "it is not a directory" if isinstance(exc, FileExistsError) else exc.strerror
        raise _no_state(state_dir, text) from exc


def _no_state(path: Path, why: str | None) -> LinkProblem:
    hint = "Name a directory with --state that the user who runs fluxedge may write to."
    return LinkProblem("log-write-failed", f"the state directory cannot be used: {path}: {why}", hint)


def gateway_id(state_dir: Path, wanted: str | None) -> tuple[str, str]:
    """Return the gateway's id, and why it is a new one where there has been one before; "" where it is not.

    Without a wanted one it is made up at the first start and kept; where it is lost, the log knows under which one its
    records were sent.

    Raises:
        LinkProblem: "log-write-failed": the file cannot be read or written.
    """
    if wanted:
        return wanted, ""
    path = state_dir / "gateway-id"
    why = ""
    try:
        content = path.read_bytes()
        kept = content.decode("ascii", "replace").strip()
        if re.fullmatch(ID_PATTERN, kept) and len(kept) <= ID_LONGEST:
            return kept, ""
        why = f"{path} is empty" if not kept else f"{path} holds no id, but {content[:80]!r}"
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise _no_state(path, exc.strerror) from exc
    known = remembered_id(state_dir / "log.db")
    if re.fullmatch(ID_PATTERN, known) and len(known) <= ID_LONGEST:
        name, why = known, ""
    else:
        name = f"gw-{secrets.token_hex(4)}"
    try:
        replace_file(path, f"{name}\n".encode())
    except OSError as exc:
        raise _no_state(path, exc.strerror) from exc
    return name, why


def _lanes_of(cfg: UplinkCfg) -> list[Lane]:
    return [Lane[lane.upper()] for lane in cfg.lanes]


class Gateway:
    """A running gateway."""

    def __init__(
        self, config: Config, state_dir: Path, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        """Open the log (blocking).

        Raises:
            LinkProblem: the log cannot be opened, or the state directory cannot be used.
        """
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()
        self.state_dir = state_dir
        self.utc_of = UtcOf(self.clock)
        self._started_mono_ns = self.clock.mono_ns()
        make_state_dir(state_dir)
        self.id, self._new_id_because = gateway_id(state_dir, config.gateway.id)
        self.config = Config()
        self.booted = config  # [gateway], [log] and [api] as they were at the start
        self.problems = ProblemBook(self.clock.mono_ns)
        self.latest = Latest()
        self.log = Log(state_dir, config.log, self.clock)
        self.pipeline = Pipeline(self.log, self.latest, self.clock, self.problems, config.log.commit_s)
        self.pipeline.uplinks = lambda: list(self.forwarders)
        self.clock_watch = ClockWatch(self.log, self.clock, self.problems, self.pipeline.submit)
        self.flash = FlashLedger(
            self.log, self.clock, self.problems, lambda: self.pipeline.points_total, config.log.endurance_bytes or 0
        )
        self.compaction = Compaction(
            self.log, state_dir, config.log, self.clock, self.problems, self.rng, self.pipeline.submit
        )
        self.protocols: dict[str, Protocol] = {}
        self.pollers: dict[str, Poller] = {}
        self.forwarders: dict[str, Forwarder] = {}
        self._tasks: dict[str, asyncio.Task[typing.Any]] = {}
        self._torn = False  # an `apply` ended half-way
        self.owner = TaskOwner(self._task_failed)
        self.commander = Commander(self._find, self.pipeline, self.log, self.clock, self.owner.spawn)
        self.salvage = Salvage(self.log, self._lanes, self._groups, self._report_log, self.commander.recover)
        self.latest.wanted = self._runs
        self._answering = 0  # commands of uplinks that wait for their answer
        self.failed: asyncio.Future[BaseException] | None = None
        self._pipeline_task: asyncio.Task[None] | None = None
        self.reload: Callable[[], Awaitable[object]] | None = None  # set by the service

    @property
    def started_ns(self) -> int:
        """Return when this gateway was made, UTC by the clock as it is now."""
        return self.utc_of(self._started_mono_ns)

    async def start(self) -> None:
        """Start everything the configuration names."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.failed = asyncio.get_running_loop().create_future()
        self.problems.listeners.append(self._on_problem)
        self._pipeline_task = self.owner.spawn(self.pipeline.run(), "pipeline")
        self.pipeline.submit("start", "gateway", {"id": self.id, "epoch": self.log.epoch, "boot": self.log.boot})
        if self.log.migrated:
            _log.warning("%s", self.log.migrated)
        if self.log.damaged is not None:
            self.problems.report("log", self.log.damaged)
        if self.log.new_epoch_because:
            hint = "A new epoch began. Nothing to do, if you copied or restored the log; else check the disk (dmesg)."
            self.problems.report("log", Problem("log-replaced", self.log.new_epoch_because, hint))
        if self._new_id_because:
            text = f"{self._new_id_because}; this gateway is now {self.id}"
            hint = "Receivers take it for another one. Give the old name as [gateway] id, if you know it."
            self.problems.report("gateway", Problem("id-replaced", text, hint))
        await self.salvage.begin()
        await self.commander.recover()
        with contextlib.suppress(LogFault):  # a disk that takes nothing stands as a problem already
            await self.log.write(lambda connection: remember_id(connection, self.id))
        self.owner.keep(self.clock_watch.run, "clock", self._side_job)
        self.owner.keep(self.flash.run, "flash", self._side_job)
        self.owner.keep(self.compaction.run, "compaction", self._side_job)
        first = self.booted
        self.config = Config(gateway=first.gateway, log=first.log, api=first.api)
        await self.apply(first)
        self.owner.keep(self.salvage.run, "salvage", self._side_job)

    def _lanes(self) -> dict[str, list[Lane]]:
        return {name: _lanes_of(cfg) for name, cfg in (self.config.uplinks or self.booted.uplinks).items()}

    def _groups(self) -> list[Group]:
        return [group for protocol in self.protocols.values() for group in protocol.groups]

    def _report_log(self, problem: LinkProblem) -> None:
        self.problems.report("log", problem)

    @property
    def restart_needed(self) -> list[str]:
        """Return the tables of fluxedge.toml that differ from those which the gateway was started with."""
        names = ("gateway", "log", "api")
        return [name for name in names if getattr(self.config, name) != getattr(self.booted, name)]

    async def apply(self, config: Config) -> Plan:
        """Go from the running configuration to `config`; what is equal in both is not touched.

        When it raises, the running configuration goes on; only after a failure in the middle (a defect, not a mistake
        in a file) some of it may be stopped, and the next `apply` starts everything anew.
        """
        if self._torn:
            await self._stop_all()
        steps = plan(self.config, config)
        made = made_of(config)
        # Compiling is pure; a thousand devices take a second, which the loop cannot spare. What it raises changes
        # nothing.
        start = list(steps.devices.start)
        built = await asyncio.to_thread(lambda: {name: build(name, made[name]) for name in start})
        for protocol in built.values():
            if isinstance(protocol, HostProtocol):
                protocol.lend(self.flash)
        protocols = {name: p for name, p in self.protocols.items() if name not in steps.devices.stop} | built
        wanted = by_channel(config, protocols)
        opened = {
            name: self._channel(name, config)
            for name in wanted
            if name not in self.pollers or name in steps.channels.stop
        }
        try:
            await self._switch(config, steps, protocols, wanted, opened)
        except BaseException:
            self._torn = True
            raise
        if steps:
            self.pipeline.submit("config", "gateway", {"started": steps.started, "stopped": steps.stopped})
        return steps

    def _channel(self, name: str, config: Config) -> Channel | None:
        """Return a channel that is not open yet; None for what needs none."""
        cfg = config.channels.get(name)
        return open_channel(name, cfg, self.clock) if cfg is not None else None

    async def _switch(
        self,
        config: Config,
        steps: Plan,
        protocols: dict[str, Protocol],
        wanted: dict[str, list[str]],
        opened: dict[str, Channel | None],
    ) -> None:
        """Stop and start; everything that a wrong configuration could make fail was made before."""
        for name in steps.uplinks.stop:
            await self._stop_uplink(name)
        for name in steps.devices.stop:
            for group in self.protocols[name].groups:
                self.problems.clear(f"device:{name}/{group.name}")
            self.latest.forget(name, protocols[name].groups if name in protocols else ())
        self.protocols = protocols
        self.config = config
        for name in list(self.pollers):
            if name not in wanted or name in opened:
                await self._stop_poller(name)
        for name, devices in wanted.items():
            if name in opened:
                poller = Poller(
                    name, opened[name], self.pipeline.put, self.pipeline.submit, self.problems, self.clock, self.rng
                )
                self.pollers[name] = poller
                self._tasks[f"channel:{name}"] = self.owner.spawn(poller.run(), f"channel:{name}")
            self.pollers[name].set_devices({device: protocols[device] for device in devices})
        for name in steps.uplinks.start:
            self._start_uplink(name, config.uplinks[name])

    async def _stop_all(self) -> None:
        """Stop everything that a configuration has started, whatever it was."""
        for name in list(self.forwarders):
            await self._stop_uplink(name)
        for name in list(self.pollers):
            await self._stop_poller(name)
        self.protocols = {}
        self.config = msgspec.structs.replace(self.config, devices={}, drivers={}, channels={}, uplinks={})
        self._torn = False

    async def _stop_poller(self, name: str) -> None:
        await self.owner.stop(self._tasks.pop(f"channel:{name}"))
        poller = self.pollers.pop(name)
        poller.set_devices({})
        poller.swap_devices()
        self.problems.clear(f"channel:{name}")

    def _start_uplink(self, name: str, cfg: UplinkCfg) -> None:
        self.log.begin_uplink(name, _lanes_of(cfg), cfg.start)
        principal = Principal("uplink", f"uplink {name}", "uplink", tuple(cfg.commands))

        def connect(attempt: int, old_version: bool) -> MqttUplink:
            url = cfg.urls[attempt % len(cfg.urls)]
            version = "3.1.1" if old_version else cfg.version
            password = self.config.secrets.get(cfg.password, "")
            uplink = MqttUplink(
                name, cfg, url, self.id, password, tls_context(cfg, url, Path("/")), version,
                lambda command: self._command(uplink, principal, command),
            )  # fmt: skip
            return uplink

        forwarder = Forwarder(
            Terms.of(name, self.id, cfg), connect, self.log, self.problems, self.clock, self.rng,
            brokers=len(cfg.urls), tell=self.pipeline.submit,
        )  # fmt: skip
        self.forwarders[name] = forwarder
        self._tasks[f"uplink:{name}"] = self.owner.spawn(forwarder.run(), f"uplink:{name}")

    async def _stop_uplink(self, name: str) -> None:
        await self.owner.stop(self._tasks.pop(f"uplink:{name}"))
        del self.forwarders[name]
        self.problems.clear(f"uplink:{name}")

    def _command(self, uplink: MqttUplink, principal: Principal, command: UplinkCommand) -> None:
        """Take a command of an uplink; whatever it is, it is answered."""
        try:
            if command.retained:
                raise Problem(
                    "command-refused", "a retained message is told to everybody who connects", "Do not retain."
                )
            if self._answering >= ANSWERING:
                raise Problem("command-refused", f"{ANSWERING} commands wait for their answers; try again")
            request = decode(command.payload)
        except Problem as problem:
            said = {"state": "refused", "code": problem.code, "message": problem.message, "hint": problem.hint}
            uplink.respond(command.reply_topic, msgspec.json.encode(said), command.correlation)
            return
        self._answering += 1
        self.owner.spawn(self._answer(uplink, principal, command, request), f"command:{principal.name}")

    async def _answer(self, uplink: MqttUplink, principal: Principal, command: UplinkCommand, request: Request) -> None:
        try:
            result = await self.commander.run(principal, request)
        finally:
            self._answering -= 1
        uplink.respond(command.reply_topic, msgspec.json.encode(result), command.correlation)

    def _find(self, device: str) -> tuple[Poller, Protocol] | None:
        protocol = self.protocols.get(device)
        poller = self.pollers.get(channel_of(self.config, device)) if protocol is not None else None
        return (poller, protocol) if poller is not None and protocol is not None else None

    def _runs(self, group: Group) -> bool:
        """Tell whether a group is of the running configuration; a round may come in after its device was removed."""
        protocol = self.protocols.get(group.device)
        return protocol is not None and group in protocol.groups

    def _on_problem(self, change: str, item: str, standing: Standing) -> None:
        level = logging.WARNING if change == "raised" else logging.INFO
        verb = "" if change == "raised" else "cleared: "
        hint = f" — {standing.hint}" if standing.hint and change == "raised" else ""
        extra = journal.fields(item, standing.code)
        told = (
            item.startswith("config:") and change == "raised"
        )  # the service has said each mistake on a line of its own
        if not told:
            _log.log(level, "%s: %s%s: %s%s", item, verb, standing.code, standing.message, hint, extra=extra)
        self.pipeline.submit("problem", item, {"change": change, "code": standing.code, "message": standing.message})

    def _side_job(self, name: str, error: Exception | None) -> None:
        """Take that a side job broke, or works again."""
        if error is None:
            self.problems.clear(name, "bug")
            return
        if not self.problems.stands(name, "bug"):
            _log.error("%s", name, exc_info=error)
        self.problems.report(name, Problem("bug", f"{name}: {error!r}", "It is tried again every minute."))

    def _task_failed(self, name: str, error: BaseException) -> None:
        _log.critical("task %s failed", name, exc_info=error)
        if self.failed is not None and not self.failed.done():
            self.failed.set_result(error)

    async def stop(self) -> None:
        """Stop polling, commit what is there, save the cursors, say goodbye upstream."""
        for name in list(self.pollers):
            await self.owner.stop(self._tasks.pop(f"channel:{name}"))
        self.pollers.clear()
        await self.commander.close()
        if self._pipeline_task is not None and not self._pipeline_task.done():
            self.pipeline.submit("stop", "gateway")
            self.pipeline.stop()
            await asyncio.wait([self._pipeline_task], timeout=10)
        await self.owner.close()
        self.flash.sample()
        await self.flash.save()
        await self.log.close()
        if self.log.memory is not None:
            _log.warning("stopped while records were in memory only: they are lost; what uplinks have had is upstream")
