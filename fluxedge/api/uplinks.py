"""How far each uplink is behind, and for how long the log can wait for it."""

from __future__ import annotations

import typing

from fluxedge.api import autonomy
from fluxedge.api.answers import LaneBehind, UplinkAnswer
from fluxedge.api.lag import Sampler
from fluxedge.api.view import GatewayView
from fluxedge.log.body import DamagedBody, Row, records
from fluxedge.log.losses import lost_records
from fluxedge.log.ranges import RangeSet
from fluxedge.log.retention import free_bytes
from fluxedge.model import OPEN_END, Group, Lane
from fluxedge.problems import LinkProblem


async def answers(view: GatewayView, sampler: Sampler) -> list[UplinkAnswer]:
    """Return every configured uplink."""
    if not view.forwarders:
        return []
    try:
        lost = await lost_records(view.log.path)
    except LinkProblem:  # not known; the log's own problem stands already
        lost = None
    return [await _answer(view, sampler, name, lost) for name in sorted(view.forwarders)]


def behind_records(view: GatewayView, uplink: str, lane: Lane) -> int:
    """Return how many records of a lane wait for an uplink's acknowledgement."""
    log = view.log
    return sum(
        ranges.count_upto(log.heads[lane] if epoch == log.epoch else OPEN_END - 1)
        for epoch, ranges in log.cursors.of(uplink, lane)
    )


async def _answer(view: GatewayView, sampler: Sampler, name: str, lost: dict[str, int] | None) -> UplinkAnswer:
    forwarder = view.forwarders[name]
    counters = forwarder.counters
    cfg = view.config.uplinks[name]
    lanes = [
        LaneBehind(
            lane=lane.label,
            records=behind_records(view, name, lane),
            oldest_us=await oldest_us(view, name, lane),
        )
        for lane in (Lane[label.upper()] for label in cfg.lanes)
    ]
    return UplinkAnswer(
        id=name,
        url=cfg.urls,
        state="connected" if forwarder.connected_since_ns else "down",
        connected_since_us=view.utc_of(forwarder.connected_since_ns) // 1000,
        down_since_us=view.utc_of(forwarder.down_since_ns) // 1000,
        lanes=lanes,
        messages=counters.messages,
        records=counters.records,
        points=counters.points,
        bytes=counters.payload_bytes,
        sessions=counters.sessions,
        refused=counters.refused,
        gap_records=None if lost is None else lost.get(name, 0),
        last_ack_us=view.utc_of(counters.last_ack_ns) // 1000,
        ack_latency_ms=round(counters.ack_latency_ns / 1e6, 1),
        autonomy_h=autonomy_h(view, sampler, name),
    )


async def oldest_us(view: GatewayView, uplink: str, lane: Lane) -> int:
    """Return the stamp of the oldest record that waits; it is read from the log on the reader's thread."""
    log = view.log
    for epoch, ranges in log.cursors.of(uplink, lane):
        stretch = ranges.first_from(log.first_seq(epoch, lane))
        if stretch is None or (epoch == log.epoch and stretch[0] > log.heads[lane]):
            continue
        lo = stretch[0]

        def first_stamp(rows: list[Row], groups: typing.Mapping[int, Group], lo: int = lo) -> int:
            try:
                return next((record.body.at_ns for row in rows for record in records(row, groups, lo)), 0)
            except DamagedBody:
                return 0

        try:
            stamp_ns = await log.read(epoch, lane, lo, 1, first_stamp)
        except LinkProblem:  # this part is damaged
            continue
        if stamp_ns:
            return stamp_ns // 1000
    return 0


def waiting(view: GatewayView, uplink: str, lane: Lane) -> list[tuple[int, RangeSet]]:
    """Return (epoch, ranges) of the records that wait for an uplink in a lane, oldest epoch first."""
    log = view.log
    found = [
        (epoch, autonomy.upto(ranges, log.heads[lane] if epoch == log.epoch else OPEN_END))
        for epoch, ranges in log.cursors.of(uplink, lane)
    ]
    return [(epoch, ranges) for epoch, ranges in found if ranges]


def part(view: GatewayView, lane: Lane, waits: list[tuple[int, RangeSet]]) -> autonomy.Part:
    """Return what `waiting` means in bytes."""
    return autonomy.part(view.log.segments(), lane, waits)


def autonomy_h(view: GatewayView, sampler: Sampler, uplink: str) -> float | None:
    """Return for how many hours the log can wait for an uplink; None = not known."""
    log = view.log
    if not log.is_durable(log.epoch):  # how long memory lasts is not how long the log does
        return None
    free = free_bytes(log.path.parent)
    space = autonomy.Space(log.usage.used_bytes, log.usage.spare_bytes, free, sampler.log_bytes.per_s)
    lanes = [Lane[label.upper()] for label in view.config.uplinks[uplink].lanes]
    waits = {lane: waiting(view, uplink, lane) for lane in lanes}
    return autonomy.hours(view.config.log, space, log.segments(), waits, view.clock.wall_ns())
