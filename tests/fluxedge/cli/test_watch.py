"""`fluxedge watch`: live, and ends cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from rich.console import Console

from fluxedge.cli import watch
from tests.fluxedge.api.running import POINTS, Running
from tests.fluxedge.cli.conftest import process


async def test_json_lines_until_ctrl_c(run: Running) -> None:
    child = await process(run, "watch", "--json", "boiler-1.flow_temp")
    assert child.stdout is not None
    rounds = [json.loads(await child.stdout.readline()) for _ in range(5)]
    child.send_signal(signal.SIGINT)
    _, err = await child.communicate()
    assert child.returncode == 0
    assert err == b""
    assert [r["values"] for r in rounds] == [{"flow_temp": 61.5}] * 5
    stamps = [r["at_us"] for r in rounds]
    assert stamps == sorted(stamps)


async def test_a_line_per_value_and_a_closed_pipe_ends_it(run: Running) -> None:
    reader, writer = os.pipe()
    child = await process(run, "watch", "boiler-2.*", stdout=writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        first = [(await asyncio.to_thread(lines.readline)).split() for _ in range(10)]
    _, err = await child.communicate()
    assert child.returncode == 0
    assert err == b""
    assert {line[2] for line in first} == {f"boiler-2.{name}" for name in POINTS}


async def test_it_says_when_the_gateway_stops(run: Running) -> None:
    child = await process(run, "watch", "--json")
    assert child.stdout is not None
    await child.stdout.readline()
    await run.api.stop()
    _, err = await child.communicate()
    assert child.returncode == 3
    assert b"fluxedge has stopped." in err


async def test_a_terminal_gets_a_table(run: Running) -> None:
    ours, theirs = os.openpty()
    child = await process(run, "watch", "boiler-1.*", stdout=theirs)
    os.close(theirs)
    seen = b""
    async with asyncio.timeout(20):
        while seen.count(b"flow_temp") < 3:
            seen += await asyncio.to_thread(os.read, ours, 4096)
    child.send_signal(signal.SIGINT)
    os.set_blocking(ours, False)
    while child.returncode is None:  # a pty's buffer must not fill up
        try:
            os.read(ours, 65536)
        except BlockingIOError:
            pass
        except OSError:
            break
        await asyncio.sleep(0.02)
    await child.communicate()
    os.close(ours)
    assert child.returncode == 0
    assert "供水温度" in seen.decode(errors="replace")
    assert b"61.5 Cel" in seen


def drawn(count: int, width: int, height: int, lost: int = 0) -> list[str]:
    point = {"value": 61.5, "unit": "Cel", "quality": "GOOD", "at_us": 1, "label": "供水温度 / Flow temperature"}
    known = [point | {"id": f"boiler-house-{i // 5}.flow_temperature_{i}"} for i in range(count)]
    console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(watch.frame(known, lost, width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("lost", [0, 7])
def test_points_that_the_window_has_no_room_for_are_counted(lost: int) -> None:
    lines = drawn(60, 100, 24, lost)
    assert len(lines) == 23  # and the cursor's
    shown = [line for line in lines if line.startswith("boiler-house-")]
    assert f"… {60 - len(shown)} more points; give a pattern (fluxedge watch 'boiler-house-0.*')" in lines
    assert any(line.startswith("7 rounds not shown") for line in lines) == bool(lost)


def test_a_window_that_is_high_enough_shows_all_and_no_word_more() -> None:
    assert len(drawn(22, 100, 24)) == 23
    assert not any("more points" in line for line in drawn(22, 100, 24))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_point_is_one_line_with_its_whole_id_however_narrow_the_window(width: int) -> None:
    lines = drawn(3, width, 24)
    assert [line.split()[0] for line in lines[1:]] == [f"boiler-house-0.flow_temperature_{i}" for i in range(3)]
    assert all("61.5 Cel" in line and "GOOD" in line for line in lines[1:])
