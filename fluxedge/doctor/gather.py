"""Gather all facts: everything that looks, in one place. Blocks; takes seconds where a broker does not answer."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fluxedge import apply
from fluxedge.config import last_good
from fluxedge.config.load import Layout, Loaded, load
from fluxedge.config.sources import read_sources
from fluxedge.config.uplinks import parse_broker_url
from fluxedge.doctor import machine, reach, storage, wires
from fluxedge.doctor.facts import Configuration, Daemon, Facts
from fluxedge.doctor.machine import Ask, ask

_PERMISSION = "cannot be read: Permission denied"
_TOO_MANY = 1000  # mistakes that are kept


def gather(
    layout: Layout, state_dir: Path, daemon: Daemon, other_files: int, root: Path = Path("/"), run: Ask = ask
) -> tuple[Facts, Loaded]:
    """Return everything that was seen. `other_files` are what the gateway opens beside channels and uplinks."""
    open_to_us = layout if not _closed([layout.state_dir]) else replace(layout, state_dir=None)
    loaded = load(open_to_us, apply.findings)
    config = loaded.config
    others = _of_files(layout, config.uplinks) | _of_daemon(daemon, config.uplinks)
    serial = {name: cfg for name, cfg in config.channels.items() if cfg.url.startswith("serial:")}
    needed = len(config.channels) + len(config.uplinks) + other_files
    facts = Facts(
        user=user(),
        versions=machine.versions(),
        unit=machine.unit(root, run),
        daemon=daemon,
        configuration=configuration(layout, loaded),
        state=storage.state(state_dir),
        wear=storage.wear(state_dir),
        ports=tuple(wires.ports(serial, daemon.pid)),
        time=machine.clocks(root, run),
        board=machine.board(root),
        reach=tuple(reach.reach(config.uplinks, others, run)),
        files=machine.files(daemon.pid, needed, root),
        journal=machine.journal(root, run),
    )
    return facts, loaded


def configuration(layout: Layout, loaded: Loaded) -> Configuration:
    """Return what the loader says, without what it says only because this user may not read everything."""
    closed = _closed([layout.config_dir, layout.state_dir, *layout.credential_dirs])
    hidden = [m for m in loaded.mistakes if _PERMISSION in m.message or (closed and m.code == "credential-missing")]
    mistakes = [m.text() for m in loaded.mistakes if m not in hidden]
    items = {m.item for m in hidden}
    unseen = list(dict.fromkeys([*closed, *(m.file for m in hidden if m.code == "config-syntax")]))
    config = loaded.config
    return Configuration(
        directory=str(layout.config_dir),
        unseen=f"closed to this user: {', '.join(unseen[:5])}" if unseen else "",
        fatal=loaded.fatal and not unseen,
        mistakes=() if str(layout.config_dir) in closed else tuple(mistakes[:_TOO_MANY]),
        warnings=tuple(m.text() for m in loaded.warnings[:_TOO_MANY] if m.file != "last-good"),
        kept={key: why for key, why in loaded.kept.items() if key not in items},
        left_out={key: why for key, why in loaded.left_out.items() if key not in items},
        channels=len(config.channels),
        devices=len(config.devices),
        uplinks=len(config.uplinks),
        listen=config.api.listen,
        last_good="unseen" if _closed([layout.state_dir]) else _last_good(layout),
        free_space_bytes=config.log.free_space_bytes,
        backlog_bytes=config.log.backlog_bytes,
        history_bytes=config.log.history_bytes,
    )


def _closed(folders: Sequence[Path | None]) -> list[str]:
    """Return the folders that are there, and that this user may not look into."""
    return [str(place) for place in folders if place is not None and not _may_look(place)]


def _may_look(place: Path) -> bool:
    try:
        os.listdir(place)
        return os.access(place, os.X_OK)
    except PermissionError:
        return False
    except OSError:  # it is not there, or no folder: that is for others to say
        return True


def _last_good(layout: Layout) -> str:
    items, trouble = last_good.recall(layout)
    return trouble or ("none" if items is None else "")


def _of_daemon(daemon: Daemon, known: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the brokers of uplinks that the gateway has and that could not be loaded here."""
    uplinks = daemon.answers.get("uplinks", [])
    return {str(uplink["id"]): _usable(uplink["url"]) for uplink in uplinks if uplink["id"] not in known}


def _of_files(layout: Layout, known: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the brokers of uplinks whose credentials this user may not read."""
    if not _closed(layout.credential_dirs):
        return {}
    items = read_sources(replace(layout, state_dir=None)).items.values()
    return {
        item.id: _usable(item.fields.get("url")) for item in items if item.kind == "uplink" and item.id not in known
    }


def _usable(urls: object) -> list[str]:
    found = []
    for url in urls if isinstance(urls, list) else [urls]:
        with contextlib.suppress(ValueError):
            parse_broker_url(str(url))
            found.append(str(url))
    return found


def user() -> str:
    """Return who asks; a number where nobody knows the name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # 3.13 raises OSError
        return f"uid {os.geteuid()}"
