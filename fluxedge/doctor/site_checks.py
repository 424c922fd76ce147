"""Judge the gateway: configuration, ports, brokers, buses, problems that stand."""

from __future__ import annotations

import typing

from fluxedge.doctor.facts import Data, Facts, Reach, SerialPort
from fluxedge.doctor.findings import Finding, Found, bad, counted, note, ok, size

TOLD = 5  # of one kind; a hostile configuration has a hundred thousand mistakes
LAG_MS = 50.0  # what the event loop may be late by at most
SETTLED_S = 120.0  # the first minute after a start is no measure
SILENT_SHARE, SILENT_LEAST = 0.01, 5
ENDS_SOON_DAYS, ENDS_DAYS = 7.0, 30.0
DAY_S = 86_400.0
_PORT_GROUPS = ("dialout", "uucp")  # of Debian, and of others
_MILD = ("restart-needed", "clock-unsynced", "uplink-old-version", "config-unwatched", "late-reply-possible", "overrun")


def daemon(facts: Facts) -> Found:
    """Say whether the gateway answers."""
    found = facts.daemon
    if found.state == "answers":
        status = found.answers.get("status", {})
        name = status.get("gateway", {}).get("id", "")
        yield ok("gateway", f"{name} answers at {found.socket}" if name else f"it answers at {found.socket}")
        yield from _status(status, facts.time.now_s)
        for what, why in sorted(found.missing.items()):
            yield note("gateway", f"it did not say its {what}: {why}")
    elif found.state == "absent":
        yield bad("gateway", f"it does not run: {found.why}", "systemctl start fluxedge, or name its --state DIR.")
    elif found.state == "forbidden":
        text = f"{facts.user} may not talk to it ({found.socket}); what it knows is missing here"
        yield note("gateway", text, f"Run it as root, or: usermod -aG fluxedge {facts.user}, then log in again.")
    elif found.state == "silent":
        text = f"it does not answer at {found.socket}: {found.why}"
        yield bad("gateway", text, "journalctl -u fluxedge -n 100; where it hangs, systemd's watchdog starts it again.")
    else:
        yield bad("gateway", f"{found.socket}: {found.why}", "journalctl -u fluxedge -n 100")


def _status(status: Data, now_s: float) -> Found:
    if tables := status.get("restart_needed"):
        names = ", ".join(f"[{table}]" for table in tables)
        yield note("restart", f"{names} of fluxedge.toml changed since the start", "systemctl restart fluxedge")
    settled = now_s - status.get("gateway", {}).get("started_us", 0) / 1e6 > SETTLED_S
    if settled and (lag_ms := status.get("loop", {}).get("lag_max_ms", 0.0)) > LAG_MS:
        text = f"its event loop was late by {lag_ms:g} ms in the last minute: the machine is overloaded"
        yield note("load", text, "top: what else runs here?")


def configuration(facts: Facts) -> Found:
    """Say what is wrong with the configuration files, and what would run instead."""
    found = facts.configuration
    if found.unseen:
        yield note("configuration", f"{facts.user} may not read all of {found.directory}: {found.unseen}", "Use sudo.")
    elif found.fatal:
        text = "the gateway would not start: fluxedge.toml cannot be used, and there is no last good version"
        yield bad("configuration", text, "fluxedge check")
    elif not found.mistakes:
        words = [counted(found.channels, "channel"), counted(found.devices, "device"), counted(found.uplinks, "uplink")]
        yield ok("configuration", f"{found.directory}: {', '.join(words)}, no mistakes")
        if not found.devices:
            yield note("devices", "there are none: nothing is read", "fluxedge check shows how to write a first one.")
    yield from _first(bad, "mistake", found.mistakes, "fluxedge check")
    yield from _first(note, "warning", found.warnings, "fluxedge check")
    kept = [f"{item.replace(':', ' ')} goes on as its last good version" for item in sorted(found.kept)]
    left = [f"{item.replace(':', ' ')} does not run" for item in sorted(found.left_out)]
    if kept or left:
        yield bad("in use", "; ".join([*kept, *left][:TOLD]), "Correct the files, then: fluxedge reload")
    if found.last_good == "none":
        yield note("last good", "nothing is remembered yet: a mistake in fluxedge.toml would keep it from starting")
    elif found.last_good == "unseen":
        yield note("last good", f"{facts.user} may not see whether one is remembered")
    elif found.last_good:
        yield note("last good", found.last_good, "It is written anew at the next successful reload.")
    else:
        yield ok("last good", "the configuration applied last is remembered")


