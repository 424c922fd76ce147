"""ROUTES: every path of the API. docs/api.md names each (a test holds that)."""

from __future__ import annotations

import typing

from aiohttp import web

from fluxedge.api import handlers, history, logs, openapi, queue, queue_changes, queue_export
from fluxedge.api.answers import (
    ChannelAnswer,
    DeviceAnswer,
    DropRequest,
    LiveRound,
    PointAnswer,
    PointAtAnswer,
    ProblemAnswer,
    QuarantineAnswer,
    QueueAnswer,
    QueueChange,
    ReloadAnswer,
    RetryRequest,
    StatusAnswer,
    UplinkAnswer,
    VersionAnswer,
)
from fluxedge.api.routes import EVENTS, JSON_LINES, OPENMETRICS, PREFIX, Ask, Param, Route, json_response
from fluxedge.permissions import COMMAND, CONFIGURE, READ

_DEVICE = Param("device", "only this device")
_MATCH = Param("match", "only points whose id matches this pattern: boiler.*, *.flow_temp")


async def get_openapi(ask: Ask) -> web.StreamResponse:
    return json_response(openapi.document(ROUTES, ask.parts.request_type, ask.parts.result_type))


ROUTES: tuple[Route, ...] = (
    Route("GET", f"{PREFIX}/version", READ, handlers.get_version, "What runs.", VersionAnswer),
    Route("GET", f"{PREFIX}/status", READ, handlers.get_status, "Everything at a glance.", StatusAnswer),
    Route(
        "GET",
        f"{PREFIX}/problems",
        READ,
        handlers.get_problems,
        "What is wrong right now, since when, and what to do.",
        list[ProblemAnswer],
    ),
    Route("GET", f"{PREFIX}/devices", READ, handlers.get_devices, "Devices and how they answer.", list[DeviceAnswer]),
    Route(
        "GET", f"{PREFIX}/channels", READ, handlers.get_channels, "Channels and what they carry.", list[ChannelAnswer]
    ),
    Route("GET", f"{PREFIX}/uplinks", READ, handlers.get_uplinks, "How far each uplink is behind.", list[UplinkAnswer]),
    Route(
        "GET",
        f"{PREFIX}/points",
        READ,
        handlers.get_points,
        "All points with their latest values.",
        list[PointAnswer],
        params=(_DEVICE, _MATCH),
        errors=("not-found",),
    ),
    Route(
        "GET",
        f"{PREFIX}/points/{{id}}",
        READ,
        handlers.get_point,
        "One point.",
        PointAnswer,
        params=(Param("id", "device.point", "path"),),
        errors=("not-found",),
    ),
    Route(
        "GET",
        f"{PREFIX}/live",
        READ,
        handlers.get_live,
        "Rounds as they are read, by server-sent events `round`; `dropped` says how many a slow client lost.",
        LiveRound,
        EVENTS,
        params=(_DEVICE, _MATCH),
        errors=("too-many",),
    ),
    Route(
        "GET",
        f"{PREFIX}/log",
        READ,
        logs.get_log,
        "Records of the log, one a line.",
        dict[str, typing.Any],
        JSON_LINES,
        params=logs.PARAMS,
        errors=("bad-request", "too-many", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/history",
        READ,
        history.get_history,
        "Samples of points, or what they did in stretches of time, one a line between a head and an end.",
        dict[str, typing.Any],
        JSON_LINES,
        params=history.PARAMS,
        errors=("bad-request", "not-found", "too-many", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/points/{{id}}/at",
        READ,
        history.get_at,
        "What a point was at an instant.",
        PointAtAnswer,
        params=history.AT_PARAMS,
        errors=("bad-request", "not-found", "too-many", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/config",
        READ,
        handlers.get_config,
        "The configuration in effect; secrets are hidden.",
        dict[str, typing.Any],
    ),
    Route(
        "POST",
        f"{PREFIX}/commands",
        COMMAND,
        handlers.post_command,
        "Write to a point and read it back; repeating a key gives the first answer again.",
        "result",
        body="command",
        errors=("bad-request",),
    ),
    Route(
        "POST",
        f"{PREFIX}/reload",
        CONFIGURE,
        handlers.post_reload,
        "Apply changed configuration files; 422 when something was refused.",
        ReloadAnswer,
        errors=("config-refused", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/queue",
        READ,
        queue.get_queue,
        "What waits for each uplink, what it has lost, what its peer refused.",
        list[QueueAnswer],
        params=(queue.UPLINK,),
        errors=("not-found", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/queue/quarantine",
        READ,
        queue.get_quarantine,
        "Records that peers refused, as they were sent.",
        list[QuarantineAnswer],
        params=queue.QUARANTINE,
        errors=("bad-request", "not-found", "not-available"),
    ),
    Route(
        "GET",
        f"{PREFIX}/queue/export",
        READ,
        queue_export.get_export,
        "What waits for an uplink and what its peer refused, one record or row a line.",
        dict[str, typing.Any],
        JSON_LINES,
        params=queue_export.PARAMS,
        errors=("bad-request", "not-found", "too-many", "not-available"),
    ),
    Route(
        "POST",
        f"{PREFIX}/queue/retry",
        CONFIGURE,
        queue_changes.post_retry,
        "Send rows of the quarantine once more.",
        QueueChange,
        body=RetryRequest,
        errors=("bad-request", "not-found", "not-available"),
    ),
    Route(
        "POST",
        f"{PREFIX}/queue/drop",
        CONFIGURE,
        queue_changes.post_drop,
        "Give up records that wait, or rows of the quarantine; they become announced gaps.",
        QueueChange,
        body=DropRequest,
        errors=("bad-request", "not-found", "not-available"),
    ),
    Route("GET", f"{PREFIX}/openapi.json", READ, get_openapi, "This description.", dict[str, typing.Any]),
    Route("GET", "/metrics", READ, handlers.get_metrics, "Counters and gauges in OpenMetrics.", None, OPENMETRICS),
)
