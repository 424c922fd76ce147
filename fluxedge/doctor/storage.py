"""Look at the state directory: owner, file system, room, sizes. No file of the log is opened.

/proc/self/mountinfo   36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
                       3: device, 5: mount point, 6: options; behind " - ": kind, source, the file system's options
                       (proc_pid_mountinfo(5); blanks in names are \\040)
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from pathlib import Path

from fluxedge.block_device import SYS, flash_of, wear_of
from fluxedge.doctor.facts import State, Wear

SERVICE_USER = "fluxedge"
MOUNTS = Path("/proc/self/mountinfo")
MOST_FILES = 20_000  # day files and what is beside them: 50 years


def state(path: Path, mounts: Path = MOUNTS, service_user: str = SERVICE_USER) -> State:
    """Return what can be seen of a state directory."""
    kind, read_only = file_system(path, mounts)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return State(str(path), exists=False, kind=kind, read_only=read_only)
    except OSError as exc:
        return State(str(path), unseen=exc.strerror or str(exc), kind=kind, read_only=read_only)
    if not stat.S_ISDIR(status.st_mode):
        return State(str(path), is_dir=False, kind=kind, read_only=read_only)
    try:
        room = os.statvfs(path)
        names = os.listdir(path)
    except OSError as exc:
        return State(str(path), unseen=exc.strerror or str(exc), kind=kind, read_only=read_only)
    days = _sizes(path / "history", r"\d{4}-\d\d-\d\d\.db")
    damaged = [name for name in names if name.startswith("log.damaged-")]
    return State(
        path=str(path),
        owner=_user(status.st_uid),
        mode=stat.S_IMODE(status.st_mode),
        service_user=service_user if _known(service_user) else "",
        kind=kind,
        read_only=read_only,
        free_bytes=room.f_bavail * room.f_frsize,
        total_bytes=room.f_blocks * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
        ballast_bytes=_size(path / "log.ballast"),
        log_bytes=sum(_size(path / name) for name in ("log.db", "log.db-wal")),
        history_bytes=sum(days.values()),
        history_days=len(days),
        set_aside=tuple(sorted([*damaged, *_sizes(path / "history", r".*\.damaged")])),
    )


def wear(path: Path, sys: Path = SYS) -> Wear:
    """Return what the device below a path says of its life."""
    device = flash_of(str(_existing(path)), sys)
    if device is None:
        return Wear()
    found = wear_of(device)
    return Wear(device.name, found.used_percent if found else None, found.reserve if found else 0)


def file_system(path: Path, mounts: Path = MOUNTS) -> tuple[str, bool]:
    """Return the kind of file system that holds a path, and whether it is mounted read-only; "" = not known."""
    try:
        device = os.stat(_existing(path)).st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return "", False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    place = str(_existing(path).resolve())
    best: tuple[int, str, bool] = (-1, "", False)
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, behind = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(behind) < 3:
            continue
        point = _plain(fields[4])
        holds = place == point or place.startswith(point.rstrip("/") + "/")
        # Of several mounts over one another the last one counts; btrfs tells stat another device than it shows here.
        if holds and (fields[2] == wanted or behind[0] == "btrfs") and len(point) >= best[0]:
            read_only = "ro" in fields[5].split(",") or "ro" in behind[2].split(",")
            best = len(point), behind[0], read_only
    return best[1], best[2]


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _plain(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def _sizes(folder: Path, pattern: str) -> dict[str, int]:
    try:
        names = sorted(os.listdir(folder))[:MOST_FILES]
    except OSError:
        return {}
    return {name: _size(folder / name) for name in names if re.fullmatch(pattern, name)}


def _size(path: Path) -> int:
    """Return what a file takes on the disk."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
