"""An ext4 file system of our own, in an image file behind a loop device, that can lose its power.

    BASE/fluxedge-durability-PID-XXXX/disk.img  --losetup-->  /dev/loopN  --mount-->  BASE/.../mnt

The name tells which process made it: what a process that is gone has left behind is taken down at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
import typing
from collections.abc import Iterator
from pathlib import Path

PREFIX = "fluxedge-durability-"
BASE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), fs/ext4/ext4.h
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: what the journal holds in memory is gone, as without power


def run(*command: str | Path) -> str:
    """Run a command of the system; return what it printed.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder that bears our name and pid; take down whatever is mounted below it in the end."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=BASE))
    try:
        yield folder
    finally:
        take_down(folder)


def sweep() -> list[Path]:
    """Take down what harnesses that are not alive any more have left; return their folders."""
    found = []
    for folder in sorted(BASE.glob(f"{PREFIX}*-*")):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            take_down(folder)
            found.append(folder)
    return found


def take_down(folder: Path) -> None:
    """Unmount everything below a folder, give up its loop devices, remove it."""
    inside = f"{folder}/"
    for _ in range(50):  # one file system may lie on another
        mounts = [place for place in _mounts() if place.startswith(inside)]
        loops = [device for device, image in _loops() if image.startswith(inside)]
        if not mounts and not loops:
            break
        for place in reversed(mounts):
            subprocess.run(["umount", place], capture_output=True, check=False)
        for device in loops:
            subprocess.run(["losetup", "-d", device], capture_output=True, check=False)
        time.sleep(0.02)
    else:
        for place in reversed([place for place in _mounts() if place.startswith(inside)]):
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _mounts() -> list[str]:
    return [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _loops() -> list[tuple[str, str]]:
    text = run("losetup", "-J", "-l", "-O", "NAME,BACK-FILE")
    devices: list[dict[str, typing.Any]] = json.loads(text)["loopdevices"] if text.strip() else []
    return [(device["name"], device["back-file"] or "") for device in devices]


class LoopDisk:
    """A mounted ext4 image of some MiB."""

    def __init__(self, folder: Path, mib: int, *, image: Path | None = None, make: bool = True) -> None:
        self.image = image or folder / "disk.img"
        self.mounted_at = folder / "mnt"
        self.mounted_at.mkdir(exist_ok=True)
        if image is None:
            with self.image.open("wb") as file:
                file.truncate(mib << 20)
        self.device = run("losetup", "-f", "--show", self.image).strip()
        if make:
            lazy = "lazy_itable_init=0,lazy_journal_init=0"
            # 4 KiB blocks, as on every disk above 512 MiB. With blocks of 1 KiB the pages of log.db-shm have holes, and
            # a process that fills one on a full disk is killed by SIGBUS (Linux 6.18, SQLite 3.40.1; 2026-11).
            run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-E", lazy, self.device)
        self.mount()

    def mount(self) -> None:
        run("mount", "-t", "ext4", self.device, self.mounted_at)

    def unmount(self) -> None:
        """Unmount, and wait until the kernel has forgotten the file system: else the dead one is mounted again."""
        for attempt in range(100):
            try:
                run("umount", self.mounted_at)
                break
            except RuntimeError:  # the files of a process that was killed are closed a moment later
                if attempt == 99:
                    raise
                time.sleep(0.02)
        gone = Path("/sys/fs/ext4") / Path(self.device).name
        deadline_s = time.monotonic() + 10
        while gone.exists():
            assert time.monotonic() < deadline_s, f"{self.device} stays in use"
            time.sleep(0.005)

    def cut(self) -> None:
        """Take the power away: what was not flushed is lost, and every later access fails with EIO."""
        fd = os.open(self.mounted_at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmount and give the loop device back."""
        self.unmount()
        run("losetup", "-d", self.device)
