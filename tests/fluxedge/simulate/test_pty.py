"""The cable without hardware."""

from __future__ import annotations

import asyncio
import os

import pytest

from fluxedge.simulate import PtyPair


async def received(fd: int) -> bytes:
    for _ in range(100):
        try:
            return os.read(fd, 100)
        except BlockingIOError:
            await asyncio.sleep(0.005)
    return b""


async def test_bytes_pass_unchanged_in_both_directions() -> None:
    pair = PtyPair()
    ends = [os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK) for path in pair.ends]
    body = bytes(range(90))  # control characters and line ends included
    for sender, receiver in (ends, ends[::-1]):
        os.write(sender, body)
        assert await received(receiver) == body
    for fd in ends:
        os.close(fd)
    pair.close()


async def test_an_unplugged_cable_is_gone() -> None:
    pair = PtyPair()
    path = pair.ends[0]
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    pair.close()
    with pytest.raises(OSError, match="Input/output error"):
        os.write(fd, b"x")
    os.close(fd)
