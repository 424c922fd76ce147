"""The write-ahead log as a file: whether its end is what was committed. Read only, before SQLite has it open.

    offset  size      log.db-wal, big-endian (SQLite, "WAL-mode File Format", 2; the numbers of 2.3 and 4 likewise)
    0       4         magic 0x377f0682 or 0x377f0683: the order of bytes in which checksums are made
    8       4         page size
    16      8         salts: frames with others are left from an earlier round through the file
    24      8         checksum of the 24 bytes before
    32      24 + page frames: page number, size of the database after a commit (else 0), salts, checksum | page

SQLite takes the frames up to the last commit whose checksums are right, and is silent about what follows. That is
right for a commit that a power cut tore. It also hides a flipped byte, behind which commits are lost that were
reported, and whose seqs would be used again.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

_HEADER_BYTES = 32
_FRAME = struct.Struct(">II8s")
_FRAME_BYTES = 24
_MAGIC = (0x377F0682, 0x377F0683)


def size_of(path: Path) -> int:
    """Return the size of a log's WAL; 0 when there is none."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def broken_end(path: Path) -> str:
    """Say what is wrong with the end of the WAL that SQLite has just recovered, "" where nothing is."""
    try:
        # Not by the index in -shm: closing it would give up the locks that SQLite holds on it for other connections of
        # this process. Another process would then cut it short, and the next look at it would end in SIGBUS.
        with open(f"{path}-wal", "rb") as file:
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES or not any(header):
                return ""
            if not _is_header(header):
                return "the header of its WAL is damaged"
            (page_bytes,) = struct.unpack_from(">I", header, 8)
            taken = _taken(file.fileno(), header, page_bytes)
            commits = _commits_behind(file.fileno(), taken, page_bytes, header[16:24])
    except OSError:
        return ""
    if commits == 1:
        return "the last commit in its WAL is damaged"
    return f"{commits} commits at the end of its WAL are damaged" if commits else ""


def _is_header(header: bytes) -> bool:
    (magic,) = struct.unpack_from(">I", header)
    if magic not in _MAGIC:
        return False
    return _checksum(header[:24], 0, 0, magic) == struct.unpack_from(">II", header, 24)


def _checksum(content: bytes, a: int, b: int, magic: int) -> tuple[int, int]:
    """Carry a checksum on; 2.3."""
    for x, y in struct.iter_unpack(">II" if magic & 1 else "<II", content):
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    return a, b


def _taken(file: int, header: bytes, page_bytes: int) -> int:
    """Return how many frames SQLite takes: those up to the last commit before the first one that is not right."""
    (magic,) = struct.unpack_from(">I", header)
    a, b = struct.unpack_from(">II", header, 24)
    taken = number = 0
    step = _FRAME_BYTES + page_bytes
    while len(frame := os.pread(file, step, _HEADER_BYTES + number * step)) == step:
        page, size, salts = _FRAME.unpack_from(frame)
        a, b = _checksum(frame[:8] + frame[_FRAME_BYTES:], a, b, magic)
        if not page or salts != header[16:24] or (a, b) != struct.unpack_from(">II", frame, 16):
            break
        number += 1
        taken = number if size else taken
    return taken


def _commits_behind(file: int, taken: int, page_bytes: int, salts: bytes) -> int:
    """Count the commits behind the frames that were taken."""
    commits, step = 0, _FRAME_BYTES + page_bytes
    at = _HEADER_BYTES + taken * step
    while len(head := os.pread(file, _FRAME.size, at)) == _FRAME.size:
        _, size, found = _FRAME.unpack(head)
        if found != salts:
            break
        commits += size > 0
        at += step
    return commits


def frames(path: Path, page_bytes: int) -> dict[int, int]:
    """Return page number -> where in the WAL its newest content is, up to the last commit; checksums are not looked at.

    For salvage, which checks what it finds. Empty where there is no WAL, or its header is damaged.

    Raises:
        OSError: it cannot be opened.
    """
    found: dict[int, int] = {}
    try:
        file = open(f"{path}-wal", "rb")  # noqa: SIM115
    except (FileNotFoundError, IsADirectoryError):
        return found
    with file, contextlib.suppress(OSError):
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not _is_header(header):
            return {}
        salts, at, pending = header[16:24], _HEADER_BYTES, dict[int, int]()
        end = os.fstat(file.fileno()).st_size
        while at + _FRAME.size <= end:
            number, size, found_salts = _FRAME.unpack(_head(file.fileno(), at))
            if found_salts == salts:  # a damaged head may stand between good frames
                pending[number] = at + _FRAME_BYTES
                if size:
                    found |= pending
                    pending = {}
            at += _FRAME_BYTES + page_bytes
    return found


def _head(file: int, at: int) -> bytes:
    """Return the head of a frame; zeros where the disk does not give it."""
    try:
        return os.pread(file, _FRAME.size, at).ljust(_FRAME.size, b"\0")
    except OSError:
        return bytes(_FRAME.size)
