"""Facts: what was seen, not judged yet. `unseen` says why something could not be looked at; empty = it could."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field

Data = typing.Any  # JSON


@dataclass(frozen=True, slots=True)
class Versions:
    """What is installed."""

    fluxedge: str
    python: str
    sqlite: str
    libraries: dict[str, str] = field(default_factory=dict)  # name -> version; empty = not installed


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd says of fluxedge.service."""

    systemd: bool = False  # it is PID 1 here
    unseen: str = ""
    fields: dict[str, str] = field(default_factory=dict)  # systemctl show: LoadState, ActiveState, ...


@dataclass(frozen=True, slots=True)
class Daemon:
    """What came of asking the gateway at its socket."""

    socket: str
    state: typing.Literal["answers", "absent", "forbidden", "silent", "broken"]
    why: str = ""
    pid: int = 0  # of the peer (SO_PEERCRED); 0 = not known
    answers: dict[str, Data] = field(default_factory=dict)  # "status", "problems", "devices" ... -> answer
    missing: dict[str, str] = field(default_factory=dict)  # ... -> why there is none


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `fluxedge check` would say, and what is remembered as last good."""

    directory: str
    unseen: str = ""
    fatal: bool = False
    mistakes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)  # items that would go on as their last good version -> why
    left_out: dict[str, str] = field(default_factory=dict)
    channels: int = 0
    devices: int = 0
    uplinks: int = 0
    listen: str = ""  # [api] listen
    last_good: str = ""  # what is wrong with it; "none" = there is none, "unseen" = it may not be looked at
    free_space_bytes: int = 0  # [log] free_space, backlog, history
    backlog_bytes: int = 0
    history_bytes: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """The state directory and its file system."""

    path: str
    unseen: str = ""
    exists: bool = True
    is_dir: bool = True
    owner: str = ""
    mode: int = 0o750
    service_user: str = ""  # whom the installed daemon runs as; empty = there is no such user here
    kind: str = ""  # of the file system: "ext4"
    read_only: bool = False
    free_bytes: int = 0
    total_bytes: int = 0
    free_inodes: int | None = None  # None = the file system counts none
    ballast_bytes: int = 0
    log_bytes: int = 0  # log.db and its WAL
    history_bytes: int = 0
    history_days: int = 0
    set_aside: tuple[str, ...] = ()  # logs and days found damaged


@dataclass(frozen=True, slots=True)
class Wear:
    """The device below the state directory."""

    device: str = ""  # "mmcblk0"; empty = none can be named
    used_percent: int | None = None  # None = it does not say
    reserve: int = 0  # PRE_EOL_INFO; 0 = it does not say


@dataclass(frozen=True, slots=True)
class SerialPort:
    """The device file of one serial channel."""

    channel: str
    path: str
    exists: bool = True
    is_tty: bool = True
    group: str = ""
    blocked: str = ""  # who may not open it: the service's user
    holders: tuple[str, ...] = ()  # "minicom (pid 812)"; without the gateway itself
    holders_unseen: bool = False  # processes of others cannot be looked at


@dataclass(frozen=True, slots=True)
class Time:
    """The clocks of the machine."""

    now_s: float
    ntp_on: bool | None = None  # timedatectl's NTP; None = not known
    synchronised: bool | None = None
    local_rtc: bool = False
    rtc_present: bool = False
    rtc_s: float | None = None  # None = it cannot tell
    x86: bool = False  # the kernel reads a clock at boot even where no driver shows it
    build_s: float = 0.0  # a clock before this was never set


@dataclass(frozen=True, slots=True)
class Board:
    """Kernel, cgroups, power."""

    model: str = ""  # /proc/device-tree/model
    cgroup_v2: bool = False
    controllers: tuple[str, ...] = ()
    memory_off: bool = False  # cgroup_disable=memory on the kernel's command line
    undervoltage: bool | None = None  # None = no sensor


@dataclass(frozen=True, slots=True)
class Reach:
    """What came of connecting to one broker."""

    uplink: str
    url: str
    addresses: tuple[str, ...] = ()
    failed: typing.Literal["", "name", "connect", "tls", "settings", "skipped"] = ""  # where it ended
    why: str = ""
    took_ms: float = 0.0
    shallow: bool = False  # its settings could not be read: only name and TCP were tried
    tls: str = ""  # "TLSv1.3"
    verified: bool = True  # the certificate was checked
    ends_s: float | None = None  # when the certificate ends, UTC
    begins_s: float | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Open files of the gateway."""

    limit: int | None = None  # None = not known; -1 = unlimited
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Journal:
    """Lines of the unit's journal, the newest last."""

    unseen: str = ""
    errors: tuple[str, ...] = ()  # priority err and worse, of the last day


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    user: str
    versions: Versions
    unit: Unit
    daemon: Daemon
    configuration: Configuration
    state: State
    wear: Wear
    ports: tuple[SerialPort, ...]
    time: Time
    board: Board
    reach: tuple[Reach, ...]
    files: Files
    journal: Journal
