"""Try what a configuration would open: every channel, device and uplink. Nothing is written or published.

All channels are tried at once, the devices of one after the other; a channel is given a minute.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import stat
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluxedge.apply import build, by_channel, made_of
from fluxedge.channels import open_channel
from fluxedge.cli import broker
from fluxedge.clock import SystemClock
from fluxedge.config.structs import ChannelCfg, Config, UplinkCfg
from fluxedge.config.uplinks import parse_broker_url
from fluxedge.config.urls import parse_channel_url
from fluxedge.mqtt import Settings
from fluxedge.problems import DeviceProblem, LinkProblem, Problem
from fluxedge.spi import ByteLink, Channel, Protocol
from fluxedge.uplinks.tls import tls_context

AT_ONCE = 64  # channels and uplinks
CHANNEL_S = 60.0
SERVICE_USER = "fluxedge"  # whom the daemon runs as when it is installed

_SILENT = {
    "tcp": "Is it powered, and is its unit id right?",
    "rtu": "Is it powered? Check unit id, baud rate and parity, and whether the wires A and B are swapped.",
    "rtu-tcp": "Is it powered? Check unit id, and baud rate and parity of the serial side.",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one thing."""

    item: str  # "channel bus-1"
    words: str  # when it went well
    problem: Problem | None = None

    def to_json(self) -> dict[str, typing.Any]:
        """Return what `check --connect --json` prints."""
        body: dict[str, typing.Any] = {"item": self.item, "ok": self.problem is None, "words": self.words}
        if self.problem is not None:
            body |= {"code": self.problem.code, "words": self.problem.message, "hint": self.problem.hint}
        return body


Tell = Callable[[Trial], None]


def with_advice(problem: Problem, framing: str) -> Problem:
    """Return a problem that says what to look at when a device is silent."""
    if problem.hint or problem.code not in ("no-reply", "crc-error"):
        return problem
    return DeviceProblem(problem.code, problem.message, _SILENT[framing])


async def try_all(config: Config, tell: Tell) -> list[Trial]:
    """Try everything; `tell` hears of each trial as soon as it is over."""
    made = made_of(config)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(work: typing.Coroutine[typing.Any, typing.Any, list[Trial]]) -> list[Trial]:
        async with room:
            return await work

    works = [
        one(
            _try_channel(name, config.channels[name], {device: build(device, made[device]) for device in devices}, tell)
        )
        for name, devices in by_channel(config, made).items()
        if name in config.channels
    ]
    works += [one(_try_uplink(config, name, cfg, tell)) for name, cfg in config.uplinks.items()]
    return [trial for trials in await asyncio.gather(*works) for trial in trials]


async def _try_channel(name: str, cfg: ChannelCfg, devices: dict[str, Protocol], tell: Tell) -> list[Trial]:
    run = _ChannelTrials(name, cfg, tell)
    try:
        async with asyncio.timeout(CHANNEL_S):
            await run.run(devices)
    except TimeoutError:
        rest = len(devices) - run.devices_tried
        problem = LinkProblem("no-reply", f"after {CHANNEL_S:g} s {rest} of its devices were not asked yet")
        run.note(Trial(f"channel {name}", "", problem))
    finally:
        await run.channel.close()
    return run.trials


class _ChannelTrials:
    def __init__(self, name: str, cfg: ChannelCfg, tell: Tell) -> None:
        self.trials: list[Trial] = []
        self.devices_tried = 0
        self.channel: Channel = open_channel(name, cfg, SystemClock())
        self._item = f"channel {name}"
        self._url = parse_channel_url(cfg.url)
        self._tell = tell

    def note(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._tell(trial)

    async def run(self, devices: dict[str, Protocol]) -> None:
        link = await self._open()
        if link is None:
            return
        problem = daemon_may_not_open(self._url.path) if self._url.scheme == "serial" else None
        self.note(Trial(self._item, f"{self._url.endpoint} is open", problem))
        for name, protocol in devices.items():
            link = link or await self._open()
            if link is None:
                return
            try:
                await self._ask(name, protocol, link)
            except LinkProblem as problem:
                self.note(Trial(f"device {name}", "", problem))
                link = None
            self.devices_tried += 1

    async def _open(self) -> ByteLink | None:
        try:
            return await self.channel.open()
        except LinkProblem as problem:
            self.note(Trial(self._item, "", problem))
            return None

    async def _ask(self, name: str, protocol: Protocol, link: ByteLink) -> None:
        begun_s = time.monotonic()
        try:
            await protocol.check_link(link)
        except DeviceProblem as problem:
            self.note(Trial(f"device {name}", "", with_advice(problem, self.channel.framing)))
        else:
            self.note(Trial(f"device {name}", f"answers in {(time.monotonic() - begun_s) * 1000:.0f} ms"))


async def _try_uplink(config: Config, name: str, cfg: UplinkCfg, tell: Tell) -> list[Trial]:
    trials = []
    for url in cfg.urls:
        try:
            await _connect(config, name, cfg, url)
            trial = Trial(f"uplink {name}", f"{url} takes this client")
        except LinkProblem as problem:
            trial = Trial(f"uplink {name}", "", problem)
        tell(trial)
        trials.append(trial)
    return trials


async def _connect(config: Config, name: str, cfg: UplinkCfg, url: str) -> None:
    _, host, port = parse_broker_url(url)
    own = cfg.client_id or f"{config.gateway.id or 'fluxedge'}-{name}"
    settings = Settings(
        host=host,
        port=port,
        client_id=f"{own}-check",  # the uplink's own id would throw a running gateway out
        keepalive_s=cfg.keepalive_s,
        version=cfg.version,
        username=cfg.username,
        password=config.secrets.get(cfg.password, ""),
        tls=tls_context(cfg, url, Path("/")),  # the loader has made absolute paths
    )
    session = await broker.connect(settings)
    await session.close()


def daemon_may_not_open(path: str) -> LinkProblem | None:
    """Return what stands in the way of the installed daemon's user when root, who may everything, asks."""
    try:
        user = pwd.getpwnam(SERVICE_USER)
        status = os.stat(path)
    except (KeyError, OSError):
        return None
    if os.geteuid() != 0 or may_read_and_write(status, user.pw_uid, os.getgrouplist(SERVICE_USER, user.pw_gid)):
        return None
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = "dialout"  # Debian's group of serial ports
    words = f"{path} opens for root, but not for the user {SERVICE_USER}: permission denied"
    return LinkProblem(
        "link-permission", words, f"add {SERVICE_USER} to group {group}: usermod -aG {group} {SERVICE_USER}"
    )


def may_read_and_write(status: os.stat_result, uid: int, groups: list[int]) -> bool:
    """Tell whether the permission bits let a user read and write."""
    if uid == status.st_uid:
        wanted = stat.S_IRUSR | stat.S_IWUSR
    elif status.st_gid in groups:
        wanted = stat.S_IRGRP | stat.S_IWGRP
    else:
        wanted = stat.S_IROTH | stat.S_IWOTH
    return status.st_mode & wanted == wanted