def _first(make: typing.Callable[[str, str, str], Finding], what: str, texts: tuple[str, ...], remedy: str) -> Found:
    for text in texts[:TOLD]:
        yield make(what, text, remedy if text is texts[0] else "")
    if len(texts) > TOLD:
        yield make(what, f"and {counted(len(texts) - TOLD, 'more')}".replace("mores", "more"), "")


def sizes(facts: Facts) -> Found:
    """Say what log and history take."""
    state, cfg = facts.state, facts.configuration
    if state.unseen or not (state.exists and state.is_dir):
        return
    if cfg.backlog_bytes:
        yield ok("log", f"{size(state.log_bytes)} of at most {size(cfg.backlog_bytes)}")
        days = counted(state.history_days, "day")
        yield ok("history", f"{days}, {size(state.history_bytes)} of at most {size(cfg.history_bytes)}")
        planned = cfg.backlog_bytes + cfg.history_bytes + cfg.free_space_bytes
        if planned > state.total_bytes:
            text = f"log, history and floor may take {size(planned)}, the disk has {size(state.total_bytes)}"
            yield note("caps", text, "Lower [log] backlog or history, so that the oldest records go by plan.")
    if state.set_aside:
        text = f"set aside because it was damaged: {', '.join(state.set_aside[:TOLD])}"
        yield note("damage", text, "Look after the disk (dmesg, smartctl); docs/log.md says what was saved.")


def serial_ports(facts: Facts) -> Found:
    """Say whether every serial line can be opened."""
    for port in facts.ports:
        yield from _port(port, facts.user)


def _port(port: SerialPort, user: str) -> Found:
    subject = f"port {port.channel}"
    if not port.exists:
        yield bad(subject, f"there is no {port.path}", "Is the adapter plugged in? ls -l /dev/serial/by-id/")
    elif not port.is_tty:
        yield bad(subject, f"{port.path} is no serial port", "ls -l /dev/serial/by-id/ lists what there is.")
    elif port.blocked:
        text = f"{port.blocked} may not open {port.path}, which is for group {port.group}"
        yield bad(subject, text, _way_in(port))
    elif port.holders:
        text = f"{port.path} is open in another program: {', '.join(port.holders[:TOLD])}"
        yield bad(subject, text, "Stop it: two masters on one line disturb each other.")
    elif port.holders_unseen:
        text = f"{port.path} is there; {user} cannot see whether other programs have it open"
        yield note(subject, text, "sudo fluxedge doctor")
    else:
        yield ok(subject, f"{port.path} is there and free for the gateway")
    if port.exists and port.path.startswith(("/dev/ttyUSB", "/dev/ttyACM")):
        text = f"{port.path} can be another adapter after a restart"
        yield note(subject, text, "Name it by /dev/serial/by-id/… or /dev/serial/by-path/…")


def _way_in(port: SerialPort) -> str:
    """Return how to let the gateway in: by the group of serial ports, never by a group that may do more."""
    if port.group in _PORT_GROUPS and not port.blocked.startswith("uid "):
        return f"usermod -aG {port.group} {port.blocked}, then restart it."
    if port.group in _PORT_GROUPS:
        return f"Add the user that runs the gateway to group {port.group}: usermod -aG {port.group} USER"
    return f'A udev rule gives it to the group of serial ports: GROUP="{_PORT_GROUPS[0]}", MODE="0660"'


def listening(facts: Facts) -> Found:
    """Say whether the API's TCP address can be had."""
    listen = facts.configuration.listen
    port = listen.rpartition(":")[2]
    if port.isdigit() and 0 < int(port) < 1024:
        text = f"[api] listen: port {port} is below 1024, which only root may open"
        yield bad("API", text, 'Give a port from 1024 on, such as "127.0.0.1:8080".')
    elif listen:
        yield ok("API", f"listens at {listen}, too")


def open_files(facts: Facts) -> Found:
    """Say whether the gateway may open what it needs."""
    limit, needed = facts.files.limit, facts.files.needed
    if limit is None:
        return
    if 0 <= limit < needed:
        remedy = "Raise LimitNOFILE= of the unit: systemctl edit fluxedge"
        yield bad("open files", f"{needed:,} are needed, {limit:,} are permitted", remedy)
    else:
        yield ok("open files", f"{needed:,} are needed, {'any number' if limit < 0 else f'{limit:,}'} permitted")


def brokers(facts: Facts) -> Found:
    """Say whether every broker can be reached."""
    for found in facts.reach:
        yield _broker(found, facts.time.now_s)


