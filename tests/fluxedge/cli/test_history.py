"""`fluxedge history`: of the running gateway, and of files that were left behind."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fluxedge.cli.history import sparkline
from fluxedge.cli.main import NOT_RUNNING, USAGE
from fluxedge.model import Lane
from tests.fluxedge.api.running import Running
from tests.fluxedge.cli.conftest import verb


def where(run: Running, state: bool) -> tuple[str, str]:
    return ("--state", str(run.socket.parent)) if state else ("--socket", str(run.socket))


@pytest.mark.parametrize("state", [False, True])
async def test_buckets_are_a_table_below_a_line_of_bars(run: Running, state: bool) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    done = await verb("history", "boiler-1.flow_temp", *where(run, state), "--last", "60s", "--buckets", "4")
    assert done.exit_code == 0, done.stderr
    title, head, *rows = done.stdout.splitlines()
    assert title == "boiler-1.flow_temp [Cel]  ···▁"
    assert head.split() == ["from", "count", "last", "min", "mean", "max"]
    assert len(rows) == 4
    assert rows[0].split()[2:] == ["0", "-", "-", "-", "-"]
    assert rows[3].split()[3:] == ["61.5", "61.5", "61.5", "61.5"]


async def test_what_has_no_mean_has_count_and_last(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    done = await verb("history", "boiler-1.name", *where(run, False), "--last", "1m", "--buckets", "1")
    assert done.stdout.splitlines()[1].split() == ["from", "count", "last"]
    assert done.stdout.splitlines()[2].endswith("一号锅炉")


@pytest.mark.parametrize("state", [False, True])
async def test_samples_as_json_lines_and_as_csv(run: Running, state: bool) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    asked = ("history", "boiler-1.pump", "boiler-2.total", *where(run, state), "--raw", "--limit", "2")
    lines = [json.loads(line) for line in (await verb(*asked, "--json")).stdout.splitlines()]
    assert [point["id"] for point in lines[0]["head"]["points"]] == ["boiler-1.pump", "boiler-2.total"]
    assert lines[-1] == {"end": {"rows": 4, "damaged": []}}
    text = (await verb(*asked, "--csv")).stdout_bytes.decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["point"], row["value"]) for row in rows] == [("boiler-1.pump", "true")] * 2 + [
        ("boiler-2.total", str(2**60))
    ] * 2
    assert rows[0]["at"].endswith("Z")
    assert [int(row["seq"]) for row in rows] == [line["seq"] for line in lines[1:-1]]


async def test_buckets_as_csv(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    done = await verb("history", "boiler-1.flow_temp", *where(run, False), "--last", "1m", "--buckets", "2", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout_bytes.decode(), newline="")))
    assert list(rows[0]) == ["from", "to", "point", "count", "last", "min", "max", "mean", "unit"]
    assert (rows[1]["mean"], rows[1]["unit"]) == ("61.5", "Cel")


@pytest.mark.parametrize("state", [False, True])
async def test_values_at_an_instant(run: Running, state: bool) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    done = await verb("history", "boiler-1.flow_temp", "boiler-2.pump", *where(run, state), "--at", "0s")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["at", "point", "value", "quality"]
    assert [row.split()[2:] for row in rows] == [
        ["boiler-1.flow_temp", "61.5", "Cel", "GOOD"],
        ["boiler-2.pump", "on", "GOOD"],
    ]


@pytest.mark.parametrize("words", [("--at", "300d"), ("--raw", "--from", "300d", "--to", "299d")], ids=["at", "raw"])
async def test_a_point_without_a_sample_is_said(run: Running, words: tuple[str, ...]) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    done = await verb("history", "boiler-1.flow_temp", *where(run, False), *words)
    assert done.exit_code == 0
    when = "until then" if "--at" in words else "in this time"
    assert done.stderr == f"no sample {when}: boiler-1.flow_temp\n"


@pytest.mark.parametrize("state", [False, True])
async def test_a_point_that_is_not_there_is_named(run: Running, state: bool) -> None:
    done = await verb("history", "boiler-1.flow_tmp", *where(run, state))
    assert done.exit_code == 1
    assert "flow_tmp" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--last", "1h", "--from", "2h"], "--last ends now"),
        (["--at", "1h", "--buckets", "3"], "--at is one instant"),
        (["--raw", "--buckets", "3"], "--raw are samples"),
        (["--limit", "3"], "--limit is for samples"),
        (["--json", "--csv"], "--json or --csv"),
        (["--last", "never", "--state", "/nonexistent"], 'from: "never"'),
    ],
)
async def test_what_does_not_go_together_is_wrong_usage(words: list[str], says: str) -> None:
    done = await verb("history", "a.b", *words)
    assert done.exit_code == USAGE
    assert says in done.stderr


async def test_without_a_gateway_and_without_files_it_says_what_to_do(tmp_path) -> None:
    done = await verb("history", "a.b", "--socket", str(tmp_path / "api.sock"))
    assert done.exit_code == NOT_RUNNING
    done = await verb("history", "a.b", "--state", str(tmp_path))
    assert done.exit_code == 1
    assert "--state" in done.stderr


def test_bars_go_from_the_lowest_to_the_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([None, 5.0, 5.0]) == "·▁▁"
    assert sparkline([None]) == ""
    assert sparkline([-1e308, 1e308]) == "▁▁"
