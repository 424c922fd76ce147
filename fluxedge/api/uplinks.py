"""How far each uplink is behind, and for how long the log can wait for it."""

from __future__ import annotations

import typing

from fluxedge.api import standing
from fluxedge.api.answers import LaneBehind, LogAnswer, UplinkAnswer
from fluxedge.api.lag import Sampler
from fluxedge.api.view import GatewayView
from fluxedge.log.body import DamagedBody, Row, records
from fluxedge.log.losses import lost_records
from fluxedge.model import OPEN_END, Group, Lane
from fluxedge.problems import LinkProblem

_DISK_FACTOR = 1.25  # bytes on the disk per byte of bodies while too little is stored to measure; a guess
_ENOUGH_BYTES = 1 << 20  # of bodies, to measure it


async def answers(view: GatewayView, sampler: Sampler) -> list[UplinkAnswer]:
    """Return every configured uplink."""
    held = standing.log(view, sampler)
    if not view.forwarders:
        return []
    try:
        lost = await lost_records(view.log.path)
    except LinkProblem:  # not known; the log's own problem stands already
        lost = None
    return [await _answer(view, name, held, lost) for name in sorted(view.forwarders)]


def behind_records(view: GatewayView, uplink: str, lane: Lane) -> int:
    """Return how many records of a lane wait for an uplink's acknowledgement."""
    log = view.log
    return sum(
        ranges.count_upto(log.heads[lane] if epoch == log.epoch else OPEN_END - 1)
        for epoch, ranges in log.cursors.of(uplink, lane)
    )


async def _answer(view: GatewayView, name: str, held: LogAnswer, lost: dict[str, int] | None) -> UplinkAnswer:
    forwarder = view.forwarders[name]
    counters = forwarder.counters
    cfg = view.config.uplinks[name]
    lanes = [
        LaneBehind(
            lane=lane.label,
            records=behind_records(view, name, lane),
            oldest_us=await _oldest_us(view, name, lane),
        )
        for lane in (Lane[label.upper()] for label in cfg.lanes)
    ]
    return UplinkAnswer(
        id=name,
        url=cfg.urls,
        state="connected" if forwarder.connected_since_ns else "down",
        connected_since_us=forwarder.connected_since_ns // 1000,
        lanes=lanes,
        messages=counters.messages,
        records=counters.records,
        points=counters.points,
        bytes=counters.payload_bytes,
        sessions=counters.sessions,
        refused=counters.refused,
        gap_records=None if lost is None else lost.get(name, 0),
        last_ack_us=counters.last_ack_ns // 1000,
        ack_latency_ms=round(counters.ack_latency_ns / 1e6, 1),
        autonomy_h=autonomy_h(view, held, lanes),
    )


async def _oldest_us(view: GatewayView, uplink: str, lane: Lane) -> int:
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


def autonomy_h(view: GatewayView, held: LogAnswer, lanes: list[LaneBehind]) -> float | None:
    """Return the hours until the log, at its present growth, has to drop what this uplink has not had.

    Segments that are delivered go first: the whole cap is there for what is not. The age limit ends it too.
    """
    bodies = sum(lane.bytes for lane in held.lanes)
    if not held.bytes_per_s or not bodies:
        return None
    factor = max(1.0, held.used_bytes / bodies) if bodies > _ENOUGH_BYTES else _DISK_FACTOR
    room = held.used_bytes + max(0, held.free_bytes - int(view.config.log.free_space_bytes))
    capacity = min(held.cap_bytes, room)
    of_lane = {lane.lane: lane for lane in held.lanes}
    waiting = sum(lane.records * of_lane[lane.lane].bytes / max(1, of_lane[lane.lane].records) for lane in lanes)
    by_bytes_s = (capacity - waiting * factor) / (held.bytes_per_s * factor)
    oldest_us = min((lane.oldest_us for lane in lanes if lane.oldest_us and lane.lane == "rounds"), default=0)
    age_s = view.clock.wall_ns() / 1e9 - oldest_us / 1e6 if oldest_us else 0.0
    return round(max(0.0, min(by_bytes_s, float(view.config.log.keep_s) - age_s)) / 3600, 1)
