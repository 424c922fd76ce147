"""`fluxedge log`: of the running gateway, and of a log that was left behind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fluxedge.cli import log
from fluxedge.cli.main import NOT_RUNNING
from fluxedge.model import Lane
from tests.fluxedge.api.running import POINTS, Running, running
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


async def test_a_kind_asks_for_events_and_not_for_all_rounds(run: Running) -> None:
    done = await ask(run, "query", "--kind", "start", "--since", "1h", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["lane"], record["kind"]) for record in found] == [("events", "start")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--kind", "start", "--lane", "rounds"], "--kind is for events"),
        (["--point", "boiler-1.pump", "--lane", "events"], "--point is for rounds"),
        (["--point", "boiler-1.pump", "--kind", "start"], "--point is for rounds"),
    ],
)
async def test_a_filter_that_the_lane_cannot_have_is_wrong_usage(run: Running, words: list[str], says: str) -> None:
    for verb_ in ("query", "export"):
        done = await ask(run, verb_, *words)
        assert done.exit_code == 2
        assert says in done.stderr


@pytest.mark.parametrize("state", [False, True])
async def test_every_format_is_oldest_first(run: Running, state: bool) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 30)
    where = ("--state", str(run.socket.parent)) if state else ("--socket", str(run.socket))
    lines = (await verb("log", "query", *where, "--limit", "5", "--json")).stdout.splitlines()
    seqs = [json.loads(line)["seq"] for line in lines]
    assert seqs == list(range(seqs[0], seqs[0] + 5))
    assert seqs[-1] >= 30
    text = (await verb("log", "query", *where, "--limit", "5", "--format", "csv")).stdout_bytes.decode()
    assert text.startswith("at,device,point,value,quality,unit,clock,seq,epoch\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    seqs = [int(row["seq"]) for row in rows]
    assert seqs == sorted(seqs)
    assert len(set(seqs)) == 5
    assert [row["point"] for row in rows] == list(POINTS) * 5  # and the points of a round in their order


def test_the_data_of_an_event_is_shown_as_people_write_it() -> None:
    data = {
        "value": True, "before": None, "started": ["channel:a", "device:b"], "stopped": [], "read_back": 0.1 + 0.2,
        "why": "age", "deep": {"a": [True]}, "pairs": [[1, 2]],
    }  # fmt: skip
    cells = log._event({"seq": 1, "at_ns": "1", "item": "gateway", "kind": "x", "data": data})
    assert cells[-1] == (
        "value=true  before=-  started=channel:a, device:b  stopped=-  read_back=0.3  "
        'why=age  deep={"a": [true]}  pairs=[[1, 2]]'
    )


async def test_a_switch_and_a_text_with_lines_of_unicode_are_shown_in_a_round(run: Running) -> None:
    written = await verb("write", "boiler-1.name", "a\u2028b", "--socket", str(run.socket))
    assert written.exit_code == 0
    head = run.gateway.log.heads[Lane.ROUNDS]
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] > head + 2)
    done = await ask(run, "query", "--device", "boiler-1", "--limit", "1")
    assert done.exit_code == 0, done.output
    assert "pump=true" in done.stdout
    assert "name=a\u2028b" in done.stdout


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
    assert done.exit_code == 2
    assert 'write "1h"' in done.stderr
    offline = await verb("log", "query", "--since", "noon", "--state", str(run.socket.parent))
    assert offline.exit_code == 2
    assert 'write "1h"' in offline.stderr
