"""`fluxedge status`."""

from __future__ import annotations

import click

from fluxedge.cli import aligned, queue_table, show
from fluxedge.cli.online import Daemon, Data, Trouble, options, print_json
from fluxedge.config.mistakes import closest

PARTS = ("devices", "channels", "uplinks", "problems", "log")
_STATES = ("ok", "offline", "waiting", "disabled")
_SHOWN_PROBLEMS = 20


@click.command()
@click.argument("what", required=False, default="")
@options
def status(what: str, daemon: Daemon, as_json: bool) -> None:
    """Show what runs, what is wrong and what to do about it.

    WHAT is devices, channels, uplinks, problems or log for a list of those, or the id of a device, channel or uplink
    for everything about it.
    """
    if what in ("devices", "channels", "uplinks", "problems"):
        found = daemon.get(f"/{what}")
        if as_json:
            print_json(found)
        else:
            _LISTS[what](found)
        return
    if what and what != "log":
        _item(daemon, what, as_json)
        return
    found = daemon.get("/status")
    if as_json:
        print_json(found["log"] if what else found)
    elif what:
        click.echo(_log_line(found["log"]))
    else:
        _overview(found, _refused(daemon))


def _refused(daemon: Daemon) -> list[tuple[str, str]]:
    """Return a line about records in quarantine; their problem does not outlive a restart."""
    try:
        oldest = daemon.get("/queue/quarantine", limit="1")
    except Trouble:  # the log cannot be read just now, which is a problem that is shown
        return []
    since = [f"records that {row['uplink']} refused, since {show.moment(row['at_us'])}" for row in oldest]
    return [("refused", f"{line}: fluxedge queue show") for line in since]


def _overview(found: Data, refused: list[tuple[str, str]]) -> None:
    gateway, log = found["gateway"], found["log"]
    name = f"{gateway['label']} ({gateway['id']})" if gateway["label"] else gateway["id"]
    since = f"up {show.age(gateway['started_us'])}, since {show.moment(gateway['started_us'])}"
    click.echo(f"{name}   fluxedge {gateway['version']}   {since}")
    rows = [
        ("channels", _counts(found["channels"], ("open", "closed"))),
        (
            "devices",
            f"{_counts(found['devices'], ('ok', 'offline', 'waiting', 'disabled'))}; {found['points']:,} points",
        ),
        *(("uplink", _uplink_line(uplink)) for uplink in found["uplinks"]),
        *refused,
        ("log", _log_line(log)),
        *_flash_rows(found["flash"]),
        ("loop", f"late by {found['loop']['lag_p99_ms']:g} ms (99 %), {found['loop']['lag_max_ms']:g} ms at most"),
    ]
    if found["dropped"]:
        rows.append(("dropped", _dropped_line(found["dropped"])))
    if not found["uplinks"]:
        rows.insert(2, ("uplinks", "none configured: what is read stays in the log"))
    if not gateway["clock_trusted"]:
        rows.append(("clock", "not set yet: what is read goes out marked as unsynced"))
    elif gateway["clock_stepped_us"]:
        rows.append(
            (
                "clock",
                f"stepped by {gateway['clock_step_us'] / 1e6:+,.1f} s at {show.moment(gateway['clock_stepped_us'])}",
            )
        )
    if found["restart_needed"]:
        tables = ", ".join(f"[{name}]" for name in found["restart_needed"])
        rows.append(("restart", f"needed: {tables} of fluxedge.toml changed since the start"))
    for line in aligned.lines(rows):
        click.echo(line)
    click.echo()
    _problems(found["problems"])


def _counts(found: dict[str, int], order: tuple[str, ...]) -> str:
    words = [f"{found[name]} {show.styled(name)}" for name in order if found.get(name)]
    if found.get("none"):
        words.append(f"{found['none']} without a wire")
    return ", ".join(words) or "none"


def _dropped_line(dropped: dict[str, int]) -> str:
    words = []
    if count := dropped.get("rounds"):
        words.append(f"{aligned.counted(count, 'round')} that could not be stored")
    if count := dropped.get("events"):
        words.append(f"{aligned.counted(count, 'event')} while nothing could be written")
    if count := dropped.get("bytes"):
        words.append(f"{show.size(count)} received that belong to no answer")
    return ", ".join(words)


def _uplink_line(uplink: Data) -> str:
    behind = sum(lane["records"] for lane in uplink["lanes"])
    oldest = min((lane["oldest_us"] for lane in uplink["lanes"] if lane["oldest_us"]), default=0)
    words = f"{uplink['id']} {show.styled(uplink['state'])}"
    if since_us := uplink["connected_since_us"] or uplink.get("down_since_us"):
        words += f" for {show.age(since_us)}"
    words += f", {aligned.counted(behind, 'record')} behind"
    if behind and oldest:
        words += f", the oldest {show.age(oldest)} old"
    if uplink["autonomy_h"] is not None and uplink["state"] == "down":
        words += f"; the log can wait {show.span(uplink['autonomy_h'] * 3600)} more"
    return words


