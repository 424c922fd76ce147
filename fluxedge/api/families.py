"""FAMILIES: every metric. docs/metrics.md explains each (a test holds that)."""

from __future__ import annotations

import os
import resource
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from fluxedge import __version__
from fluxedge.api.metrics import Family, Sample, Sources
from fluxedge.api.uplinks import autonomy_h, behind_records
from fluxedge.api.view import CountersView, DeviceView, FiguresView, HistogramView, StreamView, TallyView, tally_of
from fluxedge.model import Lane
from fluxedge.spi import FlashView

_DEVICE_STATES = ("ok", "offline", "waiting")


def _one(number: Callable[[Sources], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({}, number(sources))]


def _devices(number: Callable[[DeviceView], float]) -> Callable[[Sources], Iterable[Sample]]:
    def samples(sources: Sources) -> Iterator[Sample]:
        for channel, poller in sources.view.pollers.items():
            for name, device in poller.devices.items():
                yield {"channel": channel, "device": name}, number(device)

    return samples


def _uplinks(number: Callable[[CountersView], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda s: [({"uplink": name}, number(f.counters)) for name, f in s.view.forwarders.items()]


def _history(number: Callable[[FiguresView], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({}, number(sources.view.compaction.figures))]


def _streams(number: Callable[[StreamView], float | HistogramView]) -> Callable[[Sources], Iterable[Sample]]:
    def samples(sources: Sources) -> Iterator[Sample]:
        for name, forwarder in sources.view.forwarders.items():
            yield {"uplink": name, "stream": "live"}, number(forwarder.counters.live)
            yield {"uplink": name, "stream": "backlog"}, number(forwarder.counters.backlog)

    return samples


def _lanes(number: Callable[[Sources, Lane], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda sources: [({"lane": lane.label}, number(sources, lane)) for lane in Lane]


def _wires(number: Callable[[TallyView], float]) -> Callable[[Sources], Iterable[Sample]]:
    def samples(sources: Sources) -> Iterator[Sample]:
        for name, poller in sources.view.pollers.items():
            if (tally := tally_of(poller)) is not None:
                yield {"channel": name}, number(tally)

    return samples


def _channel_bytes(sources: Sources) -> Iterator[Sample]:
    for name, poller in sources.view.pollers.items():
        if (tally := tally_of(poller)) is not None:
            yield {"channel": name, "direction": "sent"}, tally.sent_bytes
            yield {"channel": name, "direction": "received"}, tally.received_bytes


def _behind(sources: Sources) -> Iterator[Sample]:
    for name, cfg in sources.view.config.uplinks.items():
        if name in sources.view.forwarders:
            for lane in cfg.lanes:
                yield {"uplink": name, "lane": lane}, behind_records(sources.view, name, Lane[lane.upper()])


def _autonomy(sources: Sources) -> Iterator[Sample]:
    for name in sources.view.forwarders:
        if (left_h := autonomy_h(sources.view, sources.sampler, name)) is not None:
            yield {"uplink": name}, left_h * 3600


def _device_states(sources: Sources) -> Iterable[Sample]:
    found = Counter(d.state for poller in sources.view.pollers.values() for d in poller.devices.values())
    return [({"state": state}, found[state]) for state in _DEVICE_STATES]


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

FAMILIES: tuple[Family, ...] = (
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
    Family("fluxedge_problems", _G, "Problems that stand, by code.", _problems),
    Family("fluxedge_problem_occurrences", _C, "Occurrences of problems since the start, by code.", _raised),
    Family("fluxedge_devices", _G, "Devices by state.", _device_states),
    Family("fluxedge_device_reads", _C, "Reads of a device's groups.", _devices(lambda d: d.reads)),
    Family("fluxedge_device_silent_reads", _C, "Reads without an answer.", _devices(lambda d: d.silent)),
    Family(
        "fluxedge_device_exceptions", _C, "Reads that were answered by an exception.", _devices(lambda d: d.exceptions)
    ),
    Family("fluxedge_device_overruns", _C, "Periods that passed unread.", _devices(lambda d: d.overruns)),
    Family("fluxedge_device_latency_seconds", _G, "Duration of the latest read.", _devices(lambda d: d.latency_s)),
    Family(
        "fluxedge_channel_opens",
        _C,
        "How often a channel was opened.",
        lambda s: [({"channel": c}, p.state.opens) for c, p in s.view.pollers.items()],
    ),
    Family(
        "fluxedge_channel_busy_seconds",
        _C,
        "Time a channel spent in exchanges.",
        lambda s: [({"channel": c}, p.state.busy_s) for c, p in s.view.pollers.items()],
    ),
    Family("fluxedge_channel_bytes", _C, "Bytes on a channel's wire.", _channel_bytes),
    Family(
        "fluxedge_channel_dropped_bytes",
        _C,
        "Bytes that were received, but are no part of an answer.",
        _wires(lambda t: t.dropped_bytes),
    ),
    Family("fluxedge_channel_timeouts", _C, "Requests without an answer in time.", _wires(lambda t: t.timeouts)),
    Family(
        "fluxedge_channel_suspect_answers",
        _C,
        "Answers that could have been late ones; their values are UNCERTAIN.",
        _wires(lambda t: t.suspects),
    ),
    Family(
        "fluxedge_uplink_connected",
        _G,
        "1 while an uplink is connected.",
        lambda s: [({"uplink": u}, int(f.connected_since_ns > 0)) for u, f in s.view.forwarders.items()],
    ),
    Family("fluxedge_uplink_messages", _C, "Messages acknowledged upstream.", _uplinks(lambda c: c.messages)),
    Family("fluxedge_uplink_records", _C, "Records acknowledged upstream.", _uplinks(lambda c: c.records)),
    Family("fluxedge_uplink_points", _C, "Points acknowledged upstream.", _uplinks(lambda c: c.points)),
    Family("fluxedge_uplink_payload_bytes", _C, "Payload acknowledged upstream.", _uplinks(lambda c: c.payload_bytes)),
    Family("fluxedge_uplink_refused_records", _C, "Records that went into quarantine.", _uplinks(lambda c: c.refused)),
    Family("fluxedge_uplink_sessions", _C, "Connections made.", _uplinks(lambda c: c.sessions)),
    Family(
        "fluxedge_uplink_ack_latency_seconds",
        _G,
        "Of the latest message: its oldest record's stamp to its acknowledgement.",
        _uplinks(lambda c: c.ack_latency_ns / 1e9),
    ),
    Family(
        "fluxedge_uplink_delivery_seconds",
        "histogram",
        "From commit to acknowledgement; of the backlog, from its oldest record's stamp.",
        _streams(lambda s: s.delivery),
    ),
    Family(
        "fluxedge_uplink_stream_records", _C, "Records acknowledged upstream, by stream.", _streams(lambda s: s.records)
    ),
    Family(
        "fluxedge_uplink_stream_payload_bytes",
        _C,
        "Payload acknowledged upstream, by stream.",
        _streams(lambda s: s.payload_bytes),
    ),
    Family(
        "fluxedge_uplink_backlog_budget_bytes",
        _G,
        "What a backlog may take in a second at present; 0 while there is none.",
        _uplinks(lambda c: c.budget_bytes),
    ),
    Family("fluxedge_uplink_behind_records", _G, "Records that wait for an acknowledgement.", _behind),
    Family(
        "fluxedge_uplink_autonomy_seconds",
        _G,
        "For how long the log can wait for an uplink, growing as in the last ten minutes.",
        _autonomy,
    ),
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
