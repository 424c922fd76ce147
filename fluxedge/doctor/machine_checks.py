"""Judge the machine: versions, unit, disk, clocks, cgroups, supply."""

from __future__ import annotations

import re

from fluxedge.doctor.facts import Facts, Unit
from fluxedge.doctor.findings import Found, bad, counted, note, ok, size

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "virtiofs")
FLEETING = ("tmpfs", "ramfs", "overlay", "aufs", "rootfs")  # what is written there is gone after a restart
SEALED = ("squashfs", "erofs", "iso9660")
WAL_RESET_FIXED = (3, 51, 3)  # sqlite.org/wal.html: from 3.7.0 on two connections could damage a database together
WORN_PERCENT, WEARING_PERCENT = 90, 70
_BAD_CONFIG = "78"
_RTC_APART_S = 120.0
_JOURNAL = "journalctl -u fluxedge -n 50"


def versions(facts: Facts) -> Found:
    """Say what is installed and whether it fits together."""
    found = facts.versions
    running = facts.daemon.answers.get("version", {}).get("fluxedge", "")
    if running and running != found.fluxedge:
        text = f"{found.fluxedge} is installed, {running} is running"
        yield note("version", text, "systemctl restart fluxedge")
    else:
        yield ok("version", f"fluxedge {found.fluxedge}, Python {found.python}")
    if missing := sorted(name for name, version in found.libraries.items() if not version):
        yield bad("libraries", f"missing: {', '.join(missing)}", "Install fluxedge anew: its package brings them.")
    else:
        yield ok("libraries", ", ".join(f"{name} {version}" for name, version in found.libraries.items()))
    numbers = tuple(int(part) for part in re.findall(r"\d+", found.sqlite)[:3])
    if numbers < WAL_RESET_FIXED:
        text = (
            f"{found.sqlite} is before 3.51.3, and may have the WAL-reset bug: two programs that write one database "
            "can damage it. fluxedge writes by one connection only"
        )
        yield note("SQLite", text, "Let no other program write into log.db while the gateway runs.")
    else:
        yield ok("SQLite", found.sqlite)


def unit(facts: Facts) -> Found:
    """Say how the service stands."""
    found = facts.unit
    if not found.systemd:
        yield note("unit", "systemd does not run here: nothing starts the gateway again after a failure or a power cut")
    elif found.unseen:
        yield note("unit", f"systemd does not say: {found.unseen}")
    elif found.fields.get("LoadState") == "not-found":
        yield note("unit", "there is no fluxedge.service: the package is not installed", "apt install ./fluxedge_….deb")
    elif found.fields.get("LoadState") == "masked":
        yield bad("unit", "fluxedge.service is masked: it cannot be started", "systemctl unmask fluxedge")
    else:
        yield from _unit_state(found)


def _unit_state(found: Unit) -> Found:
    fields = found.fields
    active, sub = fields.get("ActiveState", ""), fields.get("SubState", "")
    restarts = int(fields["NRestarts"]) if fields.get("NRestarts", "").isdigit() else 0
    status = fields.get("StatusText", "")
    if active in ("active", "reloading"):
        yield ok("unit", f"fluxedge.service is {active}" + (f": {status}" if status else ""))
        if restarts:
            text = f"systemd had to start it again {counted(restarts, 'time')}"
            yield note("restarts", text, f"Its last words are in the journal: {_JOURNAL}")
    elif active == "failed" and fields.get("ExecMainStatus") == _BAD_CONFIG:
        yield bad("unit", "it does not start: the configuration cannot be used (exit code 78)", "fluxedge check")
    elif active == "failed":
        why = f"{fields.get('Result', '')}, exit code {fields.get('ExecMainStatus', '')}"
        yield bad("unit", f"fluxedge.service failed ({why})", _JOURNAL)
    elif sub == "auto-restart":
        yield bad("unit", f"it ends again and again; systemd has started it {counted(restarts, 'time')}", _JOURNAL)
    elif active == "activating":
        yield note("unit", f"fluxedge.service is starting ({sub})" + (f": {status}" if status else ""))
    else:
        yield bad("unit", f"fluxedge.service is {active}: nothing is read", "systemctl start fluxedge")
    if fields.get("UnitFileState") == "disabled":
        yield note("at boot", "fluxedge.service is not started at boot", "systemctl enable fluxedge")


