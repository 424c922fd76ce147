"""`fluxedge verify`: subscribe to a broker and prove from the sequence numbers alone that nothing is missing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path

import click

from fluxedge.cli.durations import duration as a_duration
from fluxedge.cli.main import FAILED, OK

if typing.TYPE_CHECKING:
    from rich.console import RenderableType

    from fluxedge.mqtt import Session, Settings
    from fluxedge.problems import Problem
    from fluxedge.verify import Ledger, Verifier

TOPICS = ("fluxedge/{gateway}/rounds", "fluxedge/{gateway}/events")
REDRAW_S = 0.5
LINE_S = 10.0  # without a terminal
_SHOWN_RANGES = 12


@dataclass(slots=True)
class Watch:
    """One verification."""

    verifier: Verifier
    since: int | None  # 1: from the first record of each epoch; None: from the first that came
    begun_s: float = field(default_factory=time.monotonic)
    lost: str = ""  # why the connection ended before its time

    @property
    def missing(self) -> int:
        """Return how many records should have come and did not."""
        return sum(hi - lo + 1 for ledger in self.verifier.ledgers.values() for lo, hi in ledger.missing(self.since))

    @property
    def records(self) -> int:
        """Return how many records came."""
        return sum(ledger.records for ledger in self.verifier.ledgers.values())

    @property
    def elapsed_s(self) -> float:
        """Return for how long it runs."""
        return time.monotonic() - self.begun_s


@click.command()
@click.option("--broker", "url", required=True, help="mqtt://HOST[:1883] or mqtts://HOST[:8883].")
@click.option("--gateway", default="+", help="One gateway's id [every gateway].")
@click.option("--uplink", default="", help="The gateway's uplink that leads to this broker: only its gaps count.")
@click.option("--topic", "topics", multiple=True, help=f"Topics instead of {' and '.join(TOPICS)}.")
@click.option("--duration", type=a_duration, help="End after this time: 30s, 5m, 30 [at Ctrl-C].")
@click.option("--from-start", is_flag=True, help="Also miss what lies before the first record that comes.")
@click.option("--username", default="", help="User name at the broker.")
@click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Its password.")
@click.option("--ca", default="", type=click.Path(dir_okay=False), help="Certificate authority of mqtts:// [system's].")
@click.option("--cert", default="", type=click.Path(dir_okay=False), help="Client certificate.")
@click.option("--key", default="", type=click.Path(dir_okay=False), help="Its key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
def verify(url: str, gateway: str, topics: tuple[str, ...], duration: float | None, **options: typing.Any) -> None:
    """Subscribe and report what is missing, came twice, or was announced as a gap, per gateway, epoch and lane.

    Every record carries a number in its lane, and a lane has no holes: what does not come is seen at once. A slow
    subscriber can be the cause, too: brokers drop what they cannot keep for it (Mosquitto: max_queued_messages).

    A gap that the gateway announced explains a hole only where it is known to be a gap of this broker's uplink: name it
    with --uplink when the gateway has more than one.

    Exit codes: 0 records came and none is missing, 1 otherwise.
    """
    from fluxedge.problems import LinkProblem
    from fluxedge.verify import Verifier

    try:
        settings = _settings(url, options)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    except LinkProblem as problem:
        raise _failed(problem) from problem
    watch = Watch(Verifier(options["uplink"]), 1 if options["from_start"] else None)
    wanted = [topic.replace("{gateway}", gateway) for topic in topics or TOPICS]
    try:
        asyncio.run(_listen(watch, settings, wanted, duration, quiet=options["as_json"]))
    except LinkProblem as problem:
        raise _failed(problem) from problem
    if options["as_json"]:
        click.echo(json.dumps(summary(watch), indent=2))
    else:
        click.echo("\n".join(conclusion(watch)))
    sys.exit(OK if watch.records and not watch.missing and not watch.lost else FAILED)


def _failed(problem: Problem) -> click.exceptions.Exit:
    click.echo(f"{problem.message}\n{problem.hint}".rstrip(), err=True)
    return click.exceptions.Exit(FAILED)


def _settings(url: str, options: dict[str, typing.Any]) -> Settings:
    """Raises ValueError: not a broker's URL, or half of a client certificate; LinkProblem: a file cannot be used."""
    from fluxedge.config.structs import TlsCfg, UplinkCfg
    from fluxedge.config.uplinks import parse_broker_url
    from fluxedge.mqtt import Settings
    from fluxedge.uplinks.tls import tls_context

    _, host, port = parse_broker_url(url)
    tls = TlsCfg(ca=options["ca"], certificate=options["cert"], key=options["key"])
    file: Path | None = options["password_file"]
    return Settings(
        host=host,
        port=port,
        client_id=f"fluxedge-verify-{secrets.token_hex(4)}",
        username=options["username"],
        password=file.read_text().removesuffix("\n") if file else "",
        tls=tls_context(UplinkCfg(url=url, tls=tls), url, Path.cwd()),
    )


