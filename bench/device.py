"""A block device of our own in memory: ext4 on a loop device, whose counters tell what was really written to it.

WAL, checkpoints, the file system's journal and its metadata are all in: nothing below the file system is guessed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Missing

SECTOR_BYTES = 512
IMAGE = "fluxedge-bench.img"


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A mounted file system and its device's counters."""

    root: Path
    name: str  # loop0

    def written_bytes(self) -> int:
        """Return what was written to the device so far, everything that is pending included."""
        os.sync()
        fields = Path(f"/sys/block/{self.name}/stat").read_text().split()
        return int(fields[6]) * SECTOR_BYTES

    def forget(self, folder: Path) -> None:
        """Make the next reads of a folder's files come from the device; programs and libraries stay in memory."""
        os.sync()
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def block_device(size: str = "3G") -> Iterator[BlockDevice]:
    """Make, mount and remove one.

    Raises:
        Missing: it needs root, loop devices, ext4 and room in /dev/shm.
    """
    if os.geteuid() != 0 or shutil.which("losetup") is None or shutil.which("mkfs.ext4") is None:
        raise Missing("bytes on a block device can be measured by root only, with losetup and mkfs.ext4")
    mount = Path(tempfile.mkdtemp(prefix="fluxedge-bench-"))
    image = Path("/dev/shm") / f"{os.getpid()}-{IMAGE}"
    loop = ""
    try:
        _run("truncate", "-s", size, str(image))
        loop = _run("losetup", "-f", "--show", str(image)).strip()
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", loop)
        _run("mount", "-o", "noatime", loop, str(mount))
        yield BlockDevice(mount, Path(loop).name)
    finally:
        subprocess.run(["umount", str(mount)], check=False, capture_output=True)
        if loop:
            _wait_unmounted(Path(loop).name)
            subprocess.run(["losetup", "-d", loop], check=False, capture_output=True)
        image.unlink(missing_ok=True)
        mount.rmdir()


def _wait_unmounted(name: str) -> None:
    """Wait until the kernel has let go of the file system: a loop device in use cannot be detached."""
    for _ in range(200):
        if not Path(f"/sys/fs/ext4/{name}").exists():
            return
        time.sleep(0.01)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
