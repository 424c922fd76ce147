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
    clock_stepped_us: int = 0  # when the clock was stepped last, since the start; 0 = never
    clock_step_us: int = 0  # by how much; forward is positive


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
    connected_since_us: int  # 0 = it is down
    down_since_us: int  # 0 = it is connected
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


class WaitingRange(Answer, frozen=True, kw_only=True):
    """A range of a cursor: seqs that an uplink has not had acknowledged."""

    epoch: int
    first: int
    last: int


class QueueLane(Answer, frozen=True, kw_only=True):
    """What waits for an uplink in one lane."""

    lane: str
    records: int
    live: int  # of them, committed since the session began; the rest is backlog
    bytes: int  # stored bodies, by the share of the records
    oldest_us: int  # stamp of the oldest record that waits; 0 = nothing waits
    ranges: list[WaitingRange]  # oldest first, at most a hundred
    ranges_count: int


class GapAnswer(Answer, frozen=True, kw_only=True):
    """Records that an uplink will not get."""

    id: int
    epoch: int
    lane: str
    first: int
    last: int
    why: str
    at_us: int
    announced: bool  # the event that says so is durable


class QuarantineAnswer(Answer, frozen=True, kw_only=True):
    """Records that a peer refused, kept as they were sent."""

    id: int
    uplink: str
    epoch: int
    lane: str
    first: int
    last: int
    reason: str
    at_us: int  # when it was refused last
    tries: int
    again: bool  # it waits to be sent once more
    content_type: str
    bytes: int
    payload: str | None = None  # only of a row that is asked for by its id; base64 where it is no text
    base64: bool = False


class QueueAnswer(Answer, frozen=True, kw_only=True):
    """Everything that waits for one uplink."""

    id: str
    state: typing.Literal["connected", "down", "not-configured"]
    lanes: list[QueueLane]
    budget_bytes: int  # a second, what the backlog may take at present; 0 while there is none
    gaps: list[GapAnswer]  # the newest first, at most a hundred
    gap_records: int
    quarantine: list[QuarantineAnswer]  # the oldest first, at most a hundred
    quarantine_rows: int
    quarantine_records: int
    quarantine_bytes: int
    autonomy_h: float | None  # None = not known


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of the quarantine that shall be sent once more."""

    ids: list[int] = []
    all: bool = False  # every row, of `uplink` where that is given
    uplink: str = ""


class DropRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator gives up: records that wait for an uplink, or rows of the quarantine."""

    uplink: str = ""
    lane: typing.Literal["", "rounds", "events"] = ""  # empty: both
    epoch: int = 0  # 0 = all
    upto: int = 0  # seq, inclusive; 0 = to the end
    older_than_s: float = 0.0  # only records whose stamps are older; 0 = of any age
    ids: list[int] = []  # of the quarantine; then nothing else may be given
    dry: bool = False  # only say what it would be


class QueueChange(Answer, frozen=True, kw_only=True):
    """What a retry or a drop was about."""

    records: int
    rows: int  # of the quarantine
    ranges: list[WaitingRange]
    missing: list[int]  # ids that do not exist


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
    memory_bytes: int  # in memory only, because the disk takes nothing
    lanes: list[LaneHeld]
    commits: int
    bytes_per_s: float  # stored bodies, over the last ten minutes


class LoopAnswer(Answer, frozen=True, kw_only=True):
    """How late the event loop was in the last minute."""

    lag_p99_ms: float
    lag_max_ms: float


class FlashAnswer(Answer, frozen=True, kw_only=True):
    """What the log costs the device that holds it; None = not known."""

    gateway_bytes: int  # written by the gateway since its start
    device_bytes: int | None  # written to the device by everybody since boot
    lifetime_bytes: int | None  # ... since fluxedge knows it
    bytes_per_point: float | None  # the gateway's, in the last 24 hours
    bytes_per_day: float | None
    device_bytes_per_day: float | None
    used_percent: float | None  # of the device's life
    life_days: float | None  # until its endurance is used up


class StatusAnswer(Answer, frozen=True, kw_only=True):
    """Everything at a glance."""

    gateway: GatewayAnswer
    channels: dict[str, int]  # state -> how many
    devices: dict[str, int]
    points: int
    problems: list[ProblemAnswer]
    uplinks: list[UplinkAnswer]
    log: LogAnswer
    flash: FlashAnswer
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


class PointAtAnswer(Answer, frozen=True, kw_only=True):
    """What a point was at an instant: its last sample with a stamp not behind it."""

    id: str
    t_us: int  # the instant
    at_us: int  # the sample's stamp; 0 = there is none
    value: typing.Any  # null when BAD or OFFLINE; integers beyond 2^53 as text, bytes as base64
    unit: str
    quality: str  # GOOD, UNCERTAIN, BAD, OFFLINE; empty: there is no sample
    epoch: int
    seq: int
    damaged: list[str]  # what of the history could not be read


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
