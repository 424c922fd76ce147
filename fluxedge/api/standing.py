"""How things stand: answers made from a running gateway."""

from __future__ import annotations

import platform
import typing
from collections import Counter

from fluxedge import __version__
from fluxedge.api.answers import (
    ChannelAnswer,
    DeviceAnswer,
    FlashAnswer,
    GatewayAnswer,
    LaneHeld,
    LogAnswer,
    LoopAnswer,
    ProblemAnswer,
    StatusAnswer,
    UplinkAnswer,
    VersionAnswer,
)
from fluxedge.api.lag import Sampler
from fluxedge.api.view import GatewayView, tally_of
from fluxedge.log.retention import free_bytes
from fluxedge.model import Lane

API_VERSION = "v1"


def version() -> VersionAnswer:
    """Return what runs."""
    return VersionAnswer(fluxedge=__version__, api=API_VERSION, python=platform.python_version())


def gateway(view: GatewayView) -> GatewayAnswer:
    """Return which gateway this is."""
    return GatewayAnswer(
        id=view.id,
        label=view.config.gateway.label,
        version=__version__,
        started_us=view.started_ns // 1000,
        epoch=view.log.epoch,
        boot=view.log.boot,
        clock_trusted=view.clock.trusted(),
        clock_stepped_us=view.clock_watch.stepped_at_ns // 1000,
        clock_step_us=view.clock_watch.step_ns // 1000,
    )


def problems(view: GatewayView) -> list[ProblemAnswer]:
    """Return what is wrong, oldest first."""
    return [
        ProblemAnswer(
            item=standing.item,
            code=standing.code,
            message=standing.message,
            hint=standing.hint,
            since_us=view.utc_of(standing.since_ns) // 1000,
            last_us=view.utc_of(standing.last_ns) // 1000,
            count=standing.count,
        )
        for standing in view.problems
    ]


def devices(view: GatewayView) -> list[DeviceAnswer]:
    """Return every configured device, by id."""
    running = {name: (poller_id, device) for poller_id, p in view.pollers.items() for name, device in p.devices.items()}
    found = []
    for name, cfg in sorted(view.config.devices.items()):
        poller_id, device = running.get(name, ("", None))
        protocol = view.protocols.get(name)
        state = device.state if device else "waiting" if cfg.enabled else "disabled"
        found.append(
            DeviceAnswer(
                id=name,
                label=cfg.label,
                driver=cfg.driver,
                protocol=view.config.drivers[cfg.driver].protocol,
                channel=cfg.channel or poller_id,
                state=typing.cast(typing.Literal["ok", "offline", "waiting", "disabled"], state),
                since_us=view.utc_of(device.since_ns) // 1000 if device else 0,
                last_answer_us=view.utc_of(device.last_answer_ns) // 1000 if device else 0,
                latency_ms=round(device.latency_s * 1000, 3) if device else 0.0,
                points=sum(len(group.points) for group in protocol.groups) if protocol else 0,
                reads=device.reads if device else 0,
                silent=device.silent if device else 0,
                exceptions=device.exceptions if device else 0,
                overruns=device.overruns if device else 0,
            )
        )
    return found


def channels(view: GatewayView) -> list[ChannelAnswer]:
    """Return every channel that has a poller, by id."""
    found = []
    for name, poller in sorted(view.pollers.items()):
        cfg = view.config.channels.get(name)
        tally = tally_of(poller)
        state = "none" if poller.channel is None else poller.state.state
        found.append(
            ChannelAnswer(
                id=name,
                label=cfg.label if cfg else "",
                url=cfg.url if cfg else "",
                state=typing.cast(typing.Literal["open", "closed", "none"], state),
                since_us=view.utc_of(poller.state.since_ns) // 1000,
                opens=poller.state.opens,
                busy_s=round(poller.state.busy_s, 3),
                sent_bytes=tally.sent_bytes if tally else 0,
                received_bytes=tally.received_bytes if tally else 0,
                dropped_bytes=tally.dropped_bytes if tally else 0,
                timeouts=tally.timeouts if tally else 0,
                suspects=tally.suspects if tally else 0,
                devices=sorted(poller.devices),
            )
        )
    return found


def log(view: GatewayView, sampler: Sampler) -> LogAnswer:
    """Return what the log holds."""
    held = view.log.segments()
    lanes = []
    for lane in Lane:
        mine = [segment for segment in held if segment.lane is lane and segment.last >= segment.first]
        lanes.append(
            LaneHeld(
                lane=lane.label,
                records=sum(segment.last - segment.first + 1 for segment in mine),
                head=view.log.heads[lane],
                oldest_us=min((segment.from_ns for segment in mine), default=0) // 1000,
                bytes=sum(segment.body_bytes for segment in mine),
            )
        )
    return LogAnswer(
        epoch=view.log.epoch,
        used_bytes=view.log.used_bytes,
        cap_bytes=int(view.config.log.backlog_bytes),
        free_bytes=free_bytes(view.log.path.parent),
        memory_bytes=view.log.memory_bytes,
        lanes=lanes,
        commits=view.log.commits,
        bytes_per_s=round(sampler.log_bytes.per_s, 1),
    )


def flash(view: GatewayView) -> FlashAnswer:
    """Return what the log costs its device."""
    return FlashAnswer(**{name: getattr(view.flash, name) for name in FlashAnswer.__struct_fields__})


def loop(sampler: Sampler) -> LoopAnswer:
    """Return how late the event loop is."""
    return LoopAnswer(lag_p99_ms=round(sampler.lag.p99_s * 1000, 2), lag_max_ms=round(sampler.lag.max_s * 1000, 2))


def dropped(view: GatewayView) -> dict[str, int]:
    """Return what was dropped since the start, without what was not; uplinks tell their gaps themselves."""
    tallies = [tally for poller in view.pollers.values() if (tally := tally_of(poller)) is not None]
    found = {
        "rounds": view.pipeline.dropped_rounds_total,
        "events": view.pipeline.dropped_events_total,
        "bytes": sum(tally.dropped_bytes for tally in tallies),
    }
    return {name: count for name, count in found.items() if count}


def status(view: GatewayView, sampler: Sampler, uplinks: list[UplinkAnswer]) -> StatusAnswer:
    """Return everything at a glance."""
    found = devices(view)
    return StatusAnswer(
        gateway=gateway(view),
        channels=dict(Counter(channel.state for channel in channels(view))),
        devices=dict(Counter(device.state for device in found)),
        points=sum(device.points for device in found),
        problems=problems(view),
        uplinks=uplinks,
        log=log(view, sampler),
        flash=flash(view),
        loop=loop(sampler),
        dropped=dropped(view),
        restart_needed=list(view.restart_needed),
    )
