"""Facts of a gateway that is in the best of health, for tests to spoil."""

from __future__ import annotations

import dataclasses
import typing

from fluxedge.doctor.checks import judge
from fluxedge.doctor.facts import (
    Board,
    Configuration,
    Daemon,
    Facts,
    Files,
    Journal,
    Reach,
    SerialPort,
    State,
    Time,
    Unit,
    Versions,
    Wear,
)
from fluxedge.doctor.findings import Finding

NOW_S = 1_800_000_000.0
DEVICE = {"id": "meter-1", "channel": "bus-1", "state": "ok", "reads": 1000, "silent": 0, "last_answer_us": 1}
UPLINK = {"id": "cloud", "url": ["mqtts://b"], "state": "connected", "lanes": [{"records": 3}], "autonomy_h": None}
ANSWERS: dict[str, typing.Any] = {
    "version": {"fluxedge": "1.0"},
    "status": {
        "gateway": {"id": "hall-3", "started_us": 1, "clock_trusted": True},
        "flash": {"bytes_per_day": 1 << 20, "used_percent": None, "life_days": 3652.5},
        "loop": {"lag_max_ms": 3.0},
        "restart_needed": [],
    },
    "problems": [],
    "devices": [DEVICE],
    "channels": [{"id": "bus-1", "suspects": 0}],
    "uplinks": [UPLINK],
}
HEALTHY = Facts(
    user="ann",
    versions=Versions("1.0", "3.11.2", "3.51.3", {"aiohttp": "3.10"}),
    unit=Unit(True, "", {"LoadState": "loaded", "ActiveState": "active", "NRestarts": "0", "UnitFileState": "enabled"}),
    daemon=Daemon("/run/fluxedge/api.sock", "answers", "", 42, ANSWERS),
    configuration=Configuration(
        "/etc/fluxedge", channels=1, devices=1, uplinks=1, free_space_bytes=1 << 28, backlog_bytes=4 << 30,
        history_bytes=8 << 30,
    ),
    state=State(
        "/var/lib/fluxedge", owner="fluxedge", service_user="fluxedge", kind="ext4", free_bytes=20 << 30,
        total_bytes=30 << 30, free_inodes=100_000, ballast_bytes=8 << 20,
    ),
    wear=Wear("mmcblk0", 10, 1),
    ports=(SerialPort("bus-1", "/dev/serial/by-id/usb-1", group="dialout"),),
    time=Time(NOW_S, True, True, False, True, NOW_S, False, 1.0),
    board=Board("", True, ("cpu", "memory"), False, False),
    reach=(Reach("cloud", "mqtts://b", ("192.0.2.1",), took_ms=4, tls="TLSv1.3", ends_s=NOW_S + 90 * 86400),),
    files=Files(65536, 300),
    journal=Journal(),
)  # fmt: skip


def spoilt(part: str, **changes: typing.Any) -> Facts:
    """Return the healthy facts with one part changed."""
    changed = dataclasses.replace(getattr(HEALTHY, part), **changes)
    return dataclasses.replace(HEALTHY, **{part: changed})


def answering(**answers: typing.Any) -> Facts:
    """Return the healthy facts of a gateway with other answers."""
    return spoilt("daemon", answers={**ANSWERS, **answers})


def wrong(facts: Facts) -> list[Finding]:
    """Return what is not ok."""
    return [finding for findings in judge(facts).values() for finding in findings if finding.verdict != "ok"]


def only(facts: Facts) -> Finding:
    """Return the one finding that is not ok."""
    (found,) = wrong(facts)
    return found
