"""Look at the device files of serial channels: are they there, who may open them, who has them open. None is opened.

TCP channels are not tried: many gateways to serial lines take one connection, and the running fluxedge has it.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from fluxedge.config.structs import ChannelCfg
from fluxedge.config.urls import parse_channel_url
from fluxedge.doctor.facts import SerialPort
from fluxedge.doctor.storage import SERVICE_USER

MOST_PROCESSES = 5000
_UNIT_GROUPS = ("dialout",)  # SupplementaryGroups= of the unit


def ports(channels: Mapping[str, ChannelCfg], daemon_pid: int = 0, proc: Path = Path("/proc")) -> list[SerialPort]:
    """Return what can be seen of every serial channel's device file; `daemon_pid` is no stranger."""
    paths = {}
    for name, cfg in sorted(channels.items()):
        url = parse_channel_url(cfg.url)
        if url.scheme == "serial":
            paths[name] = url.path
    holders, unseen = _holders({os.path.realpath(path) for path in paths.values()}, daemon_pid, proc)
    return [_port(name, path, holders, unseen) for name, path in paths.items()]


def _port(name: str, path: str, holders: Mapping[str, list[str]], unseen: bool) -> SerialPort:
    try:
        status = os.stat(path)
    except OSError:
        return SerialPort(name, path, exists=False)
    return SerialPort(
        channel=name,
        path=path,
        is_tty=stat.S_ISCHR(status.st_mode),
        group=_group(status.st_gid),
        blocked=_blocked(status),
        holders=tuple(holders.get(os.path.realpath(path), ())),
        holders_unseen=unseen,
    )


def _blocked(status: os.stat_result) -> str:
    """Return the daemon's user where the permission bits keep it out, or this one where there is no such user."""
    try:
        user = pwd.getpwnam(SERVICE_USER)
        groups = {*os.getgrouplist(SERVICE_USER, user.pw_gid), *map(_gid, _UNIT_GROUPS)}
        name, uid = SERVICE_USER, user.pw_uid
    except KeyError:
        name, uid, groups = f"uid {os.geteuid()}", os.geteuid(), {os.getegid(), *os.getgroups()}
        if uid == 0:
            return ""
    if uid == status.st_uid:
        wanted = stat.S_IRUSR | stat.S_IWUSR
    elif status.st_gid in groups:
        wanted = stat.S_IRGRP | stat.S_IWGRP
    else:
        wanted = stat.S_IROTH | stat.S_IWOTH
    return "" if status.st_mode & wanted == wanted else name


def _holders(paths: set[str], daemon_pid: int, proc: Path) -> tuple[dict[str, list[str]], bool]:
    """Return path -> processes that have it open, and whether some processes could not be looked at."""
    found: dict[str, list[str]] = {}
    unseen = False
    if not paths:
        return found, unseen
    numbers = sorted(int(name) for name in os.listdir(proc) if name.isdigit())[:MOST_PROCESSES]
    for pid in numbers:
        if pid == daemon_pid:
            continue
        try:
            opened = _opened(proc / str(pid) / "fd")
        except PermissionError:
            unseen = True
            continue
        except OSError:  # it ended
            continue
        for path in opened & paths:
            found.setdefault(path, []).append(f"{_command(proc / str(pid))} (pid {pid})")
    return found, unseen


def _opened(folder: Path) -> set[str]:
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(entry.path))
    return found


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1
