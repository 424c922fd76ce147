"""Metrics of the log, its history, and the flash that holds both."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator

from fluxedge.api.metrics import Family, Sample, Sources
from fluxedge.api.view import FiguresView
from fluxedge.model import Lane
from fluxedge.spi import FlashView


def _one(number: Callable[[Sources], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({}, number(sources))]


def _history(number: Callable[[FiguresView], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({}, number(sources.view.compaction.figures))]


def _lanes(number: Callable[[Sources, Lane], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({"lane": lane.label}, number(sources, lane)) for lane in Lane]


def _known(number: Callable[[FlashView], float | None]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda s: [] if (found := number(s.view.flash)) is None else [({}, found)]


def _each(gateway: float | None, device: float | None) -> Iterator[Sample]:
    for name, found in (("gateway", gateway), ("device", device)):
        if found is not None:
            yield {"of": name}, found


def _written(sources: Sources) -> Iterator[Sample]:
    return _each(sources.view.flash.gateway_bytes, sources.view.flash.device_bytes)


def _pace(sources: Sources) -> Iterator[Sample]:
    return _each(sources.view.flash.bytes_per_day, sources.view.flash.device_bytes_per_day)


_G: typing.Literal["gauge"] = "gauge"
_C: typing.Literal["counter"] = "counter"

LOG: tuple[Family, ...] = (
    Family("fluxedge_commits", _C, "Commits of the log.", _one(lambda s: s.view.log.commits)),
    Family(
        "fluxedge_commit_failures",
        _C,
        "Commits that failed and were tried again.",
        _one(lambda s: s.view.pipeline.commit_failures_total),
    ),
    Family(
        "fluxedge_log_stored_bytes",
        _C,
        "Bodies written to the log since the start.",
        _one(lambda s: s.view.log.stored_bytes),
    ),
    Family(
        "fluxedge_log_used_bytes",
        _G,
        "Bytes of the log on the disk, everything included.",
        _one(lambda s: s.view.log.used_bytes),
    ),
    Family("fluxedge_flash_written_bytes", _C, "Bytes that were written.", _written),
    Family(
        "fluxedge_flash_lifetime_bytes",
        _G,
        "Bytes written to the device that holds the log, since fluxedge knows it.",
        _known(lambda f: f.lifetime_bytes),
    ),
    Family(
        "fluxedge_flash_bytes_per_point",
        _G,
        "What the gateway writes for a stored point, in the last 24 hours.",
        _known(lambda f: f.bytes_per_point),
    ),
    Family("fluxedge_flash_bytes_per_day", _G, "Bytes written in a day, at the pace of the last 24 hours.", _pace),
    Family(
        "fluxedge_flash_used_ratio",
        _G,
        "How much of its life the device has used.",
        _known(lambda f: None if f.used_percent is None else f.used_percent / 100),
    ),
    Family(
        "fluxedge_flash_life_days",
        _G,
        "In how many days the device's endurance is used up, at this pace.",
        _known(lambda f: f.life_days),
    ),
    Family(
        "fluxedge_log_memory_bytes",
        _G,
        "Bytes of records that are in memory only, because the disk takes nothing.",
        _one(lambda s: s.view.log.memory_bytes),
    ),
    Family(
        "fluxedge_log_history_lost_rounds",
        _C,
        "Rounds that were dropped before they were in the history files.",
        _one(lambda s: s.view.log.unkept_rounds),
    ),
    Family(
        "fluxedge_log_head",
        _G,
        "Last seq of each lane in the present epoch.",
        _lanes(lambda s, lane: s.view.log.heads[lane]),
    ),
    Family("fluxedge_log_epoch", _G, "The present epoch.", _one(lambda s: s.view.log.epoch)),
    Family(
        "fluxedge_history_used_bytes",
        _G,
        "Bytes of the history files on the disk, everything included.",
        _history(lambda f: f.used_bytes),
    ),
    Family("fluxedge_history_days", _G, "Days that have a history file.", _history(lambda f: f.days)),
    Family(
        "fluxedge_history_points",
        _C,
        "Points copied to the history since the start.",
        _history(lambda f: f.points_total),
    ),
    Family(
        "fluxedge_history_skipped_rows",
        _C,
        "Damaged rows of the log that could not be copied.",
        _history(lambda f: f.skipped_rows_total),
    ),
    Family(
        "fluxedge_history_removed_days",
        _C,
        "Days that were removed for their age or for room.",
        _history(lambda f: f.removed_days_total),
    ),
    Family(
        "fluxedge_history_last_run_timestamp_seconds",
        _G,
        "When compaction last did everything, UTC; 0 = not since the start.",
        _history(lambda f: f.last_run_ns / 1e9),
    ),
    Family(
        "fluxedge_history_last_run_duration_seconds",
        _G,
        "How long that took.",
        _history(lambda f: f.last_run_s),
    ),
)
