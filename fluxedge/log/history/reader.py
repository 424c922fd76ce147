"""The history reader: a child that answers questions about the history, off the gateway's loop and its GIL.

    python -m fluxedge.log.history.reader STATE

    stdin     a line of JSON each: query.Question
    stdout    frames: kind (1 byte), length (4, big-endian), payload
                  D   lines of an answer                 E   the answer is whole; no payload
                  X   no answer: JSON {"code", "text"}

One question at a time, in their order. It ends with its standard input; whoever wants an answer no more kills it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import sys
import typing
from pathlib import Path

import msgspec

from fluxedge.log.history.query import Question, Reading, Refused

FRAME = struct.Struct(">cI")
DATA, END, NONE = b"D", b"E", b"X"
NICE = 10  # polling and committing go first
MEMORY_BYTES = 1 << 30  # of address space: a defect here must not take the machine's memory
_STDOUT = 1


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    code: str  # "not-found", "not-available"
    text: str


class Answerer:
    """Answer questions about one state directory."""

    def __init__(self, state_dir: Path, write: typing.Callable[[bytes], object]) -> None:
        self._state_dir = state_dir
        self._write = write
        self._reading: Reading | None = None

    def answer(self, line: bytes) -> None:
        """Answer one question, as it came in."""
        try:
            asked = msgspec.json.decode(line, type=Question)
            for lines in self._open().answer(asked):
                self._frame(DATA, lines)
            self._frame(END, b"")
        except Refused as refused:
            self._frame(NONE, msgspec.json.encode(Refusal(refused.code, str(refused))))
        except MemoryError:
            self.close()
            text = "the answer takes more memory than a query may have; ask for less time or fewer points"
            self._frame(NONE, msgspec.json.encode(Refusal("not-available", text)))

    def _open(self) -> Reading:
        """Return the open log and history; a log that was replaced is opened anew."""
        if self._reading is None or not self._reading.current:
            self.close()
            self._reading = Reading(self._state_dir)
        return self._reading

    def close(self) -> None:
        """Close all files."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _frame(self, kind: bytes, payload: bytes) -> None:
        self._write(FRAME.pack(kind, len(payload)) + payload)


def write_all(data: bytes) -> None:
    """Write to the standard output (blocking)."""
    view = memoryview(data)
    while view:
        view = view[os.write(_STDOUT, view) :]


def main() -> None:
    """Answer until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gateway ends us
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answerer = Answerer(Path(sys.argv[1]), write_all)
    try:
        for line in sys.stdin.buffer:
            answerer.answer(line)
    except BrokenPipeError:
        pass  # nobody wants to know any more
    finally:
        answerer.close()


if __name__ == "__main__":
    main()
