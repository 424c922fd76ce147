"""How long the log can wait for an uplink; what a running one shows is in test_handlers."""

from __future__ import annotations

import typing
from types import SimpleNamespace

from fluxedge.api.answers import LaneBehind, LaneHeld, LogAnswer
from fluxedge.api.uplinks import autonomy_h
from fluxedge.api.view import GatewayView
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import Config, LogCfg

NOW_US = 1_800_000_000 * 10**6
GIB = 1 << 30


def hours(behind: int, *, oldest_us: int = NOW_US, free_bytes: int = 100 * GIB, per_s: float = 1024.0) -> float | None:
    """Return the autonomy of a log of 4 GiB and 30 days that holds 1 GiB of a million rounds, as much on the disk."""
    cfg = LogCfg(backlog_bytes=Bytes(4 * GIB), keep_s=Seconds(30 * 86400.0), free_space_bytes=Bytes(GIB))
    clock = SimpleNamespace(wall_ns=lambda: NOW_US * 1000)
    view = typing.cast(GatewayView, SimpleNamespace(config=Config(log=cfg), clock=clock))
    held = LaneHeld(lane="rounds", records=10**6, head=10**6, oldest_us=oldest_us, bytes=GIB)
    log = LogAnswer(
        epoch=1, used_bytes=GIB, cap_bytes=4 * GIB, free_bytes=free_bytes, lanes=[held], commits=1, bytes_per_s=per_s
    )
    return autonomy_h(view, log, [LaneBehind(lane="rounds", records=behind, oldest_us=oldest_us if behind else 0)])


def test_a_log_that_does_not_grow_says_nothing_about_its_end() -> None:
    assert hours(0, per_s=0.0) is None


def test_the_age_limit_ends_it_when_there_is_room_enough() -> None:
    assert hours(0) == 30 * 24
    assert hours(1, oldest_us=NOW_US - 10 * 86400 * 10**6) == 20 * 24


def test_delivered_records_make_room_and_waiting_ones_do_not() -> None:
    fast = 1024.0 * 1024
    assert hours(0, per_s=fast) == round(4 * GIB / fast / 3600, 1)
    assert hours(10**6, per_s=fast) == round(3 * GIB / fast / 3600, 1)


def test_a_disk_that_others_fill_ends_it_before_the_cap() -> None:
    fast = 1024.0 * 1024
    assert hours(10**6, per_s=fast, free_bytes=2 * GIB) == round(GIB / fast / 3600, 1)
    assert hours(10**6, per_s=fast, free_bytes=0) == 0.0