async def _listen(watch: Watch, settings: Settings, topics: list[str], seconds: float | None, *, quiet: bool) -> None:
    import signal

    from fluxedge.cli import broker
    from fluxedge.mqtt import Rejected
    from fluxedge.problems import LinkProblem

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    session = await broker.connect(settings, lambda incoming: _take(watch, incoming.payload))
    try:
        for topic in topics:
            try:
                await session.subscribe(topic)
            except Rejected as exc:
                raise LinkProblem("uplink-refused", f"the broker refuses to let us subscribe to {topic}") from exc
        watch.begun_s = time.monotonic()
        click.echo(f"Subscribed at {settings.where} to {', '.join(topics)}", err=quiet)
        await _show(watch, session, stop, seconds, quiet)
        if not session.running:
            watch.lost = str(session.reason().message)
    finally:
        await session.close()


def _take(watch: Watch, payload: bytes) -> None:
    watch.verifier.take(payload)


async def _show(watch: Watch, session: Session, stop: asyncio.Event, seconds: float | None, quiet: bool) -> None:
    """Show what comes until Ctrl-C, the end of the connection, or of the time."""
    live = None
    if not quiet and sys.stdout.isatty():
        from rich.live import Live

        live = Live(table(watch), auto_refresh=False, transient=True)
        live.start()
    next_line_s = LINE_S
    try:
        while session.running and not stop.is_set() and (seconds is None or watch.elapsed_s < seconds):
            left_s = REDRAW_S if seconds is None else min(REDRAW_S, seconds - watch.elapsed_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s)):
                    await stop.wait()
            if live is not None:
                live.update(table(watch), refresh=True)
            elif not quiet and watch.elapsed_s >= next_line_s:
                next_line_s += LINE_S
                click.echo(f"{watch.elapsed_s:.0f} s: {watch.records:,} records, {watch.missing:,} missing")
    finally:
        if live is not None:
            live.stop()


def _ranges(ranges: typing.Iterable[tuple[int, int]]) -> str:
    found = [f"{lo}" if lo == hi else f"{lo}–{hi}" for lo, hi in ranges]
    more = f" and {len(found) - _SHOWN_RANGES} more ranges" if len(found) > _SHOWN_RANGES else ""
    return ", ".join(found[:_SHOWN_RANGES]) + more


def _count(ranges: typing.Iterable[tuple[int, int]]) -> int:
    return sum(hi - lo + 1 for lo, hi in ranges)


def table(watch: Watch) -> RenderableType:
    """Return what came so far as a table for a terminal."""
    from rich.console import Group
    from rich.text import Text

    from fluxedge.cli.show import Cell, rich_table

    heads = ("gateway", "epoch", "lane", "first", "last", "records", "twice", "gaps", "missing")
    rows: list[list[Cell]] = []
    for (gateway, epoch, lane), ledger in sorted(watch.verifier.ledgers.items()):
        missing = _count(ledger.missing(watch.since))
        numbers = [ledger.first, ledger.last, ledger.records, ledger.duplicate_records, _count(ledger.gaps)]
        cell: Cell = (f"{missing:,}", "red bold" if missing else "green")
        rows.append([gateway, str(epoch), lane, *(f"{number:,}" for number in numbers), cell])
    foot = (
        f"\n{watch.elapsed_s:.0f} s, {watch.records / max(watch.elapsed_s, 0.001):,.1f} records a second. Ctrl-C ends."
    )
    return Group(rich_table(heads, rows, right=range(3, 9)), Text(foot if rows else "\nNothing came yet. Ctrl-C ends."))


