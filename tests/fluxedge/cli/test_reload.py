"""`fluxedge reload`: what was taken, what was refused, with file and line."""

from __future__ import annotations

import json
from types import SimpleNamespace

from fluxedge.config.mistakes import Mistake
from tests.fluxedge.api.running import Running


def outcome(**given: object) -> SimpleNamespace:
    """Return what the service tells of a reload."""
    nothing: dict[str, object] = {
        "started": (), "stopped": (), "restart_needed": (), "mistakes": (), "kept": {}, "left_out": {},
    }  # fmt: skip
    return SimpleNamespace(**nothing | given)


def reloads(run: Running, found: object) -> None:
    async def reload() -> object:
        return found

    run.gateway.reload = reload


async def test_it_lists_what_is_new_changed_and_removed(run: Running, say) -> None:
    reloads(run, outcome(started=("device:a", "device:b"), stopped=("device:b", "uplink:c"), restart_needed=("log",)))
    done = await say("reload")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()[:3]] == [
        ["new", "device:a"], ["changed", "device:b"], ["removed", "uplink:c"],
    ]  # fmt: skip
    assert "[log] of fluxedge.toml has changed: it takes effect after a restart." in done.stdout


async def test_what_is_refused_is_named_with_file_and_line_and_exit_78(run: Running, say) -> None:
    wrong = Mistake(
        "devices/a.toml", 7, "devices.m1.unit", "300 is not in 1..247", "Look at the DIP switches.", "device:m1"
    )
    reloads(run, outcome(started=("device:b",), mistakes=(wrong,), kept={"device:m1": "300 is not in 1..247"}))
    done = await say("reload")
    assert done.exit_code == 78
    assert "devices/a.toml:7: devices.m1.unit: 300 is not in 1..247" in done.stderr
    assert "device:m1 goes on as its last good version" in done.stderr
    assert "new      device:b" in done.stdout
    assert json.loads((await say("reload", "--json")).stdout)["mistakes"][0]["line"] == 7


async def test_nothing_changed_is_said(run: Running, say) -> None:
    reloads(run, outcome())
    assert (await say("reload")).stdout == "Nothing that runs has changed.\n"


async def test_a_gateway_without_a_directory_cannot_reload(run: Running, say) -> None:
    done = await say("reload")
    assert done.exit_code == 1
    assert "without a configuration directory" in done.stderr
