"""A backup as one file: an uncompressed tar whose parts are checked before anything of it is used.

    fluxedge-backup.json     {"format": 1}                        first: what this file is
    config/...               the configuration directory
    state/...                gateway-id, last-good/, site/
    log/...                  a logical copy of log.db, as snapshot.py draws it
    history/seam             what the history files hold (log/history/seam.py), read before them
    history/2027-01-31.db    history files as they are; of two parts with one name the later one counts
    manifest.json            Manifest: what was saved, and size and SHA-256 of every part
    sha256                   64 hexadecimal digits of everything before this part's header, and a line feed

A flipped bit anywhere changes the last digest; a truncated file has none. Every part is a regular file with a plain
relative name: links, devices, absolute names and ".." are refused, and so are more parts than a backup can have.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

FORMAT = 1
FIRST, MANIFEST, DIGEST = "fluxedge-backup.json", "manifest.json", "sha256"
FOLDERS = ("config", "state", "log", "history")
MOST_PARTS = 1_000_000  # a terabyte of log
MOST_MANIFEST_BYTES = 256 << 20
MOST_HEAD_BYTES = 64 << 10  # of the extended headers of one part: names
PIECE_BYTES = 1 << 20
_NAME = re.compile(r"[^\x00-\x1f\\]{1,1024}")


class BackupProblem(Exception):
    """A backup cannot be made, or cannot be used."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PartInfo(msgspec.Struct, frozen=True):
    """One part."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: int
    fluxedge: str  # version that made it
    made_us: int
    gateway: str
    machine: str
    schema: int  # of the log; 0 = there is no log in it
    epoch: int
    heads: dict[str, int]  # lane label -> last seq
    log: bool
    history: bool
    credentials: bool
    left_out: list[str]  # files that are none, and links to folders
    parts: list[PartInfo]


class Archive:
    """A backup that is being written, part by part."""

    def __init__(self, file: typing.BinaryIO) -> None:
        self._digest = hashlib.sha256()
        self._file = file
        self.bytes_total = 0
        self._tar = tarfile.TarFile(fileobj=typing.cast(typing.BinaryIO, self), mode="w", format=tarfile.PAX_FORMAT)
        self.parts: dict[str, PartInfo] = {}
        self.add(FIRST, msgspec.json.encode({"format": FORMAT}))

    def write(self, data: bytes) -> int:
        """Write to the file; tarfile calls it."""
        self._digest.update(data)
        self.bytes_total += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return how much was written; tarfile calls it."""
        return self.bytes_total

    def add(self, name: str, data: bytes) -> None:
        """Add a part that is in memory."""
        self.add_file(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, source: typing.BinaryIO, size: int) -> None:
        """Add `size` bytes of a file; what it lacks of them, because it shrank, is zeros."""
        counting = _Counting(source, size)
        self._tar.addfile(_header(name, size), typing.cast(typing.IO[bytes], counting))
        self._tar.members = []  # type: ignore[attr-defined]  # they are kept otherwise, a kilobyte each
        if name not in (FIRST, MANIFEST, DIGEST):
            self.parts[name] = PartInfo(name, size, counting.digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and the digest of everything, and end the file."""
        self.add(MANIFEST, msgspec.json.encode(manifest))
        self.add(DIGEST, f"{self._digest.hexdigest()}\n".encode())
        self._tar.close()


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


class _Counting:
    """A source of exactly `size` bytes, digested as they pass."""

    def __init__(self, source: typing.BinaryIO, size: int) -> None:
        self._source = source
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._source.read(min(size, self._left))
        data += bytes(min(size, self._left) - len(data))
        self._left -= len(data)
        self.digest.update(data)
        return data


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Checked:
    """A backup that is whole."""

    file: typing.BinaryIO
    manifest: Manifest
    offsets: dict[str, int] = field(default_factory=dict)  # name -> where its bytes begin

    def __post_init__(self) -> None:
        self._sizes = {part.name: part.bytes for part in self.manifest.parts}

    _sizes: dict[str, int] = field(init=False, repr=False)

    def names(self, folder: str) -> list[str]:
        """Return the names of the parts of one folder."""
        return [name for name in self.offsets if name.startswith(f"{folder}/")]

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield what a part holds."""
        self.file.seek(self.offsets[name])
        left = self._sizes[name]
        while left:
            piece = self.file.read(min(left, PIECE_BYTES))
            if not piece:
                raise BackupProblem(f"{name} ended while it was read", "The file changed, or its disk fails.")
            left -= len(piece)
            yield piece

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return what a part holds, in one piece.

        Raises:
            BackupProblem: there is no such part, or it is larger.
        """
        if name not in self.offsets or self._sizes[name] > most_bytes:
            raise BackupProblem(f"it holds no usable {name}", "It was not made by fluxedge backup.")
        return b"".join(self.pieces(name))


class _Bounded:
    """A file that gives no more than a little at a time: headers of a hostile tar may ask for gigabytes."""

    def __init__(self, file: typing.BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > MOST_HEAD_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, at: int, how: int = 0) -> int:
        return self._file.seek(at, how)

    def tell(self) -> int:
        return self._file.tell()


def check(file: typing.BinaryIO, progress: typing.Callable[[int], object] = lambda done: None) -> Checked:
    """Read a whole backup and compare every digest; `progress` gets the bytes that were read.

    Raises:
        BackupProblem: it is none, damaged, or made by a newer version.
    """
    found = _members(file)
    names = list(found)
    if not names or names[0] != FIRST:
        raise BackupProblem("this is no backup of fluxedge", "Name a file that fluxedge backup has made.")
    if names[-2:] != [MANIFEST, DIGEST]:
        raise BackupProblem("it is not whole: its end is missing or damaged", "Take another copy of it.")
    _check_digest(file, found[DIGEST], progress)
    first = _decoded(file, found[FIRST], dict[str, int])
    if first.get("format", 0) > FORMAT:
        text = f"it is a backup of format {first['format']}, this version of fluxedge knows {FORMAT}"
        raise BackupProblem(text, "Install the version that made it, or a newer one.")
    manifest = _decoded(file, found[MANIFEST], Manifest)
    parts = {name: at for name, at in found.items() if name not in (FIRST, MANIFEST, DIGEST)}
    if {part.name: part.bytes for part in manifest.parts} != {name: at[2] for name, at in parts.items()}:
        raise BackupProblem("its parts are not those of its manifest", "It was changed after it was made.")
    checked = Checked(file, manifest, {name: at[1] for name, at in parts.items()})
    for part in manifest.parts:
        digest = hashlib.sha256()
        for piece in checked.pieces(part.name):
            digest.update(piece)
        if digest.hexdigest() != part.sha256:
            raise BackupProblem(f"{part.name} is not what was saved", "It was changed after it was made.")
    return checked


_At = tuple[int, int, int]  # where a part's headers begin, where its bytes begin, how many they are


def _members(file: typing.BinaryIO) -> dict[str, _At]:
    """Return the parts in their order; the later one of two with the same name."""
    found: dict[str, _At] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=typing.cast(typing.IO[bytes], _Bounded(file)), mode="r:") as tar:
            while True:
                at = tar.offset  # where the next headers begin, extended ones too
                member = tar.next()
                if member is None:
                    break
                tar.members = []  # type: ignore[attr-defined]
                _judge(member)
                if len(found) >= MOST_PARTS:
                    raise BackupProblem(f"it has more than {MOST_PARTS} parts", "It was not made by fluxedge backup.")
                found.pop(member.name, None)
                found[member.name] = (at, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as exc:
        raise BackupProblem(f"it cannot be read as a backup: {exc}", "Take another copy of it.") from exc
    return found


def usual(name: str) -> bool:
    """Tell whether a part may have this name: relative, nothing but text, not out of its folder."""
    whole = all(piece not in ("", ".", "..") for piece in name.split("/"))
    return whole and _NAME.fullmatch(name) is not None and name.isprintable()


def _judge(member: tarfile.TarInfo) -> None:
    """Refuse a part that no backup has."""
    name = member.name
    plain = (name in (FIRST, MANIFEST, DIGEST) or name.split("/")[0] in FOLDERS) and member.size >= 0
    if not plain or not usual(name) or not member.isreg() or member.issparse():
        raise BackupProblem(f"it holds {name[:200]!r}, which no backup does", "It was not made by fluxedge backup.")


def _check_digest(file: typing.BinaryIO, at: _At, progress: typing.Callable[[int], object]) -> None:
    """Compare the last part with the digest of everything before it, and see that nothing follows."""
    digest = hashlib.sha256()
    file.seek(0)
    left = at[0]
    while left:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            break
        digest.update(piece)
        left -= len(piece)
        progress(at[0] - left)
    file.seek(at[0])
    rest = file.read(at[2] + 2 * tarfile.RECORDSIZE)
    line = f"{digest.hexdigest()}\n".encode()
    wanted = _header(DIGEST, len(line)).tobuf(tarfile.PAX_FORMAT) + line
    ends = at[1] + 3 * tarfile.BLOCKSIZE  # the digest's block and two of zeros
    whole_bytes = -(-ends // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    if not rest.startswith(wanted) or rest[len(wanted) :].strip(b"\0") or file.seek(0, 2) != whole_bytes:
        raise BackupProblem("it is damaged: its digest does not fit", "Take another copy of it.")


def _decoded(file: typing.BinaryIO, at: _At, shape: type[typing.Any]) -> typing.Any:
    if at[2] > MOST_MANIFEST_BYTES:
        raise BackupProblem("its manifest is too large", "It was not made by fluxedge backup.")
    file.seek(at[1])
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(file.read(at[2]), type=shape)
    raise BackupProblem("its manifest cannot be read", "It was made by another version, or changed.")
