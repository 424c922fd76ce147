"""FAMILIES: every metric. docs/metrics.md explains each (a test holds that)."""

from __future__ import annotations

import os
import resource
import typing
from collections import Counter
from collections.abc import Callable, Iterable

from fluxedge import __version__
from fluxedge.api.families_log import LOG
from fluxedge.api.families_uplinks import UPLINKS
from fluxedge.api.families_wires import WIRES
from fluxedge.api.metrics import Family, Sample, Sources


def _one(number: Callable[[Sources], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({}, number(sources))]


def _problems(sources: Sources) -> Iterable[Sample]:
    return [({"code": code}, n) for code, n in sorted(Counter(s.code for s in sources.view.problems).items())]


def _raised(sources: Sources) -> Iterable[Sample]:
    return [({"code": code}, n) for code, n in sources.view.problems.raised_total.items() if n]


def _resident_bytes() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu(sources: Sources) -> Iterable[Sample]:
    found = {"self": resource.RUSAGE_SELF, "children": resource.RUSAGE_CHILDREN}
    usage = {name: resource.getrusage(who) for name, who in found.items()}
    return [({"of": name}, used.ru_utime + used.ru_stime) for name, used in usage.items()]


_G: typing.Literal["gauge"] = "gauge"
_C: typing.Literal["counter"] = "counter"

_GATEWAY: tuple[Family, ...] = (
    Family(
        "fluxedge", "info", "Which gateway this is.", lambda s: [({"gateway": s.view.id, "version": __version__}, 1)]
    ),
    Family(
        "fluxedge_start_time_seconds", _G, "When the gateway was started, UTC.", _one(lambda s: s.view.started_ns / 1e9)
    ),
    Family("fluxedge_points", _C, "Points that entered the road.", _one(lambda s: s.view.pipeline.points_total)),
    Family("fluxedge_rounds", _C, "Rounds that entered the road.", _one(lambda s: s.view.pipeline.rounds_total)),
    Family("fluxedge_events", _C, "Events that entered the road.", _one(lambda s: s.view.pipeline.events_total)),
    Family(
        "fluxedge_dropped_rounds",
        _C,
        "Rounds that could not be stored at all: a protocol's defect.",
        _one(lambda s: s.view.pipeline.dropped_rounds_total),
    ),
    Family(
        "fluxedge_dropped_events",
        _C,
        "Events for which there was no room, because nothing could be written for too long.",
        _one(lambda s: s.view.pipeline.dropped_events_total),
    ),
    Family(
        "fluxedge_queue_rounds", _G, "Rounds that wait for the pipeline.", _one(lambda s: len(s.view.pipeline.queue))
    ),
    Family(
        "fluxedge_queue_waits",
        _C,
        "How often a channel's poller waited for room in the queue.",
        lambda s: [({"channel": c}, n) for c, n in s.view.pipeline.queue.waited.items()],
    ),
    Family("fluxedge_problems", _G, "Problems that stand, by code.", _problems),
    Family("fluxedge_problem_occurrences", _C, "Occurrences of problems since the start, by code.", _raised),
    Family(
        "fluxedge_commands",
        _C,
        "Commands by what became of them.",
        lambda s: [({"state": k}, n) for k, n in s.view.commander.counts.items()],
    ),
    Family(
        "fluxedge_api_connections",
        _G,
        "Open connections of the API.",
        lambda s: [({"door": door.name}, door.open) for door in s.doors],
    ),
    Family(
        "fluxedge_api_refused_connections",
        _C,
        "Connections of the API that were closed at once, because too many were open.",
        lambda s: [({"door": door.name}, door.refused_total) for door in s.doors],
    ),
    Family("fluxedge_live_clients", _G, "Clients of the live stream.", _one(lambda s: len(s.live))),
    Family(
        "fluxedge_live_dropped_rounds",
        _C,
        "Rounds that slow clients of the live stream lost.",
        _one(lambda s: s.live.dropped_total),
    ),
    Family(
        "fluxedge_loop_lag_p99_seconds",
        _G,
        "How late the event loop was in the last minute, 99th percentile.",
        _one(lambda s: s.sampler.lag.p99_s),
    ),
    Family(
        "fluxedge_loop_lag_max_seconds",
        _G,
        "How late the event loop was in the last minute, worst.",
        _one(lambda s: s.sampler.lag.max_s),
    ),
    Family("fluxedge_cpu_seconds", _C, "CPU time of the gateway and of children that ended.", _cpu),
    Family(
        "fluxedge_resident_memory_bytes",
        _G,
        "Resident memory of the gateway's process.",
        _one(lambda s: _resident_bytes()),
    ),
)

FAMILIES: tuple[Family, ...] = (*_GATEWAY, *WIRES, *LOG, *UPLINKS)