def file_system(facts: Facts) -> Found:
    """Say whether the file system suits a log."""
    state = facts.state
    path = state.path
    if state.kind in NETWORK:
        text = f"{path} is on a network file system ({state.kind}): SQLite's locks are not reliable there"
        yield bad("file system", text, "Put the state directory on a local disk.")
    elif state.kind in FLEETING:
        text = f"{path} is on {state.kind}: records may be gone after a restart"
        yield bad("file system", text, "Mount a disk of its own there, for example an ext4 partition.")
    elif state.read_only or state.kind in SEALED:
        text = f"{path} is mounted read-only ({state.kind}): nothing can be logged"
        yield bad("file system", text, "dmesg says whether the disk failed: then back up and replace it.")
    elif state.kind:
        yield ok("file system", f"{path} is on {state.kind}")
    else:
        yield note("file system", f"the file system of {path} could not be told")


def state(facts: Facts) -> Found:
    """Say whether the state directory is there, and whose it is."""
    found = facts.state
    if found.unseen:
        text = f"{facts.user} may not look into {found.path}: {found.unseen.lower()}"
        yield note("state", text, "Run it as root to see sizes and owner: sudo fluxedge doctor")
    elif not found.is_dir:
        yield bad("state", f"{found.path} is no directory", "Move it away; the gateway makes its directory itself.")
    elif not found.exists:
        yield note("state", f"there is no {found.path} yet: the gateway makes it when it starts")
    elif found.service_user and found.path.startswith("/var/lib/") and found.owner != found.service_user:
        remedy = f"chown -R {found.service_user}: {found.path}"
        yield bad("state", f"{found.path} belongs to {found.owner}, not to {found.service_user}", remedy)
    elif found.mode & 0o002:
        text = f"every user of the machine may write into {found.path} (mode {found.mode:o})"
        yield bad("state", text, f"chmod o-w {found.path}")
    else:
        yield ok("state", f"{found.path} belongs to {found.owner}, mode {found.mode:o}")


def room(facts: Facts) -> Found:
    """Say whether there is room, and whether the ballast is there."""
    found, floor = facts.state, facts.configuration.free_space_bytes
    if found.unseen or not (found.exists and found.is_dir):
        return
    words = f"{size(found.free_bytes)} of {size(found.total_bytes)} are free, the floor is {size(floor)}"
    if found.free_bytes < floor:
        remedy = f"Make room: du -xh --max-depth=2 {found.path}. The log gives up its oldest records until then."
        yield bad("disk", words, remedy)
    elif found.free_bytes < 2 * floor:
        yield note("disk", words, "Make room before the floor is reached, or lower [log] backlog and history.")
    else:
        yield ok("disk", words)
    if found.free_inodes is not None and found.free_inodes < 100:
        text = f"{counted(found.free_inodes, 'inode')} left: no file can be made, whatever space is free"
        yield bad("inodes", text, "Many small files lie somewhere: df -i, then remove them.")
    if facts.daemon.state == "answers" and not found.ballast_bytes:
        text = "the ballast was given up or never made: the disk was full"
        yield note("ballast", text, "It comes back by itself when there is room above the floor.")


def wear(facts: Facts) -> Found:
    """Say how worn the device is."""
    found = facts.wear
    flash = facts.daemon.answers.get("status", {}).get("flash", {})
    pace = flash.get("bytes_per_day")
    words = f"; the gateway writes {size(pace)} a day" if pace is not None else ""
    used = found.used_percent if found.used_percent is not None else flash.get("used_percent")
    days = flash.get("life_days")
    left = f"; at this pace it lasts {days / 365.25:,.1f} years" if days is not None else ""
    if not found.device:
        yield note("wear", "no single disk could be named below the state directory" + words)
    elif used is None:
        text = f"{found.device} does not say how worn it is{words}"
        yield note("wear", text, f"Give [log] endurance, or ask it: smartctl -a /dev/{found.device}")
    elif used >= WORN_PERCENT or found.reserve >= 2:
        text = f"{found.device} has used {used:.0f} % of its life" + (
            "; its reserve of blocks is nearly used up" if found.reserve >= 2 else ""
        )
        yield bad("wear", text + words + left, "Back up and replace it: fluxedge backup FILE")
    elif used >= WEARING_PERCENT:
        yield note("wear", f"{found.device} has used {used:.0f} % of its life{words}{left}", "Plan its replacement.")
    else:
        yield ok("wear", f"{found.device} has used at most {used:.0f} % of its life{words}{left}")


