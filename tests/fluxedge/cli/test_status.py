"""`fluxedge status`: at a glance."""

from __future__ import annotations

import json
import os
import termios
import time
from pathlib import Path

import click
import pytest

from fluxedge.cli import aligned
from fluxedge.clock import SystemClock
from fluxedge.config.structs import UplinkCfg
from fluxedge.problems import DeviceProblem
from tests.conftest import free_port
from tests.fluxedge.api.queues import waiting
from tests.fluxedge.api.running import Running, config, running
from tests.fluxedge.cli.conftest import process, verb


async def test_it_says_who_runs_what_and_what_the_log_holds(run: Running, say) -> None:
    done = await say("status")
    assert done.exit_code == 0
    first, *lines = done.stdout.splitlines()
    assert first.startswith("Heizhaus (gw-test)   fluxedge ")
    assert any(line.startswith("devices") and "2 ok, 1 disabled; 10 points" in line for line in lines)
    assert any(
        line.startswith("log") and "records of the last" in line and "of at most 4.0 GiB" in line for line in lines
    )
    assert "none configured" in done.stdout
    assert lines[-1] == "No problems."


async def test_a_problem_says_since_when_and_what_to_do(run: Running, say) -> None:
    for _ in range(3):
        run.gateway.problems.report("device:boiler-1", DeviceProblem("no-reply", "silent for 1 s", "Check the power."))
    done = await say("status")
    assert "1 problem:" in done.stdout
    assert "device:boiler-1: no-reply for " in done.stdout
    assert ", 3 times" in done.stdout
    assert "silent for 1 s" in done.stdout
    assert "-> Check the power." in done.stdout


async def test_what_was_dropped_is_said_only_when_something_was(run: Running, say) -> None:
    assert "dropped" not in (await say("status")).stdout
    run.gateway.pipeline.dropped_events_total = 3
    run.gateway.pipeline.dropped_rounds_total = 1
    words = "1 round that could not be stored, 3 events while nothing could be written"
    (line,) = [line for line in (await say("status")).stdout.splitlines() if line.startswith("dropped")]
    assert words in line
    assert json.loads((await say("status", "--json")).stdout)["dropped"] == {"rounds": 1, "events": 3}


async def test_what_a_peer_refused_is_said_as_long_as_it_is_kept(tmp_path: Path) -> None:
    async with waiting(tmp_path):
        lines = (await verb("status", "--state", str(tmp_path))).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("refused")]
    assert "records that cloud refused, since " in line
    assert line.endswith(": fluxedge queue show")


async def test_a_quarantine_that_is_empty_is_not_mentioned(run: Running, say) -> None:
    assert not any(line.startswith("refused") for line in (await say("status")).stdout.splitlines())


