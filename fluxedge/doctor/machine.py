"""Look at the machine: versions, the unit, clocks, cgroups, power, the journal.

    /proc/cmdline                      cgroup_disable=memory: Raspberry Pi OS's firmware puts it there
    /sys/fs/cgroup/cgroup.controllers  cgroup v2: what the kernel offers (Documentation/admin-guide/cgroup-v2.rst)
    /sys/class/hwmon/hwmon*/name       "rpi_volt": in0_lcrit_alarm is 1 while the supply is too low
                                       (Documentation/hwmon/raspberrypi-hwmon.rst)
    /proc/PID/limits                   "Max open files   SOFT   HARD   files" (proc_pid_limits(5))

Programs are asked with a bound in time; one that is missing or refuses is an answer, too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fluxedge import __version__
from fluxedge.clock import BUILD_DATE_NS, ntp_synchronised, rtc_ns
from fluxedge.doctor.facts import Board, Files, Journal, Time, Unit, Versions

UNIT = "fluxedge.service"
ASK_S = 5.0  # systemctl on a machine that swaps
MOST_CHARS = 1 << 20
LIBRARIES = ("aiohttp", "aiosqlite", "click", "gmqtt", "msgspec", "psutil", "pymodbus", "pyserial", "uvloop", "rich")
_SHOWN = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState", "ExecMainStatus", "StatusText",
    "MainPID", "User",
)  # fmt: skip
_CLOSED = ("not seeing messages", "insufficient permissions")  # of journalctl, systemd 252
_NO_JOURNAL = "No journal files were found"
_NO_BATTERY = ("x86_64", "i686")

Ask = Callable[[Sequence[str]], "tuple[int, str]"]  # command -> exit code (127: there is none), output


def ask(command: Sequence[str]) -> tuple[int, str]:
    """Run a program that only looks; its exit code and what it wrote, errors where it wrote nothing else."""
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=ASK_S, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {ASK_S:g} s"
    except OSError as exc:
        return 127, f"{command[0]}: {exc.strerror}"
    text = (done.stdout or done.stderr).decode(errors="replace")
    return done.returncode, text[-MOST_CHARS:]


def versions() -> Versions:
    """Return what is installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return Versions(__version__, platform.python_version(), sqlite3.sqlite_version, found)


def unit(root: Path = Path("/"), run: Ask = ask) -> Unit:
    """Return what systemd says; sd_booted(3): it is PID 1 where /run/systemd/system is."""
    if not (root / "run/systemd/system").is_dir():
        return Unit()
    code, text = run(("systemctl", "show", UNIT, f"--property={','.join(_SHOWN)}"))
    if code != 0:
        return Unit(True, text.strip()[:200] or f"systemctl ended with {code}")
    return Unit(True, "", dict(line.split("=", 1) for line in text.splitlines() if "=" in line))


def clocks(root: Path = Path("/"), run: Ask = ask) -> Time:
    """Return what is known about time."""
    fields: dict[str, str] = {}
    if (root / "run/systemd/system").is_dir():
        code, text = run(("timedatectl", "show"))
        if code == 0:
            fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    told = fields.get("NTPSynchronized")
    rtc = root / "sys/class/rtc/rtc0"
    kept_ns = rtc_ns(rtc)
    return Time(
        now_s=time.time(),
        ntp_on=fields["NTP"] == "yes" if "NTP" in fields else None,
        synchronised=told == "yes" if told else ntp_synchronised(),
        local_rtc=fields.get("LocalRTC") == "yes",
        rtc_present=rtc.exists(),
        rtc_s=kept_ns / 1e9 if kept_ns is not None else None,
        x86=platform.machine() in _NO_BATTERY,
        build_s=BUILD_DATE_NS / 1e9,
    )


def board(root: Path = Path("/")) -> Board:
    """Return model, cgroups and the state of the supply."""
    words = _text(root / "proc/cmdline").split()
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    return Board(
        model=_text(root / "proc/device-tree/model").rstrip("\0\n"),
        cgroup_v2=controllers.exists(),
        controllers=tuple(_text(controllers).split()),
        memory_off=_memory_off(words),
        undervoltage=_undervoltage(root / "sys/class/hwmon"),
    )


def _memory_off(words: Sequence[str]) -> bool:
    """Tell what the command line makes of the memory controller; the last word counts."""
    off = False
    for word in words:
        key, _, names = word.partition("=")
        if key in ("cgroup_disable", "cgroup_enable") and "memory" in names.split(","):
            off = key == "cgroup_disable"
    return off


def _undervoltage(hwmon: Path) -> bool | None:
    for sensor in sorted(hwmon.glob("hwmon*")):
        if _text(sensor / "name").strip() == "rpi_volt":
            alarm = _text(sensor / "in0_lcrit_alarm").strip()
            return alarm == "1" if alarm in ("0", "1") else None
    return None


def files(pid: int, needed: int, root: Path = Path("/")) -> Files:
    """Return how many files the gateway may have open; `pid` 0 = it does not run."""
    limits = _text(root / "proc" / str(pid) / "limits") if pid else ""
    found = re.search(r"^Max open files +\S+ +(\S+)", limits, re.MULTILINE)  # it raises the soft limit to the hard one
    if found is None:
        return Files(None, needed)
    return Files(-1 if found[1] == "unlimited" else int(found[1]), needed)


def journal(root: Path = Path("/"), run: Ask = ask, lines: int = 20) -> Journal:
    """Return the last errors of a day."""
    if not (root / "run/systemd/system").is_dir():
        return Journal("systemd does not run here")
    code, text = run((*_journal(lines), "--priority=err", "--since=-1d"))
    if any(words in text for words in _CLOSED):
        return Journal("this user may not read the journal")
    if _NO_JOURNAL in text:
        return Journal("there is no journal")
    if code != 0:
        return Journal(text.strip().splitlines()[0][:200] if text.strip() else f"journalctl ended with {code}")
    return Journal("", tuple(line for line in text.splitlines() if line and not line.startswith("-- ")))


def journal_tail(run: Ask = ask, lines: int = 500) -> str:
    """Return the last lines of the journal, or why there are none."""
    return run(_journal(lines))[1]


def _journal(lines: int) -> tuple[str, ...]:
    return ("journalctl", f"--unit={UNIT}", f"--lines={lines}", "--no-pager", "--output=short-iso")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_CHARS).decode(errors="replace")
    except OSError:
        return ""
