"""What the API answers, as types: the handlers build them, openapi.json describes them.

Instants are `_us`: UTC, microseconds since 1970-01-01; 0 = never.
"""

from __future__ import annotations

import typing

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer is one JSON object of these fields."""


class VersionAnswer(Answer, frozen=True, kw_only=True):
    """What runs."""

    fluxedge: str
    api: str
    python: str


class GatewayAnswer(Answer, frozen=True, kw_only=True):
    """Which gateway this is."""

    id: str
    label: str
    version: str
    started_us: int
    epoch: int
    boot: int
    clock_trusted: bool


class ProblemAnswer(Answer, frozen=True, kw_only=True):
    """Something that is wrong right now."""

    item: str  # "device:meter-1", "channel:rs485-1", "uplink:cloud", "log", "config:..."
    code: str
    message: str
    hint: str
    since_us: int
    last_us: int
    count: int  # occurrences since it began to stand


class DeviceAnswer(Answer, frozen=True, kw_only=True):
    """A device and how it answers."""

    id: str
    label: str
    driver: str
    protocol: str
    channel: str
    state: typing.Literal["ok", "offline", "waiting", "disabled"]
    since_us: int
    last_answer_us: int
    latency_ms: float  # of the latest read
    points: int
    reads: int
    silent: int  # reads without an answer
    exceptions: int  # reads answered by an exception
    overruns: int  # periods that passed unread


class ChannelAnswer(Answer, frozen=True, kw_only=True):
    """A channel and what it carries."""

    id: str
    label: str
    url: str  # empty for protocols that need no channel
    state: typing.Literal["open", "closed", "none"]
    since_us: int
    opens: int
    busy_s: float
    sent_bytes: int
    received_bytes: int
    dropped_bytes: int  # received, but no part of an answer
    timeouts: int  # requests without an answer in time
    suspects: int  # answers that could have been late ones; their values are UNCERTAIN
    devices: list[str]


class LaneBehind(Answer, frozen=True, kw_only=True):
    """How far an uplink is behind in one lane."""

    lane: str
    records: int
    oldest_us: int  # stamp of the oldest record that is not acknowledged; 0 = nothing waits


class UplinkAnswer(Answer, frozen=True, kw_only=True):
    """An uplink: how far it is behind, what it has carried since the start, how long the log can wait for it."""

    id: str
    url: list[str]
    state: typing.Literal["connected", "down"]
    connected_since_us: int
    lanes: list[LaneBehind]
    messages: int
    records: int
    points: int
    bytes: int
    sessions: int
    refused: int  # records in quarantine since the start
    gap_records: int | None  # records given up as announced gaps, as far as the log remembers; None = not known
    last_ack_us: int
    ack_latency_ms: float  # of the latest message: its oldest record's stamp to its acknowledgement
    autonomy_h: float | None  # until the log would have to drop what it has not delivered; None = not known yet


class LaneHeld(Answer, frozen=True, kw_only=True):
    """What the log holds of one lane."""

    lane: str
    records: int
    head: int  # last seq of the present epoch
    oldest_us: int  # the earliest stamp
    bytes: int  # stored bodies


class LogAnswer(Answer, frozen=True, kw_only=True):
    """What the log holds."""

    epoch: int
    used_bytes: int
    cap_bytes: int
    free_bytes: int  # of the file system
    lanes: list[LaneHeld]
    commits: int
    bytes_per_s: float  # stored bodies, over the last ten minutes


class LoopAnswer(Answer, frozen=True, kw_only=True):
    """How late the event loop was in the last minute."""

    lag_p99_ms: float
    lag_max_ms: float


class StatusAnswer(Answer, frozen=True, kw_only=True):
    """Everything at a glance."""

    gateway: GatewayAnswer
    channels: dict[str, int]  # state -> how many
    devices: dict[str, int]
    points: int
    problems: list[ProblemAnswer]
    uplinks: list[UplinkAnswer]
    log: LogAnswer
    loop: LoopAnswer
    dropped: dict[str, int]  # "rounds", "events", "bytes" -> how many since the start; only what was dropped
    restart_needed: list[str]  # tables of fluxedge.toml that were changed since the start


class PointAnswer(Answer, frozen=True, kw_only=True):
    """A point as it is now."""

    id: str
    device: str
    group: str
    label: str
    unit: str
    type: typing.Literal["bool", "int", "float", "text", "bytes"]
    value: typing.Any  # null when BAD, OFFLINE or not read yet; integers beyond 2^53 as text, bytes as base64
    text: str  # the name of an enum's value, the names of the bits that are set
    quality: str  # GOOD, UNCERTAIN, BAD, OFFLINE; empty: not read yet
    at_us: int
    good_at_us: int  # when its device last answered
    enum: dict[str, str]
    bits: dict[str, str]


class MistakeAnswer(Answer, frozen=True, kw_only=True):
    """A mistake in a configuration file."""

    file: str
    line: int  # 0 where the file as a whole is meant
    path: str
    message: str
    hint: str
    item: str
    code: str


class ReloadAnswer(Answer, frozen=True, kw_only=True):
    """What a reload did. Items that were changed are in `stopped` and in `started`."""

    started: list[str]
    stopped: list[str]
    restart_needed: list[str]
    mistakes: list[MistakeAnswer]
    kept: dict[str, str]  # items that go on as their last good version -> why
    left_out: dict[str, str]  # items that do not run -> why

    @property
    def refused(self) -> bool:
        """Tell whether something of the files was not taken."""
        return bool(self.mistakes or self.kept or self.left_out)


class LiveRound(Answer, frozen=True, kw_only=True):
    """Data of an event `round` of the live stream."""

    device: str
    group: str
    at_us: int
    values: dict[str, typing.Any]  # point -> value
    quality: dict[str, str]  # points that are not GOOD
    text: dict[str, str]  # enums and bits by name


class LiveDropped(Answer, frozen=True, kw_only=True):
    """Data of an event `dropped` of the live stream: this client was too slow."""

    rounds: int