def conclusion(watch: Watch) -> list[str]:
    """Return the result in words."""
    found = []
    for (gateway, epoch, lane), ledger in sorted(watch.verifier.ledgers.items()):
        found.append(f"{gateway}, epoch {epoch}, {lane}: {_words(ledger)}")
        missing = ledger.missing(watch.since)
        if missing:
            found.append(click.style(f"  missing: {_count(missing):,} records: {_ranges(missing)}", fg="red"))
        for uplink, given_up in sorted(ledger.announced.items()):
            whose = f"by the uplink {uplink}" if uplink else "by the gateway"
            useless = "" if watch.verifier.counts(gateway, uplink) else ", which explains nothing here"
            found.append(f"  announced as given up {whose}{useless}: {_count(given_up):,}: {_ranges(given_up)}")
        if ledger.duplicate_records:
            found.append(f"  came twice: {ledger.duplicate_records:,}: {_ranges(ledger.duplicates)}")
    found += _advice(watch)
    if watch.verifier.unreadable:
        found.append(f"{watch.verifier.unreadable:,} messages on these topics are none of a gateway's")
    if watch.lost:
        found.append(click.style(f"The connection was lost: {watch.lost}", fg="red"))
    if not watch.records:
        found.append(click.style("No record came. Are the topics right, and does a gateway send there?", fg="red"))
    else:
        verdict = f"{watch.missing:,} of them missing" if watch.missing else "nothing is missing"
        colour = "red" if watch.missing else "green"
        words = f"{watch.records:,} records in {watch.elapsed_s:.1f} s: {verdict}"
        found.append(click.style(words, fg=colour, bold=True))
    return found


def _advice(watch: Watch) -> list[str]:
    """Return why gaps that were announced do not count."""
    verifier = watch.verifier
    with_gaps = {gateway for (gateway, _, _), ledger in verifier.ledgers.items() if ledger.announced}
    found = []
    for gateway in sorted(with_gaps):
        names = " and ".join(sorted(filter(None, verifier.uplinks[gateway])))
        if verifier.ambiguous(gateway):
            text = f"{gateway} has the uplinks {names}. Which leads here is not known, so no gap explains a hole."
            found.append(click.style(f"{text} Say it: --uplink ID", fg="yellow"))
        elif verifier.uplink and verifier.uplink not in verifier.uplinks[gateway]:
            text = f"No event of {gateway} names the uplink {verifier.uplink}; they name {names or 'none'}."
            found.append(click.style(text, fg="yellow"))
    return found


def _words(ledger: Ledger) -> str:
    from fluxedge.cli.aligned import counted

    came = f"{counted(ledger.records, 'record')} in {counted(ledger.messages, 'message')}"
    return f"{ledger.first:,}–{ledger.last:,}, {came}"


def summary(watch: Watch) -> dict[str, typing.Any]:
    """Return the result for programs."""
    return {
        "records": watch.records,
        "missing": watch.missing,
        "unreadable": watch.verifier.unreadable,
        "uplink": watch.verifier.uplink,
        "ambiguous": sorted(gateway for gateway in watch.verifier.uplinks if watch.verifier.ambiguous(gateway)),
        "seconds": round(watch.elapsed_s, 1),
        "lost": watch.lost,
        "streams": [
            {
                "gateway": gateway,
                "epoch": epoch,
                "lane": lane,
                "first": ledger.first,
                "last": ledger.last,
                "records": ledger.records,
                "messages": ledger.messages,
                "duplicates": ledger.duplicate_records,
                "out_of_order": ledger.out_of_order,
                "missing": [list(pair) for pair in ledger.missing(watch.since)],
                "gaps": [list(pair) for pair in ledger.gaps],
                "announced": {
                    uplink: [list(pair) for pair in given_up] for uplink, given_up in sorted(ledger.announced.items())
                },
            }
            for (gateway, epoch, lane), ledger in sorted(watch.verifier.ledgers.items())
        ],
    }
