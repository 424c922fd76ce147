"""`fluxedge doctor`: one list of what is right, odd and wrong with a gateway and its machine."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import textwrap
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import click

from fluxedge.cli import aligned, places, show
from fluxedge.cli.main import FAILED, OK
from fluxedge.cli.online import print_json

if typing.TYPE_CHECKING:
    from fluxedge.config.load import Layout, Loaded
    from fluxedge.doctor.bundle import Bundle
    from fluxedge.doctor.facts import Facts
    from fluxedge.doctor.findings import Finding

_PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is told among the findings
_STYLES = {"ok": "green", "note": "yellow", "bad": "red"}
WIDEST, NARROWEST = 120, 40  # lines longer than that are hard to read; narrower ones are the terminal's affair
SUBJECT, NARROW_SUBJECT = 20, 14  # places of a subject; a longer one has a line of its own
NARROW = 100
MORE = ("config", "queue")  # what only a bundle needs


@click.command()
@click.option("--config", "config_dir", type=_PATH, help="Configuration directory [/etc/fluxedge].")
@click.option("--state", "state_dir", type=_PATH, help="State directory of the gateway, whether it runs or not.")
@click.option("--socket", "socket_path", type=_PATH, help="Unix socket of the running gateway.")
@click.option("--bundle", type=_PATH, help="Write an archive without secrets into this file, for whoever helps.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    config_dir: Path | None, state_dir: Path | None, socket_path: Path | None, bundle: Path | None, as_json: bool
) -> None:
    """Look at the gateway and its machine, and say what is wrong and what to do.

    Works whether the gateway runs or not, and changes nothing. It connects to the brokers that the configuration names,
    and opens no serial port. Exit codes: 0 nothing is wrong; 1 something is.
    """
    from fluxedge.cli.doctor_answers import ask_daemon
    from fluxedge.config.load import Layout
    from fluxedge.doctor.checks import judge
    from fluxedge.doctor.findings import counts
    from fluxedge.doctor.gather import gather
    from fluxedge.service import OTHER_FILES

    state = _state(state_dir)
    layout = Layout.standard(places.config_dir(config_dir), state)
    socket = _socket(socket_path, state_dir, layout)
    daemon = ask_daemon(socket, MORE if bundle else ())
    facts, loaded = gather(layout, state, daemon, OTHER_FILES)
    found = judge(facts)
    told = counts(finding for findings in found.values() for finding in findings)
    if bundle is not None:
        _write(bundle, layout, loaded, facts, found)
    if as_json:
        body = {heading: [finding.to_json() for finding in findings] for heading, findings in found.items()}
        print_json({"ok": not told["bad"], "counts": told, "findings": body, "bundle": str(bundle) if bundle else None})
    else:
        for line in lines(found, width()):
            click.echo(line)
        _summary(told, bundle)
    sys.exit(FAILED if told["bad"] else OK)


def _state(given: Path | None) -> Path:
    """Return whose state is looked at: for a user without a gateway of his own, that of the installed one."""
    found = places.state_dir(given)
    named = given is not None or any(name in os.environ for name in ("FLUXEDGE_STATE", "STATE_DIRECTORY"))
    return places.STATE if not named and not found.exists() and places.STATE.exists() else found


def _socket(given: Path | None, state: Path | None, layout: Layout) -> Path:
    """Return where to ask: as every verb, but `[api] socket` counts where nothing was named."""
    from fluxedge.config.sources import read_sources

    if given is None and state is None and "FLUXEDGE_SOCKET" not in os.environ:
        item = read_sources(layout).items.get("api")
        named = item.fields.get("socket") if item is not None else None
        if isinstance(named, str) and named and "\0" not in named:
            return Path(named)
    return places.socket_path(given, state)


def width() -> int:
    """Return how wide lines are: the terminal's width; elsewhere they are not broken (0)."""
    if not sys.stdout.isatty():
        return 0
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))


