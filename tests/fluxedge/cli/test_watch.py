"""`fluxedge watch`: live, and ends cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import signal

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
