"""Every table of the configuration files as a frozen struct.

    fluxedge.toml    [gateway] [log] [api] [uplinks.ID]
    devices/*.toml   [channels.ID] [devices.ID]
    drivers/*.toml   one DriverCfg a file; its id is the file's name without .toml
    credentials/     one secret a file, named by uplinks

TOML keys are nouns; Python names carry the unit (`every` -> `every_s`). Equal configurations compare equal: that is
the difference which a reload applies. Rules across fields raise ValueError in __post_init__.
"""

from __future__ import annotations

import typing

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from fluxedge.config.quantities import Bytes, Seconds

ID_PATTERN = r"^[a-z0-9_-]+$"
Id = typing.Annotated[str, Meta(pattern=ID_PATTERN, max_length=64)]
UnitId = typing.Annotated[int, Meta(ge=0, le=247)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are mistakes."""


def _check_period(every_s: Seconds) -> None:
    if not 0.01 <= every_s <= 86400:
        raise ValueError(f"every: {every_s} is not between 10ms and 1d")


def _check_timeout(key: str, timeout_s: Seconds) -> None:
    if not 0.001 <= timeout_s <= 600:
        raise ValueError(f"{key}: {timeout_s} is not between 1ms and 10m")


# --- fluxedge.toml ----------------------------------------------------------------------------------------------------


class GatewayCfg(Table, frozen=True, kw_only=True):
    """[gateway]: who this gateway is. A change needs a restart."""

    id: Id | None = None  # generated at the first start unless given
    label: str = ""


class LogCfg(Table, frozen=True, kw_only=True):
    """[log]: the one append-only store. A change needs a restart."""

    commit_s: Seconds = field(default=Seconds(1.0), name="commit")  # a power cut costs at most this much
    backlog_bytes: Bytes = field(default=Bytes(4 * 2**30), name="backlog")  # cap of log.db, everything included
    history_bytes: Bytes = field(default=Bytes(8 * 2**30), name="history")  # cap of the history files
    keep_s: Seconds = field(default=Seconds(400 * 86400.0), name="keep")  # rounds older than this go, delivered or not
    keep_events_s: Seconds = field(default=Seconds(400 * 86400.0), name="keep_events")
    segment_bytes: Bytes = field(default=Bytes(16 * 2**20), name="segment")  # unit of deletion
    free_space_bytes: Bytes = field(default=Bytes(256 * 2**20), name="free_space")  # the floor that is left to others
    endurance_bytes: Bytes | None = field(default=None, name="endurance")  # what the disk may be written in its life

    def __post_init__(self) -> None:
        if not 0.05 <= self.commit_s <= 60:
            raise ValueError(f"commit: {self.commit_s} is not between 50ms and 1m")
        if self.segment_bytes * 4 > self.backlog_bytes:
            raise ValueError(f"segment: {self.segment_bytes} is more than a quarter of backlog ({self.backlog_bytes})")


class ApiCfg(Table, frozen=True, kw_only=True):
    """[api]: the way in for the command line, browsers and scripts. A change needs a restart."""

    socket: str = ""  # path of the unix socket; empty = STATE/api.sock, or /run/fluxedge/api.sock under systemd
    listen: str = ""  # "127.0.0.1:8080"; empty = no TCP listener


class TopicsCfg(Table, frozen=True, kw_only=True):
    """[uplinks.ID.topics]: templates, in which {gateway} is replaced by the gateway's id."""

    rounds: str = "fluxedge/{gateway}/rounds"
    events: str = "fluxedge/{gateway}/events"
    status: str = "fluxedge/{gateway}/status"
    command: str = "fluxedge/{gateway}/cmd/request"
    response: str = "fluxedge/{gateway}/cmd/response"

    def __post_init__(self) -> None:
        for name in ("rounds", "events", "status", "command", "response"):
            topic = getattr(self, name)
            if not topic or any(sign in topic for sign in "+#\0"):
                raise ValueError(f'{name}: "{topic}" is not a topic to publish to (no +, #, not empty)')
            if len(topic.encode()) > 1024:
                raise ValueError(f"{name}: the topic is longer than 1024 bytes")
            rest = topic.replace("{gateway}", "")
            if "{" in rest or "}" in rest:
                raise ValueError(f'{name}: "{topic}": only {{gateway}} can be replaced')
        if self.command in (self.rounds, self.events, self.status, self.response):
            raise ValueError(f'command: the gateway itself publishes to "{self.command}"; it would answer itself')


class TlsCfg(Table, frozen=True, kw_only=True):
    """[uplinks.ID.tls]: files are absolute paths, or names below credentials/ (the loader makes paths of them)."""

    ca: str = ""  # empty = the system's
    certificate: str = ""
    key: str = ""
    server_name: str = ""  # name to expect in the server's certificate; empty = the URL's host
    verify: typing.Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key: give both or neither")


class UplinkCfg(Table, frozen=True, kw_only=True):
    """[uplinks.ID]: a northbound connection with a cursor in the log. The id is its identity, not its URL."""

    url: str | list[str]  # mqtt://host[:1883] or mqtts://host[:8883]; several are tried in turn
    kind: typing.Literal["mqtt"] = "mqtt"
    format: typing.Literal["json", "json-columns"] = "json"
    version: typing.Literal["5", "3.1.1"] = "5"
    topics: TopicsCfg = field(default_factory=TopicsCfg)
    client_id: str = ""  # empty = the gateway's id and the uplink's
    username: str = ""
    password: str = ""  # name of a file below credentials/
    tls: TlsCfg | None = None
    keepalive_s: Seconds = field(default=Seconds(30.0), name="keepalive")
    window: typing.Annotated[int, Meta(ge=1, le=1000)] = 64  # messages in flight, if the broker permits
    message_bytes: Bytes = field(default=Bytes(64 * 1024), name="message")  # payloads are batched up to about this
    start: typing.Literal["oldest", "newest"] = "oldest"  # where a new uplink begins in the log
    order: typing.Literal["live-first", "strict"] = "live-first"  # what goes first after an outage
    backlog_rate_bytes: Bytes | None = field(default=None, name="backlog_rate")  # a second; None = what it takes
    require_subscriber: bool = False  # what nobody has subscribed to stays in the log
    lanes: list[typing.Literal["rounds", "events"]] = field(default_factory=lambda: ["rounds", "events"])
    commands: list[str] = []  # what may be commanded: "device.point", "device.*", "*"; empty = nothing
    expiry_s: Seconds | None = field(default=None, name="expiry")  # MQTT 5 message expiry

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("url: the array is empty; give at least one broker")
        if not self.lanes:
            raise ValueError('lanes: the array is empty; give "rounds", "events" or both')
        if not 1 <= self.keepalive_s <= 65535:  # MQTT 5, 3.1.2.10: a two byte integer of seconds
            raise ValueError(f"keepalive: {self.keepalive_s} is not between 1s and 65535s")
        if not 1 <= self.message_bytes <= 16 * 2**20:
            raise ValueError(f"message: {self.message_bytes} is not between 1B and 16MiB")
        if self.expiry_s is not None and self.version != "5":
            raise ValueError('expiry: only MQTT 5 knows it; leave it out or write version = "5"')
        if self.expiry_s is not None and not 1 <= self.expiry_s < 2**32:  # MQTT 5, 3.3.2.3.3: four bytes of seconds
            raise ValueError(f"expiry: {self.expiry_s} is not at least 1s")
        if self.require_subscriber and self.version != "5":  # MQTT 5, 3.4.2.1: only its PUBACK says it
            raise ValueError('require_subscriber: only MQTT 5 tells it; leave it out or write version = "5"')
        if self.password and not self.username and self.version != "5":  # MQTT 3.1.1, 3.1.2.9
            raise ValueError("password: MQTT 3.1.1 permits it only together with username")

    @property
    def urls(self) -> list[str]:
        """Return the brokers in the order in which they are tried."""
        return [self.url] if isinstance(self.url, str) else self.url


# --- devices/*.toml ---------------------------------------------------------------------------------------------------


class ChannelCfg(Table, frozen=True, kw_only=True):
    """[channels.ID]: one connection or bus; devices name it. A device may also give a URL in place."""

    url: str  # tcp://host[:port], rtu+tcp://host:port, serial:///dev/...?baud=9600&parity=N&bits=8&stop=1
    label: str = ""
    timeout_s: Seconds = field(default=Seconds(1.0), name="timeout")
    connect_timeout_s: Seconds = field(default=Seconds(5.0), name="connect_timeout")
    pause_s: Seconds = field(default=Seconds(0.0), name="pause")  # extra silence before each request

    def __post_init__(self) -> None:
        _check_timeout("timeout", self.timeout_s)
        _check_timeout("connect_timeout", self.connect_timeout_s)
        if self.pause_s > 60:
            raise ValueError(f"pause: {self.pause_s} is more than 1m")


class PointOverrideCfg(Table, frozen=True, kw_only=True):
    """[devices.ID.points.NAME]: what a device says differently from its driver file."""

    drop: bool = False
    rename: Id | UnsetType = UNSET
    label: str | UnsetType = UNSET
    unit: str | UnsetType = UNSET
    scale: float | UnsetType = UNSET
    offset: float | UnsetType = UNSET
    precision: typing.Annotated[int, Meta(ge=0, le=12)] | UnsetType = UNSET
    low: float | UnsetType = UNSET
    high: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.scale is not UNSET and self.scale == 0:
            raise ValueError("scale: 0 would make every value the offset")


class DeviceCfg(Table, frozen=True, kw_only=True):
    """[devices.ID]: something that answers on a channel."""

    driver: str  # id of a driver file
    channel: str = ""  # id of a channel, or a URL; not for the protocols that need none
    label: str = ""
    unit: UnitId | None = None  # Modbus unit id; default 1
    units: str = ""  # "1-32" or "1,3,5-8": one device per unit, named ID-UNIT
    every_s: Seconds | None = field(default=None, name="every")  # default: the driver's, else 1s
    timeout_s: Seconds | None = field(default=None, name="timeout")  # default: the channel's
    options: dict[str, typing.Any] = {}  # over the driver's options
    points: dict[str, PointOverrideCfg] = {}
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.unit is not None and self.units:
            raise ValueError("unit and units: give one of them")
        if self.every_s is not None:
            _check_period(self.every_s)
        if self.timeout_s is not None:
            _check_timeout("timeout", self.timeout_s)


# --- drivers/*.toml ---------------------------------------------------------------------------------------------------


class GroupCfg(Table, frozen=True, kw_only=True):
    """[groups.NAME] of a driver file: points that are read together at a period of their own."""

    every_s: Seconds = field(name="every")

    def __post_init__(self) -> None:
        _check_period(self.every_s)


class PointCfg(Table, frozen=True, kw_only=True):
    """What every protocol's points have in common."""

    label: str = ""
    unit: str = ""  # UCUM: "V", "kW.h", "Cel", "%"
    scale: float = 1.0
    offset: float = 0.0
    precision: typing.Annotated[int, Meta(ge=0, le=12)] | None = None  # decimals; asks for rounding
    low: float | None = None  # validity limits: outside, the value is UNCERTAIN
    high: float | None = None
    group: str = ""  # a name of [groups]; empty = "main", which is read at the device's period
    note: str = ""  # a caveat, with its evidence

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise ValueError("scale: 0 would make every value the offset")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low} is above high ({self.high})")


