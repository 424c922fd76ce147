"""Fixtures of the log's tests: a clock, and logs that are closed behind a test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log import Log
from tests.fluxedge.log.fake_clock import FakeClock

OpenLog = Callable[..., Log]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def open_log(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OpenLog]:
    """Open the log in a state folder, closing the one before it there; small segments."""
    opened: dict[Path, Log] = {}

    def do(state: Path = tmp_path, **limits: float) -> Log:
        sizes = {"backlog_bytes": 1 << 30, "segment_bytes": 1 << 16, "free_space_bytes": 0}
        sizes |= {name: int(value) for name, value in limits.items() if name.endswith("_bytes")}
        times = {name: Seconds(value) for name, value in limits.items() if name.endswith("_s")}
        cfg = LogCfg(**{name: Bytes(value) for name, value in sizes.items()}, **times)
        log = Log(state, cfg, clock)
        opened[state] = log
        return log

    yield do
    for log in opened.values():
        with contextlib.suppress(ValueError, RuntimeError):
            await log.close()
