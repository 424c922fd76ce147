"""The demo's screen fits the terminal, and its lines can be pasted."""

from __future__ import annotations

import time

import click
import pytest
from rich.console import Console

from fluxedge.cli import aligned, demo_screen
from fluxedge.cli.demo_screen import SHOWN, Facts
from fluxedge.cli.demo_tally import Now, Tally
from fluxedge.model import Point

POINTS = {
    (device, name): Point(name, "f", label="有功功率 / Active power", unit="kW.h")
    for device, names in SHOWN.items()
    for name in names
}
FACTS = Facts(
    "Mosquitto",
    1883,
    "/tmp/fluxedge-demo",
    6,
    demo_screen.paste_lines("/a/long/way/to/.venv/bin/fluxedge", "/tmp/fluxedge-demo", 1883),
)
STATUS = {"log": {"lanes": [{"head": 7}]}, "uplinks": [{"records": 7}], "problems": []}
PROBLEM = {"item": "device:io", "code": "no-reply", "message": "no answer within 1 s, " + "and so on " * 20}


def tally(problems: int = 0) -> Tally:
    found = Tally(POINTS, status=STATUS | {"problems": [PROBLEM] * problems})
    found.now = {key: Now(12345.678, "GOOD", int(time.time() * 1e6)) for key in POINTS}
    return found


def drawn(width: int, height: int, problems: int = 0) -> list[str]:
    console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(demo_screen.frame(tally(problems), FACTS, 12.0, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("problems", [0, 3])
def test_the_screen_fits(width: int, height: int, problems: int) -> None:
    lines = drawn(width, height, problems)
    assert len(lines) < height
    assert max(map(aligned.width, lines)) <= width


def test_a_small_screen_shows_the_best_point_of_every_device() -> None:
    text = "\n".join(drawn(80, 24))
    for device in SHOWN:
        assert device in text


def test_a_large_screen_shows_all_points_and_their_labels() -> None:
    lines = drawn(140, 60)
    assert sum("Active power" in line for line in lines) == len(POINTS)
    assert not any("Active power" in line for line in drawn(80, 60))


def test_a_problem_is_shown_in_one_line() -> None:
    assert sum("device:io: no answer within 1 s" in line for line in drawn(80, 24, 3)) == 1


@pytest.mark.parametrize("width", [30, 60, 78, 200])
def test_folded_commands_are_the_same_commands(width: int) -> None:
    for command in FACTS.paste:
        lines = demo_screen.folded(command, width)
        assert " ".join(line.removesuffix("\\").strip() for line in lines) == command
        assert all(line.endswith(" \\") for line in lines[:-1])


def test_short_commands_are_not_folded() -> None:
    assert demo_screen.folded("fluxedge watch", 40) == ["fluxedge watch"]


def test_the_summary_has_every_number() -> None:
    found = tally(1)
    found.values = 1234
    lines = [click.unstyle(line) for line in demo_screen.summary(found, found.totals(), FACTS, 8.0)]
    words = [line.split() for line in lines]
    assert ["points", "read", "1,234"] in [row[:3] for row in words]
    assert ["records", "committed", "7"] in [row[:3] for row in words]
    assert ["acknowledged", "7", "by", "Mosquitto"] in [row[:4] for row in words]
    assert ["missing", "0"] in [row[:2] for row in words]
    assert lines[-1].strip().startswith("device:io: no-reply: no answer")


def test_totals_that_are_not_known_yet_are_no_zero() -> None:
    assert "… records committed" in demo_screen.line(Tally(POINTS), 1.0)
