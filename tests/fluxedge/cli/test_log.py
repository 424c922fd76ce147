"""`fluxedge log`: of the running gateway, and of a log that was left behind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from fluxedge.cli.main import NOT_RUNNING
from fluxedge.model import Lane
from tests.fluxedge.api.running import Running, running
from tests.fluxedge.cli.conftest import verb


async def ask(run: Running, *words: str):
    return await verb("log", words[0], "--socket", str(run.socket), *words[1:])


async def test_the_newest_records_are_shown_oldest_first(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 30)
    done = await ask(run, "query")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["seq", "at", "device", "values"]
    seqs = [int(row.split()[0]) for row in rows]
    assert len(seqs) == 20
    assert seqs == sorted(seqs)
    assert "flow_temp=61.5" in rows[0]


async def test_events_can_be_queried(run: Running) -> None:
    done = await ask(run, "query", "--lane", "events", "--kind", "start", "--since", "1h")
    assert "id=gw-test" in done.stdout


async def test_json_lines_of_one_device_and_point(run: Running) -> None:
    done = await ask(run, "query", "--json", "--point", "boiler-2.pump", "--limit", "2")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["values"] for record in found] == [{"pump": True}] * len(found)
    assert found


async def test_an_export_is_the_same_online_and_from_the_files(tmp_path: Path) -> None:
    output = tmp_path / "online.csv"
    async with running(tmp_path / "state") as run:
        await run.first_round()
        done = await ask(run, "export", "--limit", "2", "--output", str(output))
        assert done.exit_code == 0
    offline = await verb("log", "export", "--state", str(tmp_path / "state"), "--limit", "2")
    assert offline.exit_code == 0
    with output.open(newline="", encoding="utf-8") as file:
        online = file.read()
    assert list(csv.reader(io.StringIO(online))) == list(csv.reader(io.StringIO(offline.stdout)))
    assert len(online.splitlines()) == 11


async def test_a_state_without_a_log_and_a_gateway_that_does_not_run_are_explained(tmp_path: Path) -> None:
    done = await verb("log", "query", "--state", str(tmp_path))
    assert done.exit_code == 1
    assert "there is no log at" in done.stderr
    done = await verb("log", "query", "--socket", str(tmp_path / "api.sock"))
    assert done.exit_code == NOT_RUNNING


async def test_a_time_that_is_none_is_explained(run: Running) -> None:
    done = await ask(run, "query", "--since", "noon")
    assert done.exit_code == 1
    assert 'write "1h"' in done.stderr
    offline = await verb("log", "query", "--since", "noon", "--state", str(run.socket.parent))
    assert offline.exit_code == 1
    assert 'write "1h"' in offline.stderr
