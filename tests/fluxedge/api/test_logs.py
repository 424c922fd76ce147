"""GET log: records of the log, streamed."""

from __future__ import annotations

import csv
import io
import json
import typing

import pytest

from fluxedge.api import readers
from fluxedge.api.instants import instant_ns
from fluxedge.api.logs import wanted
from fluxedge.model import Lane
from tests.fluxedge.api.running import Running

NOW_NS = 1_800_000_000 * 10**9


async def lines(run: Running, query: str = "") -> list[dict[str, typing.Any]]:
    reply = await run.ask("GET", f"/api/v1/log{query}")
    assert reply.status == 200, reply.body
    assert reply.kind == "application/jsonl"
    return [json.loads(line) for line in reply.body.splitlines()]


async def test_rounds_come_one_a_line_in_their_order(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    found = await lines(run)
    assert [record["seq"] for record in found[:6]] == [1, 2, 3, 4, 5, 6]
    assert found[0]["values"]["flow_temp"] == 61.5
    assert {record["epoch"] for record in found} == {run.gateway.log.epoch}


async def test_parameters_choose(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    cut = await lines(run, "?point=boiler-2.pump,boiler-2.setpoint&limit=2")
    assert len(cut) == 2
    assert all(set(record["values"]) == {"pump", "setpoint"} for record in cut)
    newest = await lines(run, "?order=newest&limit=3")
    assert [record["seq"] for record in newest] == sorted((record["seq"] for record in newest), reverse=True)
    assert await lines(run, "?until=2001-01-01") == []
    (start,) = await lines(run, "?lane=events&kind=start")
    assert start["data"]["id"] == "gw-test"


async def test_csv_has_a_line_per_value(run: Running) -> None:
    reply = await run.ask("GET", "/api/v1/log?format=csv&device=boiler-1&limit=1")
    assert reply.kind == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(reply.body.decode(), newline="")))
    assert {row["point"]: row["value"] for row in rows} == {
        "flow_temp": "61.5", "setpoint": "55.0", "pump": "true", "name": "一号锅炉", "total": str(2**60),
    }  # fmt: skip


@pytest.mark.parametrize("query", ["lane=both", "since=yesterday", "limit=few", "order=random", "format=xml"])
async def test_what_means_nothing_is_a_bad_request_that_names_it(run: Running, query: str) -> None:
    reply = await run.ask("GET", f"/api/v1/log?{query}")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")
    assert f'"{query.partition("=")[2]}"' in reply.json["message"]


async def test_a_kind_asks_for_events(run: Running) -> None:
    (start,) = await lines(run, "?kind=start")
    assert (start["lane"], start["kind"]) == ("events", "start")


@pytest.mark.parametrize("query", ["lane=rounds&kind=start", "lane=events&point=a.b", "kind=start&point=a.b"])
async def test_a_filter_that_the_lane_cannot_have_is_a_bad_request(run: Running, query: str) -> None:
    reply = await run.ask("GET", f"/api/v1/log?{query}")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")
    assert "ask for the lane" in reply.json["message"]


async def test_only_so_many_read_at_once(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST", 1)
    with run.api.parts.readers.one():
        reply = await run.ask("GET", "/api/v1/log")
    assert (reply.status, reply.json["code"]) == (503, "too-many")
    assert (await run.ask("GET", "/api/v1/log")).status == 200


async def test_a_log_that_cannot_be_opened_is_an_error_and_no_empty_answer(run: Running, monkeypatch) -> None:
    monkeypatch.setattr(run.gateway.log, "path", run.gateway.log.path.with_name("gone.db"))
    reply = await run.ask("GET", "/api/v1/log")
    assert (reply.status, reply.json["code"]) == (503, "not-available")


def test_without_a_limit_a_thousand_records_and_zero_is_all() -> None:
    assert wanted(lambda name: "", NOW_NS).limit == 1000
    assert wanted(lambda name: {"limit": "0"}.get(name, ""), NOW_NS).limit == 0


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("1h", 1_800_000_000 - 3600), ("1970-01-01T00:01:00+00:00", 60), ("1970-01-01T08:00:00+08:00", 0),
    ],
)  # fmt: skip
def test_instants_as_people_write_them(text: str, at_s: int) -> None:
    assert instant_ns(text, NOW_NS) == at_s * 10**9


def test_an_instant_that_is_none_is_explained() -> None:
    with pytest.raises(ValueError, match='write "1h"'):
        instant_ns("noon", NOW_NS)
