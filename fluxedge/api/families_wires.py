"""Metrics of the devices and channels."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from fluxedge.api.metrics import Family, Sample, Sources
from fluxedge.api.view import DeviceView, TallyView, tally_of

_DEVICE_STATES = ("ok", "offline", "waiting")


def _devices(number: Callable[[DeviceView], float]) -> Callable[[Sources], Iterable[Sample]]:
    def samples(sources: Sources) -> Iterator[Sample]:
        for channel, poller in sources.view.pollers.items():
            for name, device in poller.devices.items():
                yield {"channel": channel, "device": name}, number(device)

    return samples


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


def _device_states(sources: Sources) -> Iterable[Sample]:
    found = Counter(d.state for poller in sources.view.pollers.values() for d in poller.devices.values())
    return [({"state": state}, found[state]) for state in _DEVICE_STATES]


_G: typing.Literal["gauge"] = "gauge"
_C: typing.Literal["counter"] = "counter"

WIRES: tuple[Family, ...] = (
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
)