def clock(facts: Facts) -> Found:
    """Say whether UTC can be believed."""
    found = facts.time
    gateway = facts.daemon.answers.get("status", {}).get("gateway", {})
    if found.now_s < found.build_s:
        yield bad("clock", "the clock was never set: it is before the date of this version", _ntp_remedy(found.ntp_on))
    elif found.synchronised:
        yield ok("clock", "the clock is synchronised")
    elif gateway.get("clock_trusted"):
        text = "NTP does not discipline the clock now; the gateway trusts it, because it was right before"
        yield note("clock", text, _ntp_remedy(found.ntp_on))
    else:
        yield note("clock", "NTP does not discipline the clock", _ntp_remedy(found.ntp_on))
    if gateway and not gateway.get("clock_trusted"):
        text = "the gateway does not trust the clock: what it reads goes out marked as unsynced"
        yield bad("time stamps", text, "See docs/time.md: NTP, or a real-time clock with a battery.")
    if found.local_rtc:
        text = "the real-time clock keeps local time: the clock leaps at each start and twice a year"
        yield bad("RTC", text, "timedatectl set-local-rtc 0")
    elif found.rtc_s is not None and abs(found.rtc_s - found.now_s) > _RTC_APART_S:
        text = f"the real-time clock is {abs(found.rtc_s - found.now_s):,.0f} s away from the clock"
        yield note("RTC", text, "hwclock --systohc, when the clock is right; a flat battery forgets it again.")
    elif found.rtc_present or found.x86:
        yield ok("RTC", "there is a clock that goes on without power" if found.rtc_present else "kept by the machine")
    else:
        text = "there is no real-time clock: after each start the time is wrong until NTP answers"
        yield note("RTC", text, "Without a network at the site, fit one: dtoverlay=i2c-rtc,ds3231 on a Raspberry Pi.")


def _ntp_remedy(ntp_on: bool | None) -> str:
    if ntp_on is False:
        return "timedatectl set-ntp true"
    return "timedatectl timesync-status, or chronyc sources; many sites let no NTP (UDP port 123) out."


def board(facts: Facts) -> Found:
    """Say whether memory limits work and the supply is strong enough."""
    found = facts.board
    pi = "raspberry pi" in found.model.lower()
    if found.memory_off or (found.cgroup_v2 and "memory" not in found.controllers):
        why = "cgroup_disable=memory" if found.memory_off else "the kernel offers no such controller"
        text = f"memory limits have no effect ({why}): one process can take the whole machine down"
        where = "/boot/firmware/cmdline.txt" if pi else "the kernel's command line"
        yield note("memory", text, f"Write cgroup_enable=memory into {where} and restart the machine.")
    elif found.cgroup_v2:
        yield ok("memory", "memory limits work")
    else:
        yield note("memory", "no cgroup v2 here: whether the unit's memory limits work was not looked at")
    if found.undervoltage:
        text = "undervoltage: the supply is too weak, which damages cards and resets USB adapters"
        yield bad("supply", text, "Use the maker's supply and a short, thick cable.")
    elif found.undervoltage is False:
        yield ok("supply", "no undervoltage now")


def journal(facts: Facts) -> Found:
    """Say what went wrong in the last day."""
    found = facts.journal
    if found.unseen:
        remedy = f"sudo {_JOURNAL}" if facts.unit.systemd else ""
        yield note("journal", f"not read: {found.unseen}", remedy)
    elif found.errors:
        text = f"{counted(len(found.errors), 'error')} in the last day, the last: {found.errors[-1][:200]}"
        yield note("journal", text, "journalctl -u fluxedge -p err --since -1d")
    else:
        yield ok("journal", "no errors in the last day")
