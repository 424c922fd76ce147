"""A disk that remembers every write, flush and promise in their order: what a power cut can leave of it is computed.

As a program: MOUNTPOINT MIB OUT, a file system in user space with two files. `disk` is to be put behind a loop device;
`promises` takes lines as promises.py draws them. OUT gets the history when it is unmounted: a pickled list of

    (WRITE, offset, data) | (FLUSH,) | (PROMISE, text)

A cut at position k leaves everything that was written before the last FLUSH before k. Of what was written after it
each piece of 1 KiB is there or is not: a disk may write what is in its cache in any order.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path

from tests.durability.loop_disk import LoopDisk, run
from tests.durability.orphan import die_with_parent
from tests.durability.outcome import Outcome
from tests.durability.power_cut import Committing
from tests.durability.promises import Promises, examine

ROOT = Path(__file__).resolve().parents[2]
WRITE, FLUSH, PROMISE = "write", "flush", "promise"
PIECE_BYTES = 1024
DISK_MIB = 24
LIVES_S = 2.0  # how long is recorded

Step = tuple[typing.Any, ...]


class Recorder:
    """The file system's operations, as mfusepy calls them."""

    def __init__(self, size_bytes: int) -> None:
        self.disk = bytearray(size_bytes)
        self.history: list[Step] = []

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path not in ("/disk", "/promises"):
            raise OSError(errno.ENOENT, path)
        return {
            "st_mode": stat.S_IFREG | 0o600,
            "st_nlink": 1,
            "st_size": len(self.disk) if path == "/disk" else 0,
        }

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "disk", "promises"]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.disk[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if path == "/promises":
            self.history.append((PROMISE, data.decode()))
        else:
            self.disk[offset : offset + len(data)] = data
            self.history.append((WRITE, offset, bytes(data)))
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self.history.append((FLUSH,))
        return 0


def serve(mountpoint: str, mib: int, out: Path) -> None:
    """Serve the disk until it is unmounted; then write its history."""
    import mfusepy  # loads libfuse when it is imported

    recorder = Recorder(mib << 20)
    operations = type("Operations", (mfusepy.Operations,), {
        name: staticmethod(getattr(recorder, name))
        for name in ("getattr", "readdir", "open", "read", "write", "fsync")
    })()  # fmt: skip
    mfusepy.FUSE(operations, mountpoint, foreground=True, nothreads=True)
    out.write_bytes(pickle.dumps(recorder.history))


def record(ground: Path, seed: int, hook: str) -> list[Step]:
    """Let a process commit on a recording disk for a while; return the history."""
    place, out, errors = ground / "recorder", ground / "history", ground / "errors.log"
    place.mkdir()
    command = [sys.executable, "-m", "tests.durability.recording_disk", place, str(DISK_MIB), out]
    with errors.open("ab") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
    try:
        _wait_until_mounted(place, server, errors)
        disk = LoopDisk(ground, DISK_MIB, image=place / "disk")
        state = disk.mounted_at / "state"
        state.mkdir()
        process = Committing(state, seed, hook, errors, place / "promises")
        try:
            process.listen(LIVES_S + 0.7)
        finally:
            process.kill()
        disk.close()
        run("umount", place)
        server.wait(30)
    finally:
        server.kill()
        server.wait()
    return typing.cast(list[Step], pickle.loads(out.read_bytes()))


def _wait_until_mounted(place: Path, server: subprocess.Popen[bytes], errors: Path) -> None:
    deadline_s = time.monotonic() + 10
    while not os.path.ismount(place):
        assert server.poll() is None, errors.read_text()[-2000:]
        assert time.monotonic() < deadline_s, "the recording disk does not come up"
        time.sleep(0.02)


def cut_anywhere(ground: Path, outcome: Outcome, cuts: int, hook: str = "", *, until_lost: bool = False) -> None:
    """Cut a recorded history at random positions, and examine what is left each time."""
    rng = random.Random(outcome.seed)
    history = record(ground, rng.randrange(1 << 30), hook)
    promises = [at for at, step in enumerate(history) if step[0] == PROMISE]
    assert len(promises) > 50, f"{len(promises)} promises: {(ground / 'errors.log').read_text()[-2000:]}"
    first = promises[len(promises) // 10]  # behind the making of the log
    positions = sorted(rng.sample(range(first, promises[-1]), cuts))
    outcome.facts |= {
        "writes": sum(step[0] == WRITE for step in history),
        "flushes": sum(step[0] == FLUSH for step in history),
        "file system": f"ext4, {DISK_MIB} MiB, loop device over a recording file system",
    }
    for position, image in _images(history, positions, rng):
        outcome.injected += 1
        found, promised = _examine(ground, image, history[:position])
        outcome.broken += [f"cut at {position}: {text}" for text in found.broken]
        outcome.lost += found.lost
        outcome.promised += promised.records
        outcome.held += found.held
        outcome.delivered += found.gone
        outcome.gaps += found.gaps
        outcome.duplicates += found.again
        outcome.facts["new epochs"] = outcome.facts.get("new epochs", 0) + found.epochs
        if outcome.lost and until_lost:
            break


def _images(history: list[Step], positions: list[int], rng: random.Random) -> Iterator[tuple[int, bytearray]]:
    """Iterate over (position, what the disk holds after a cut there)."""
    flushed, done = bytearray(DISK_MIB << 20), 0  # the history before `done` is in it
    for position in positions:
        flush = max((at for at in range(done, position) if history[at][0] == FLUSH), default=done)
        for step in history[done:flush]:
            if step[0] == WRITE:
                flushed[step[1] : step[1] + len(step[2])] = step[2]
        done = flush
        image = bytearray(flushed)
        for step in history[done:position]:
            if step[0] == WRITE:
                for at in range(0, len(step[2]), PIECE_BYTES):
                    if rng.random() < 0.5:
                        piece = step[2][at : at + PIECE_BYTES]
                        image[step[1] + at : step[1] + at + len(piece)] = piece
        yield position, image


def _examine(ground: Path, image: bytearray, before: list[Step]) -> tuple[typing.Any, Promises]:
    promises = Promises()
    promises.take("".join(step[1] for step in before if step[0] == PROMISE))
    folder = ground / "replay"
    folder.mkdir()
    file = folder / "disk.img"
    file.write_bytes(image)
    disk = LoopDisk(folder, DISK_MIB, image=file, make=False)
    found = examine(disk.mounted_at / "state", promises)
    disk.close()
    shutil.rmtree(folder)
    return found, promises


if __name__ == "__main__":
    die_with_parent()
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