ModbusType = typing.Literal[
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float32", "float64", "string", "bytes", "bcd16", "bcd32", "bcd64",
]  # fmt: skip


class ModbusPointCfg(PointCfg, frozen=True, kw_only=True):
    """A point of a Modbus driver file."""

    at: str  # "40001", "400001", "hr:0", "hr:0x10", "hr:10.3" (bit), likewise ir: co: di:
    type: ModbusType | UnsetType = UNSET  # default: bool for bits, uint16 for registers
    order: str = ""  # "AB", "ABCD", "CDAB", "ABCDEFGH" ...; default: the driver's [options] order, else big endian
    length: typing.Annotated[int, Meta(ge=1, le=250)] | None = None  # bytes of string and bytes
    chars: typing.Literal["both", "high", "low"] = "both"  # of a string: in both bytes of a register, or one
    enum: dict[str, str] = {}  # "0" = "off"
    bits: dict[str, str] = {}  # "0" = "overload": names of the bits of an integer
    write: bool | typing.Literal["single", "multiple"] = False  # true: FC05/06, or FC16 for more than one register
    min: float | None = None  # limits of a command, engineering units
    max: float | None = None


class ModbusOptionsCfg(Table, frozen=True, kw_only=True):
    """[options] of a Modbus driver file or device."""

    order: str = ""  # default order of 32-bit values, as letters of the wire bytes
    max_registers: typing.Annotated[int, Meta(ge=1, le=125)] = 125
    max_bits: typing.Annotated[int, Meta(ge=1, le=2000)] = 2000
    max_gap: typing.Annotated[int, Meta(ge=0, le=124)] | None = None  # registers; default by the channel's cost
    max_bit_gap: typing.Annotated[int, Meta(ge=0, le=1999)] = 64
    barriers: list[str] = []  # addresses that no request may span
    single_requests: bool = False  # one request per point
    turnaround_s: Seconds = field(default=Seconds(0.0), name="turnaround")  # extra silence before each request
    unit: UnitId | None = None  # the product's unit id when it leaves the factory


