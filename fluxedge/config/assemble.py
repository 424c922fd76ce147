"""Items become a configuration: decoded, expanded, checked against each other. Nothing is read here but secrets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fluxedge.config.channels import Channels
from fluxedge.config.decode import decode
from fluxedge.config.devices import Devices
from fluxedge.config.drivers import Remains, read_driver
from fluxedge.config.mistakes import Findings
from fluxedge.config.quantities import Bytes
from fluxedge.config.sources import Item, Layout
from fluxedge.config.structs import ApiCfg, Config, DriverCfg, GatewayCfg, LogCfg
from fluxedge.config.trial import Trial, trial
from fluxedge.config.uplinks import Uplinks

_LEAST_BACKLOG_BYTES = Bytes(16 * 2**20)
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s/]+):(\d{1,5})")
_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108, the last one is zero


@dataclass(frozen=True, slots=True)
class Assembly:
    """What items make together."""

    config: Config  # of the items without mistakes
    trial: Trial  # of all items
    findings: Findings
    origins: dict[str, str]  # id of a device -> key of its item; several devices can come from one


def assemble(
    items: Mapping[str, Item],
    layout: Layout,
    driver_names: Sequence[str] = (),
    gone: Collection[str] = (),
    unread: Sequence[str] = (),
) -> Assembly:
    """Put together what can be put together.

    Where two items cannot both be, the later one in `items` has the mistake. `gone` are items that were found to be
    unusable before, `unread` files of devices that cannot be read: to need something of these is no mistake.
    """
    findings = Findings()
    gateway, log, api = _singles(items, findings)
    uplinks = Uplinks(findings, layout)
    for item in _of_kind(items, "uplink"):
        uplinks.add(item)
    drivers, remains, unusable = _drivers(items, findings)
    channels = Channels(findings, unusable=_gone(gone, "channel"), unread=list(unread))
    for item in _of_kind(items, "channel"):
        channels.add(item)
    devices = Devices(findings, channels, drivers, remains, unusable | _gone(gone, "driver"), driver_names)
    for item in _of_kind(items, "device"):
        devices.add(item)
    for item in _of_kind(items, "uplink"):
        uplinks.check_commands(item, devices.cfgs)
    _warn_about_idle_channels(items, findings)
    singles = Config(gateway=gateway, log=log, api=api, uplinks=uplinks.cfgs, secrets=uplinks.secrets)
    whole = trial(channels.cfgs, devices.left | devices.cfgs, drivers, remains)
    return Assembly(_sound(singles, channels, devices), whole, findings, devices.origins)


def _sound(config: Config, channels: Channels, devices: Devices) -> Config:
    """Return the configuration with the channels, devices and drivers that have no mistakes."""
    refused = devices.findings.refused() | set(devices.findings.blocked)
    good = {id_: cfg for id_, cfg in devices.cfgs.items() if devices.origins[id_] not in refused}
    used = {cfg.driver for cfg in good.values()}
    idle = channels.implicit - {cfg.channel for cfg in good.values()}
    return msgspec.structs.replace(
        config,
        channels={id_: cfg for id_, cfg in channels.cfgs.items() if id_ not in idle},
        devices=good,
        drivers={id_: driver for id_, driver in devices.drivers.items() if id_ in used},
    )


def _gone(keys: Collection[str], kind: str) -> set[str]:
    return {key.partition(":")[2] for key in keys if key.startswith(f"{kind}:")}


def _of_kind(items: Mapping[str, Item], kind: str) -> list[Item]:
    return [item for item in items.values() if item.kind == kind]


def _drivers(
    items: Mapping[str, Item], findings: Findings
) -> tuple[dict[str, DriverCfg], dict[str, Remains], set[str]]:
    """Return the usable drivers, what is left of the others, and the names of those of which nothing is."""
    drivers: dict[str, DriverCfg] = {}
    remains: dict[str, Remains] = {}
    unusable = set()
    for item in _of_kind(items, "driver"):
        found = read_driver(item, findings)
        if isinstance(found, DriverCfg):
            drivers[item.id] = found
        elif found is not None:
            remains[item.id] = found
        else:
            unusable.add(item.id)
    return drivers, remains, unusable


def _singles(items: Mapping[str, Item], findings: Findings) -> tuple[GatewayCfg, LogCfg, ApiCfg]:
    gateway, log, api = GatewayCfg(), LogCfg(), ApiCfg()
    if "gateway" in items:
        gateway = decode(GatewayCfg, items["gateway"].table, findings.noting("gateway")) or gateway
    if "log" in items:
        log = decode(LogCfg, items["log"].table, findings.noting("log")) or log
    if "api" in items:
        api = decode(ApiCfg, items["api"].table, findings.noting("api")) or api
    if log.backlog_bytes < _LEAST_BACKLOG_BYTES:
        text = f"{log.backlog_bytes} is less than {_LEAST_BACKLOG_BYTES}"
        findings.error("log", ("backlog",), text, 'The file takes about 1 MiB for itself; write for example "4GiB".')
    listen = _LISTEN.fullmatch(api.listen)
    if api.listen and (listen is None or not 1 <= int(listen[2]) <= 65535):
        text = f'"{api.listen}" is not an address to listen on'
        findings.error("api", ("listen",), text, 'Write for example "127.0.0.1:8080".')
    if api.socket and not api.socket.startswith("/"):
        findings.error("api", ("socket",), f'"{api.socket}" is not an absolute path')
    elif len(api.socket.encode()) > _SOCKET_PATH_BYTES:
        text = f"the path is longer than {_SOCKET_PATH_BYTES} bytes, which a unix socket cannot have"
        findings.error("api", ("socket",), text)
    return gateway, log, api


def _warn_about_idle_channels(items: Mapping[str, Item], findings: Findings) -> None:
    named = {item.fields.get("channel") for item in _of_kind(items, "device") if not _is_url(item)}
    any_url = any(_is_url(item) for item in _of_kind(items, "device"))  # it may be the URL of a named channel
    for item in _of_kind(items, "channel"):
        if item.id not in named and not any_url:
            findings.warn(item.key, (), "no device uses this channel")


def _is_url(item: Item) -> bool:
    return "://" in str(item.fields.get("channel"))