async def test_what_is_in_memory_only_is_said(run: Running, say, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "in memory only" not in (await say("status")).stdout
    monkeypatch.setattr(type(run.gateway.log), "memory_bytes", 3 * 2**20)
    (line,) = [line for line in (await say("status")).stdout.splitlines() if line.startswith("log ")]
    assert " of at most 4.0 GiB (3.0 MiB in memory only)" in line
    assert json.loads((await say("status", "--json")).stdout)["log"]["memory_bytes"] == 3 * 2**20


async def test_what_the_log_costs_the_disk_is_said_as_soon_as_it_is_known(
    run: Running, say, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "flash" not in (await say("status")).stdout  # a rate needs a minute
    flash = type(run.gateway.flash)
    for name, figure in {
        "bytes_per_point": 7.25, "bytes_per_day": 640 * 2**20, "device_bytes_per_day": 2**30, "used_percent": 20.0,
        "life_days": 400.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(flash, name, figure)
    (line,) = [line for line in (await say("status")).stdout.splitlines() if line.startswith("flash")]
    assert line.split(maxsplit=1)[1] == (
        "fluxedge writes 640 MiB a day, 7.2 bytes a point; all programs together 1.0 GiB a day to this disk; "
        "20 % of its life used; "
        "at this pace it lasts 400 days"
    )
    monkeypatch.setattr(flash, "bytes_per_point", None)
    monkeypatch.setattr(flash, "bytes_per_day", None)
    assert "flash     all programs together 1.0 GiB a day to this disk; 20 %" in (await say("status")).stdout
    assert json.loads((await say("status", "--json")).stdout)["flash"]["life_days"] == 400
    monkeypatch.setattr(flash, "life_days", 4000.0)
    assert "it lasts 11.0 years" in (await say("status")).stdout


async def test_a_step_of_the_clock_is_said(run: Running, say) -> None:
    assert not any(line.startswith("clock") for line in (await say("status")).stdout.splitlines())
    run.gateway.clock_watch.stepped_at_ns = 1_780_000_000 * 10**9
    run.gateway.clock_watch.step_ns = -7_200 * 10**9
    (line,) = [line for line in (await say("status")).stdout.splitlines() if line.startswith("clock")]
    assert "stepped by -7,200.0 s at 2026-0" in line


async def test_json_is_one_object_with_everything(say) -> None:
    found = json.loads((await say("status", "--json")).stdout)
    assert found["devices"] == {"ok": 2, "disabled": 1}
    assert found["log"]["lanes"][0]["records"] > 0
    assert found["problems"] == []


async def test_parts_and_single_items_can_be_asked_for(run: Running, say) -> None:
    devices = (await say("status", "devices")).stdout.splitlines()
    assert devices[0].split()[:3] == ["device", "label", "driver"]
    assert devices[1].split()[:4] == ["boiler-1", "锅炉", "boiler", "boiler-1@gateway"]
    one = (await say("status", "boiler-2")).stdout
    assert one.startswith("device boiler-2")
    assert "No problems." in one
    assert json.loads((await say("status", "log", "--json")).stdout)["epoch"] == run.gateway.log.epoch


async def test_columns_align_where_characters_are_two_places_wide(say) -> None:
    lines = (await say("status", "devices")).stdout.splitlines()
    column = lines[0].index("driver")
    assert [aligned.width(line.split(" boiler ")[0]) + 1 for line in lines[1:]] == [column] * 3


@pytest.mark.parametrize("columns", [80, 200])
async def test_on_a_terminal_no_id_is_broken_and_what_is_left_out_is_said(run: Running, columns: int) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    child = await process(run, "status", "devices", stdout=theirs)
    os.close(theirs)
    _, errors = await child.communicate()
    assert (child.returncode, errors) == (0, b"")
    lines = click.unstyle(os.read(ours, 1 << 16).decode()).splitlines()
    os.close(ours)
    rows = [line.split() for line in lines if line.startswith("boiler-")]
    assert [row[0] for row in rows] == ["boiler-1", "boiler-2", "boiler-3"]
    assert all("boiler-1@gateway" in rows[0] for _ in rows)
    assert all(aligned.width(line) <= columns for line in lines)
    assert ("Not shown, the terminal is narrow: " in lines[-1]) == (columns == 80)


async def test_an_unknown_item_gets_a_suggestion(say) -> None:
    done = await say("status", "boiler-22")
    assert done.exit_code == 1
    assert "Did you mean boiler-2?" in done.stderr


async def test_a_clock_that_was_never_set_is_said(tmp_path: Path) -> None:
    class UnsetClock(SystemClock):
        def trusted(self) -> bool:
            return False

    async with running(tmp_path, clock=UnsetClock()):
        done = await verb("status", "--state", str(tmp_path))
    assert "not set yet" in done.stdout


async def test_what_began_in_1970_is_as_old_as_it_is_when_the_clock_is_set(tmp_path: Path) -> None:
    class LateClock(SystemClock):
        behind_ns = time.time_ns()

        def wall_ns(self) -> int:
            return time.time_ns() - self.behind_ns

        def trusted(self) -> bool:
            return not self.behind_ns

    clock = LateClock()
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks), clock=clock) as run:
        await run.first_round()
        run.gateway.problems.report("device:boiler-1", DeviceProblem("no-reply", "silent for 1 s"))
        clock.behind_ns = 0
        told = json.loads((await verb("status", "--json", "--state", str(tmp_path))).stdout)
        devices = json.loads((await verb("status", "devices", "--json", "--state", str(tmp_path))).stdout)
    running_devices = [device for device in devices if device["state"] == "ok"]
    assert running_devices
    since = [told["gateway"]["started_us"], told["uplinks"][0]["down_since_us"]]
    since += [problem[key] for problem in told["problems"] for key in ("since_us", "last_us")]
    since += [device[key] for device in running_devices for key in ("since_us", "last_answer_us")]
    now_us = time.time_ns() // 1000
    assert all(now_us - 60_000_000 < stamp_us <= now_us for stamp_us in since)