class HostPointCfg(PointCfg, frozen=True, kw_only=True):
    """A point of a host driver file."""

    metric: str  # a name of protocols.host.METRICS


class HostOptionsCfg(Table, frozen=True, kw_only=True):
    """[options] of a host driver file or device."""

    disk: str = "/"  # path whose file system is measured
    interface: str = ""  # network interface; empty = all together


class SimulatorPointCfg(PointCfg, frozen=True, kw_only=True):
    """A point of a simulator driver file."""

    wave: typing.Literal["ramp", "sine", "noise", "step", "constant"]
    type: typing.Literal["bool", "int32", "int64", "float64", "string"] = "float64"
    from_: float = field(default=0.0, name="from")
    to: float = 100.0
    period_s: Seconds = field(default=Seconds(60.0), name="period")
    steps: list[float] = []  # wave = "step": the values in turn
    text: str = ""  # type = "string"
    write: bool = False
    min: float | None = None
    max: float | None = None


class SimulatorOptionsCfg(Table, frozen=True, kw_only=True):
    """[options] of a simulator driver file or device."""

    seed: int = 1


POINTS: dict[str, type[PointCfg]] = {"modbus": ModbusPointCfg, "host": HostPointCfg, "simulator": SimulatorPointCfg}
OPTIONS: dict[str, type[Table]] = {
    "modbus": ModbusOptionsCfg,
    "host": HostOptionsCfg,
    "simulator": SimulatorOptionsCfg,
}
PROTOCOL_KINDS = tuple(POINTS)
WITHOUT_CHANNEL = ("host", "simulator")


