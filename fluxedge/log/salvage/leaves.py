"""The leaf pages of a SQLite file, taken apart by hand: what is left to do where SQLite itself cannot find its way.

    b-tree page, big-endian (SQLite, "Database File Format", 1.6); in page 1 behind 100 bytes of header
    0    1   type: 13 leaf of a table, 10 leaf and 2 interior page of an index or a table WITHOUT ROWID
    3    2   number of cells
    8        pointers to cells, 2 bytes each; an interior page has the 4 bytes of a page number before them
    cell of 13:      payload size | rowid | payload      (sizes and rowids are varints, 1 to 9 bytes)
    cell of 10:      payload size | payload
    cell of 2:       4 bytes of a page number | payload size | payload
    A payload that is too long for its page goes on in a chain of pages: 4 bytes number of the next one | content.
    payload = record: header size | a type for each column | columns      (1.6 and 2.1 of the same document)

Nothing is believed: a page may be of a table that was dropped, or half written. Callers check what they take.
"""

from __future__ import annotations

import os
import struct
import typing
from collections.abc import Iterator
from pathlib import Path

from fluxedge.log import wal

Column = int | float | str | bytes | None
Record = tuple[int | None, list[Column]]  # rowid (None: WITHOUT ROWID), columns

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 13, 10, 2
_KINDS = (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR)
_FILE_HEADER_BYTES = 100
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes of a column by its type below 12
_LONGEST_BYTES = 64 * 2**20  # of a record: a batch is about 1 MiB


class Pages:
    """The pages of a database as its WAL leaves them, or as they are in the file alone."""

    def __init__(self, path: Path, page_bytes: int, *, with_wal: bool) -> None:
        """Open the file; the page size of its header holds where that is one.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = path.open("rb")
        head = _pread(self._file.fileno(), _FILE_HEADER_BYTES, 0)
        said = struct.unpack_from(">H", head.ljust(18, b"\0"), 16)[0] if head[:15] == b"SQLite format 3" else 0
        self.page_bytes = said if said >= 512 and said & (said - 1) == 0 else page_bytes
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            self._frames = wal.frames(path, self.page_bytes) if with_wal else {}
            self._wal = open(f"{path}-wal", "rb") if self._frames else None  # noqa: SIM115
        except OSError:
            self._file.close()
            raise
        self.count = max(-(-self._size // self.page_bytes), max(self._frames, default=0))

    @property
    def has_wal(self) -> bool:
        """Tell whether some pages are newer in the WAL."""
        return bool(self._frames)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._wal is not None:
            self._wal.close()

    def page(self, number: int) -> bytes:
        """Return a page; empty where there is none, or where the disk does not give it."""
        at = self._frames.get(number)
        if at is not None and self._wal is not None:
            return _pread(self._wal.fileno(), self.page_bytes, at)
        if number < 1 or number > self.count:
            return b""
        return _pread(self._file.fileno(), self.page_bytes, (number - 1) * self.page_bytes)

    def records(self, first: int, last: int) -> Iterator[Record]:
        """Iterate over the records in some pages; what cannot be taken apart is passed over."""
        last = min(last, self.count)
        content = self._stretch(first, last)
        kinds = content[:: self.page_bytes]
        for number in range(first, last + 1):
            start, index = (_FILE_HEADER_BYTES, 0) if number == 1 else (0, number - first)
            if number in self._frames:
                page = self.page(number)
            elif number > 1 and (index >= len(kinds) or kinds[index] not in _KINDS):
                continue
            else:
                page = content[index * self.page_bytes : (index + 1) * self.page_bytes]
            if len(page) == self.page_bytes and page[start] in _KINDS:
                yield from self._records_of(page, start)

    def _stretch(self, first: int, last: int) -> bytes:
        """Return some pages of the file; those that the disk does not give, or that are cut off, are zeros."""
        size = self.page_bytes
        content = _pread(self._file.fileno(), (last - first + 1) * size, (first - 1) * size)
        if len(content) == (last - first + 1) * size:
            return content
        return b"".join(
            _pread(self._file.fileno(), size, (number - 1) * size).ljust(size, b"\0")
            for number in range(first, last + 1)
        )

    def _records_of(self, page: bytes, start: int) -> Iterator[Record]:
        kind = page[start]
        (count,) = struct.unpack_from(">H", page, start + 3)
        pointers = start + (12 if kind == _INDEX_INTERIOR else 8)
        for index in range(min(count, (len(page) - pointers) // 2)):
            (at,) = struct.unpack_from(">H", page, pointers + 2 * index)
            try:
                yield self._record(page, at, kind)
            except (IndexError, ValueError, struct.error):
                continue

    def _record(self, page: bytes, at: int, kind: int) -> Record:
        if kind == _INDEX_INTERIOR:
            at += 4
        size, at = varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = varint(page, at)
        if size > _LONGEST_BYTES:
            raise ValueError(f"a record of {size} bytes")
        local = self._local_bytes(size, kind)
        payload = page[at : at + local]
        if local < size:
            (following,) = struct.unpack_from(">I", page, at + local)
            payload += self._chain(following, size - local)
        if len(payload) != size:
            raise ValueError("cut short")
        return rowid, columns(payload)

    def _local_bytes(self, size: int, kind: int) -> int:
        """Return how much of a payload is in its own page (1.6, "the amount of payload")."""
        usable = self.page_bytes
        most = usable - 35 if kind == _TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        if size <= most:
            return size
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        return local if local <= most else least

    def _chain(self, number: int, size: int) -> bytes:
        parts = []
        for _ in range(-(-size // (self.page_bytes - 4))):
            page = self.page(number)
            if len(page) < self.page_bytes:
                raise ValueError("its chain ends")
            parts.append(page[4 : 4 + size])
            size -= len(parts[-1])
            (number,) = struct.unpack_from(">I", page)
        return b"".join(parts)


def _pread(file: int, size: int, at: int) -> bytes:
    """Read from a file; nothing where the disk does not give it."""
    try:
        return os.pread(file, size, at)
    except OSError:
        return b""


def varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a number of 1 to 9 bytes, and where it ends."""
    value = 0
    for index in range(8):
        byte = page[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    value = value << 8 | page[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


def columns(payload: bytes) -> list[Column]:
    """Return the columns of a record.

    Raises:
        ValueError, IndexError, struct.error: it is none.
    """
    end, at = varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = varint(payload, at)
        kinds.append(kind)
    values = []
    for kind in kinds:
        if kind in (10, 11) or kind < 0:
            raise ValueError(f"a column of type {kind}")
        size = _SIZES[kind] if kind < 12 else (kind - 12) // 2
        values.append(_column(kind, payload[at : at + size], size))
        at += size
    if at != len(payload):
        raise ValueError("columns and payload differ in size")
    return values


def _column(kind: int, content: bytes, size: int) -> Column:
    if len(content) != size:
        raise ValueError("cut short")
    if kind == 0:
        return None
    if kind in (8, 9):
        return kind - 8
    if kind == 7:
        return typing.cast(float, struct.unpack(">d", content)[0])
    if kind < 7:
        return int.from_bytes(content, "big", signed=True)
    return content if kind % 2 == 0 else content.decode("utf-8")