def _log_line(log: Data) -> str:
    records = sum(lane["records"] for lane in log["lanes"])
    oldest = min((lane["oldest_us"] for lane in log["lanes"] if lane["oldest_us"]), default=0)
    reach = f" of the last {show.age(oldest)}" if oldest else ""
    growth = f", growing {show.size(log['bytes_per_s'])}/s" if log["bytes_per_s"] else ""
    volatile = log.get("memory_bytes", 0)  # a gateway that was started before an upgrade does not say
    memory = f" ({show.size(volatile)} in memory only)" if volatile else ""
    return (
        f"{aligned.counted(records, 'record')}{reach}, {show.size(log['used_bytes'])} of at most "
        f"{show.size(log['cap_bytes'])}{memory}{growth}; {show.size(log['free_bytes'])} free on the disk"
    )


def _flash_rows(flash: Data) -> list[tuple[str, str]]:
    """Return what the log costs its device, as soon as it is known."""
    words = []
    if flash["bytes_per_day"] is not None:
        words.append(f"fluxedge writes {show.size(flash['bytes_per_day'])} a day")
    if flash["bytes_per_point"] is not None:
        words.append(f"{flash['bytes_per_point']:.1f} bytes a point")
    line = ", ".join(words)
    if flash["device_bytes_per_day"] is not None:
        line += f"; all programs together {show.size(flash['device_bytes_per_day'])} a day to this disk"
    if flash["used_percent"] is not None:
        line += f"; {flash['used_percent']:.0f} % of its life used"
    if flash["life_days"] is not None:
        days = flash["life_days"]
        line += "; at this pace it lasts " + (f"{days / 365.25:,.1f} years" if days >= 730 else f"{days:.0f} days")
    return [("flash", line.lstrip("; "))] if line else []


def _problems(found: Data) -> None:
    if not found:
        click.echo(show.styled("No problems.", "green"))
        return
    click.echo(show.styled(f"{aligned.counted(len(found), 'problem')}:", "red"))
    for problem in found[:_SHOWN_PROBLEMS]:
        times = f", {problem['count']} times" if problem["count"] > 1 else ""
        click.echo(f"  {problem['item']}: {problem['code']} for {show.age(problem['since_us'])}{times}")
        click.echo(f"      {problem['message']}")
        if problem["hint"]:
            click.echo(f"      -> {problem['hint']}")
    if len(found) > _SHOWN_PROBLEMS:
        click.echo(f"  and {len(found) - _SHOWN_PROBLEMS} more: fluxedge status problems --json")


def _devices(found: Data) -> None:
    heads = (
        "device",
        "label",
        "driver",
        "channel",
        "state",
        "for",
        "answered",
        "latency",
        "points",
        "silent",
        "overruns",
    )
    rows = [
        (
            device["id"], device["label"], device["driver"], device["channel"], show.state(device["state"]),
            show.age(device["since_us"]) if device["since_us"] else "-",
            f"{show.age(device['last_answer_us'])} ago" if device["last_answer_us"] else "never",
            f"{device['latency_ms']:.1f} ms", str(device["points"]), str(device["silent"]), str(device["overruns"]),
        )
        for device in found
    ]  # fmt: skip
    drop = ("points", "overruns", "silent", "latency", "driver", "label", "answered", "for", "channel")
    show.table(heads, rows, right=(7, 8, 9, 10), drop=drop, fold=("label",))


def _channels(found: Data) -> None:
    heads = ("channel", "label", "url", "state", "for", "opens", "sent", "received", "devices")
    rows = [
        (
            channel["id"], channel["label"], channel["url"] or "-", show.state(channel["state"]),
            show.age(channel["since_us"]) if channel["since_us"] else "-", str(channel["opens"]),
            show.size(channel["sent_bytes"]), show.size(channel["received_bytes"]), str(len(channel["devices"])),
        )
        for channel in found
    ]  # fmt: skip
    drop = ("devices", "opens", "sent", "received", "label", "for", "url")
    show.table(heads, rows, right=(5, 6, 7, 8), drop=drop, fold=("label", "url"))


_LISTS = {"devices": _devices, "channels": _channels, "uplinks": queue_table.show_queue, "problems": _problems}


def _item(daemon: Daemon, name: str, as_json: bool) -> None:
    """Show everything about one device, channel or uplink."""
    kinds = {kind: {item["id"]: item for item in daemon.get(f"/{kind}")} for kind in ("devices", "channels", "uplinks")}
    found = {kind.removesuffix("s"): items[name] for kind, items in kinds.items() if name in items}
    if not found:
        meant = closest(name, [*PARTS, *(id_ for items in kinds.values() for id_ in items)])
        hint = f"Did you mean {meant}?" if meant else f"Ask for {', '.join(PARTS)}, or an id that they list."
        raise Trouble(f'there is no device, channel or uplink "{name}"', hint)
    wrong = [p for p in daemon.get("/problems") if p["item"].rpartition(":")[2] == name]
    if as_json:
        print_json({**found, "problems": wrong})
        return
    for kind, item in found.items():
        click.echo(f"{kind} {name}")
        for line in aligned.lines(
            [
                ("  " + key.removesuffix("_us").replace("_", " "), _field(key, field))
                for key, field in item.items()
                if key != "id"
            ]
        ):
            click.echo(line)
    click.echo()
    _problems(wrong)


def _field(key: str, field: Data) -> str:
    if key.endswith("_us"):
        return show.moment(field) if field else "-"
    if key == "lanes":
        return ", ".join(f"{lane['lane']}: {lane['records']} behind" for lane in field)
    if isinstance(field, list):
        return ", ".join(map(str, field))
    return show.styled(field) if key == "state" else str(field)