def lines(found: dict[str, list[Finding]], columns: int) -> Iterator[str]:
    """Yield the list as people read it; `columns` 0 = lines are not broken."""
    subjects = [finding.subject for findings in found.values() for finding in findings]
    most = NARROW_SUBJECT if 0 < columns < NARROW else SUBJECT
    wide = min(most, max(map(aligned.width, subjects), default=0))
    for heading, findings in found.items():
        yield click.style(heading, bold=True)
        for finding in findings:
            yield from _lines(finding, wide, columns)
        yield ""


def _lines(finding: Finding, wide: int, columns: int) -> Iterator[str]:
    verdict = show.styled(f"{finding.verdict:<4}", _STYLES[finding.verdict])
    indent = " " * (2 + 4 + 2 + wide + 2)
    subject = finding.subject + " " * (wide - aligned.width(finding.subject))
    first, *rest = _broken(_clean(finding.text), columns - len(indent))
    if aligned.width(finding.subject) > wide:
        yield f"  {verdict}  {_clean(finding.subject)}"
        yield f"{indent}{first}"
    else:
        yield f"  {verdict}  {_clean(subject)}  {first}"
    for line in rest:
        yield indent + line
    if finding.remedy:
        for i, line in enumerate(_broken(_clean(finding.remedy), columns - len(indent) - 3)):
            yield f"{indent}{'-> ' if i == 0 else '   '}{line}"


def _broken(text: str, columns: int) -> list[str]:
    if columns < 1:
        return [text]
    return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]


def _clean(text: str) -> str:
    """Return a text without what would steer the terminal: files, journal and peers wrote it."""
    return "".join(c if c.isprintable() else "?" for c in text.replace("\n", " "))


def _summary(told: dict[str, int], bundle: Path | None) -> None:
    words = f"{told['ok']} ok, {aligned.counted(told['note'], 'note')}, {told['bad']} bad"
    colour = "red" if told["bad"] else "green"
    click.echo(show.styled(words, colour))
    if bundle is not None:
        click.echo(f"Written: {bundle}")
        click.echo("README.txt in it lists what is in it. Read it before you give it away.")


def _write(path: Path, layout: Layout, loaded: Loaded, facts: Facts, found: dict[str, list[Finding]]) -> None:
    """Write the bundle; it appears whole or not at all, with mode 0600."""
    from fluxedge.cli.landing import landing
    from fluxedge.doctor.bundle import Bundle
    from fluxedge.doctor.redact import Redactor, known_secrets

    made = Bundle(Redactor({*known_secrets(layout), *loaded.config.secrets.values()}))
    _fill(made, loaded, facts, found)
    with landing(path) as target:
        made.write(target, time.time())


def _fill(made: Bundle, loaded: Loaded, facts: Facts, found: dict[str, list[Finding]]) -> None:
    from fluxedge.cli.doctor_answers import metrics
    from fluxedge.config.effective import effective
    from fluxedge.doctor.machine import journal_tail

    made.add_text("report.txt", click.unstyle("\n".join(lines(found, 0))) + "\n")
    seen = dataclasses.asdict(facts)
    answers = seen["daemon"].pop("answers")
    findings = {heading: [finding.to_json() for finding in of_it] for heading, of_it in found.items()}
    made.add_data("report.json", {"findings": findings, "facts": seen})
    made.add_data("config.json", answers.pop("config", None) or effective(loaded.config))
    for name, answer in answers.items():
        made.add_data(f"{name}.json", answer)
    why = facts.daemon.why or facts.daemon.state
    for name in ("version", "status", "problems", "devices", "channels", "uplinks", "queue"):
        if name not in answers:
            made.leave_out(f"{name}.json", facts.daemon.missing.get(name, f"the gateway did not say: {why}"))
    try:
        made.add_text("metrics.txt", metrics(Path(facts.daemon.socket)))
    except OSError as exc:
        made.leave_out("metrics.txt", f"the gateway did not say: {exc}")
    if facts.journal.unseen:
        made.leave_out("journal.txt", facts.journal.unseen)
    else:
        made.add_text("journal.txt", journal_tail())
