"""Metrics of the uplinks."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator

from fluxedge.api.metrics import Family, Sample, Sources
from fluxedge.api.uplinks import autonomy_h, behind_records
from fluxedge.api.view import CountersView, HistogramView, StreamView
from fluxedge.model import Lane


def _uplinks(number: Callable[[CountersView], float]) -> Callable[[Sources], Iterable[Sample]]:
    return lambda s: [({"uplink": name}, number(f.counters)) for name, f in s.view.forwarders.items()]


def _streams(number: Callable[[StreamView], float | HistogramView]) -> Callable[[Sources], Iterable[Sample]]:
    def samples(sources: Sources) -> Iterator[Sample]:
        for name, forwarder in sources.view.forwarders.items():
            yield {"uplink": name, "stream": "live"}, number(forwarder.counters.live)
            yield {"uplink": name, "stream": "backlog"}, number(forwarder.counters.backlog)

    return samples


def _behind(sources: Sources) -> Iterator[Sample]:
    for name, cfg in sources.view.config.uplinks.items():
        if name in sources.view.forwarders:
            for lane in cfg.lanes:
                yield {"uplink": name, "lane": lane}, behind_records(sources.view, name, Lane[lane.upper()])


def _autonomy(sources: Sources) -> Iterator[Sample]:
    for name in sources.view.forwarders:
        if (left_h := autonomy_h(sources.view, sources.sampler, name)) is not None:
            yield {"uplink": name}, left_h * 3600


_G: typing.Literal["gauge"] = "gauge"
_C: typing.Literal["counter"] = "counter"

UPLINKS: tuple[Family, ...] = (
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
)
