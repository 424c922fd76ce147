"""`fluxedge write`."""

from __future__ import annotations

import uuid

import click

from fluxedge.cli import show
from fluxedge.cli.durations import duration
from fluxedge.cli.main import FAILED, OK, UNSURE
from fluxedge.cli.online import Daemon, Data, Trouble, options, print_json

EXIT = {"done": OK, "refused": FAILED, "failed": FAILED, "sent": UNSURE, "unknown": UNSURE}
_WORDS = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
_MARGIN_S = 30.0  # beyond the command's own time: the device's time-out and the commits


@click.command(context_settings={"ignore_unknown_options": True})  # so that -5 is a value
@click.argument("point", metavar="DEVICE.POINT")
@click.argument("value")
@click.option(
    "--timeout", "timeout_s", type=duration, default="10s", help="The command dies when it was not sent by then [10s]."
)
@click.option("--key", default="", help="Idempotency key: repeating it gives the first answer, no second write.")
@click.option("--wait", is_flag=True, help="Queue for an offline device until --timeout, instead of being refused.")
@options
def write(point: str, value: str, timeout_s: float, key: str, wait: bool, daemon: Daemon, as_json: bool) -> None:
    """Write a value to a point and read it back.

    VALUE is a number, true/false/on/off, a text, or the name of an enum's value, as the point's type demands.
    Exit codes: 0 written and read back; 1 refused, nothing was written; 3 fluxedge does not run; 4 not permitted;
    5 sent, but whether the device took it is not certain: look before repeating.
    """
    known = daemon.get(f"/points/{point}")
    body = {
        "device": known["device"],
        "point": point.partition(".")[2],
        "value": parse(known, value),
        "key": key or uuid.uuid4().hex,
        "timeout_ms": int(timeout_s * 1000),
        "wait": wait,
    }
    result = daemon.post("/commands", body, timeout_s + _MARGIN_S)
    if as_json:
        print_json(result)
    else:
        _tell(known, result)
    raise SystemExit(EXIT[result["state"]])


def parse(point: Data, text: str) -> float | int | bool | str:
    """Return the value that a text means for a point.

    Raises:
        Trouble: it means nothing there; the hint says what would.
    """
    kind = point["type"]
    names = {name.lower(): int(number) for number, name in point["enum"].items()}
    if text.lower() in names:
        return names[text.lower()]
    if kind == "text":
        return text
    if kind == "bool" and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind in ("int", "float"):
        try:
            return int(text, 0)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            pass
    hints = {
        "bool": "Write true, false, on or off.",
        "bytes": "Points that are bytes cannot be written from here.",
    }
    hint = f"Write one of {', '.join(point['enum'].values())}." if names else hints.get(kind, "Write a number.")
    raise Trouble(f'{point["id"]}: "{text}" is no value for it', hint)


def _tell(known: Data, result: Data) -> None:
    """Say before -> after, and how certain that is."""

    def shown(value: Data) -> str:
        text = known["enum"].get(str(value), "") if not isinstance(value, bool) else ""
        return show.value({"value": value, "text": text, "unit": known["unit"]})

    state = result["state"]
    if state == "done":
        before = f"{shown(result['before'])} -> " if result["before"] is not None else ""
        click.echo(f"{known['id']}: {before}{shown(result['read_back'])}  {show.styled('verified', 'green')}")
        return
    if state == "sent":
        back = "nothing can be read back" if result["read_back"] is None else f"it reads {shown(result['read_back'])}"
        click.echo(f"{known['id']}: {shown(result['value'])} was sent, {back}: {result['message']}", err=True)
    else:
        words = {"refused": "refused, nothing was written", "failed": "the device refused it"}
        click.echo(
            f"{known['id']}: {words.get(state, 'not known whether it was written')}: {result['message']}", err=True
        )
    if result["hint"]:
        click.echo(result["hint"], err=True)