def _broker(found: Reach, now_s: float) -> Finding:
    subject = f"uplink {found.uplink}"
    if found.failed == "skipped":
        return note(subject, f"{found.url} was not tried: those before it took too long", "fluxedge check --connect")
    if found.failed == "name":
        remedy = "Is the name right? Does the name server answer? getent ahosts HOST, resolvectl status"
        return bad(subject, f"{found.url}: {found.why}", remedy)
    if found.failed == "connect":
        remedy = "Is there a route, a firewall, a broker at that port?"
        return bad(subject, f"{found.url}: {found.why}", remedy)
    if found.failed == "settings":
        return bad(subject, f"{found.url}: {found.why}", "Look at [uplinks.ID.tls] and credentials/.")
    if found.failed == "tls":
        early = any(words in found.why for words in ("not yet valid", "expired"))
        remedy = (
            "Look at this machine's clock before you look at the certificate."
            if early
            else "docs/troubleshooting.md, The broker: ca, server_name, client certificate."
        )
        return bad(subject, f"{found.url}: TLS: {found.why}", remedy)
    words = f"{found.url} answers in {found.took_ms:.0f} ms"
    if found.shallow:
        return note(subject, f"{words}; TLS was not tried: its settings may not be read", "sudo fluxedge doctor")
    if not found.tls:
        return ok(subject, f"{words}, without TLS")
    words += f", {found.tls}"
    if not found.verified:
        return note(subject, f'{words}; its certificate is not checked (verify = "none")', "Give [uplinks.ID.tls] ca.")
    if found.ends_s is None:
        return ok(subject, words)
    days = (found.ends_s - now_s) / DAY_S
    words += f"; its certificate ends in {counted(max(0, int(days)), 'day')}"
    if days < ENDS_SOON_DAYS:
        return bad(subject, words, "Renew the broker's certificate now.")
    return note(subject, words, "Renew the broker's certificate.") if days < ENDS_DAYS else ok(subject, words)


def buses(facts: Facts) -> Found:
    """Say which devices and lines do badly."""
    devices: list[Data] = facts.daemon.answers.get("devices", [])
    if not devices:
        return
    offline = [device for device in devices if device["state"] == "offline"]
    for device in offline[:TOLD]:
        text = f"silent at {device['channel']}" + ("" if device["last_answer_us"] else "; it has never answered")
        yield bad(f"device {device['id']}", text, "docs/troubleshooting.md, The first value does not come.")
    if len(offline) > TOLD:
        yield bad("devices", f"and {len(offline) - TOLD} more are silent", "fluxedge status devices")
    weak = [device for device in devices if device not in offline and _weak(device)]
    for device in weak[:TOLD]:
        share = 100 * device["silent"] / device["reads"]
        text = f"{share:.1f} % of {device['reads']:,} reads got no answer"
        yield note(f"device {device['id']}", text, "Cable, termination, a longer timeout: docs/troubleshooting.md")
    if not offline and not weak:
        yield ok("devices", f"{counted(len(devices), 'device')}, none is silent")
    for channel in facts.daemon.answers.get("channels", []):
        if channel["suspects"]:
            text = f"{channel['suspects']:,} answers came too late to be trusted"
            yield note(f"channel {channel['id']}", text, "Give its devices a longer timeout.")


def _weak(device: Data) -> bool:
    return bool(device["silent"] >= SILENT_LEAST and device["silent"] > SILENT_SHARE * device["reads"])


def problems(facts: Facts) -> Found:
    """Say every problem that stands, in the gateway's own words."""
    answers = facts.daemon.answers
    if "problems" not in answers:
        return
    silent = {f"device:{device['id']}" for device in answers.get("devices", []) if device["state"] == "offline"}
    standing = [p for p in answers["problems"] if p["code"] != "no-reply" or p["item"] not in silent]  # told before
    for problem in standing[: 4 * TOLD]:
        times = f" ({problem['count']:,} times)" if problem["count"] > 1 else ""
        make = note if problem["code"] in _MILD else bad
        subject = str(problem["item"]).replace(":", " ", 1)
        yield make(subject, f"{problem['code']}: {problem['message']}{times}", problem["hint"])
    if len(standing) > 4 * TOLD:
        yield bad("problems", f"and {len(standing) - 4 * TOLD} more", "fluxedge status problems")
    if not answers["problems"]:
        yield ok("problems", "none stands")
    told = {problem["item"] for problem in standing}
    for uplink in answers.get("uplinks", []):
        behind = sum(lane["records"] for lane in uplink["lanes"])
        if uplink["state"] != "connected" and f"uplink:{uplink['id']}" not in told:
            text = f"not connected, {counted(behind, 'record')} behind"
            hours = uplink["autonomy_h"]
            left = "" if hours is None else f"; the log can wait {hours:,.0f} h more"
            yield bad(f"uplink {uplink['id']}", text + left, "fluxedge status uplinks")