class DriverCfg(Table, frozen=True, kw_only=True):
    """A driver file: one product's protocol, points, quirks and where that is written."""

    id: str = ""  # the file's name; set by the loader
    name: str
    protocol: typing.Literal["modbus", "host", "simulator"]
    source: str  # document, revision, table
    verified: typing.Literal["document", "device", "none"] = "none"
    vendor: str = ""
    every_s: Seconds = field(default=Seconds(1.0), name="every")
    options: Table = field(default_factory=Table)  # of OPTIONS[protocol]
    groups: dict[Id, GroupCfg] = {}
    points: dict[Id, PointCfg] = {}  # of POINTS[protocol]

    def __post_init__(self) -> None:
        _check_period(self.every_s)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, decoded and checked. `units` are expanded, URLs in place are channels, secrets are resolved."""

    gateway: GatewayCfg = field(default_factory=GatewayCfg)
    log: LogCfg = field(default_factory=LogCfg)
    api: ApiCfg = field(default_factory=ApiCfg)
    uplinks: dict[str, UplinkCfg] = {}
    channels: dict[str, ChannelCfg] = {}
    devices: dict[str, DeviceCfg] = {}
    drivers: dict[str, DriverCfg] = {}  # only those that a device names
    secrets: dict[str, str] = {}  # name below credentials/, or path of a TLS file -> content; never shown

    def __repr__(self) -> str:
        return f"Config({len(self.channels)} channels, {len(self.devices)} devices, {len(self.uplinks)} uplinks)"
