"""GET history and GET points/{id}/at: bounded, streamed, by a child of the gateway."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import Callable

import psutil
import pytest

from fluxedge.api.history import MOST_BUCKETS, MOST_POINTS, question
from fluxedge.log.history import asking
from fluxedge.model import Lane
from tests.fluxedge.api.running import Running

NOW_NS = 1_800_000_000 * 10**9
S = 10**9


async def ask(run: Running, query: str) -> list[dict[str, typing.Any]]:
    reply = await run.ask("GET", f"/api/v1/history?{query}")
    assert reply.status == 200, reply.body
    assert reply.kind == "application/jsonl"
    return [json.loads(line) for line in reply.body.splitlines()]


def _asks(child: psutil.Process) -> bool:
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "fluxedge.log.history.reader" in child.cmdline()
    except psutil.NoSuchProcess:
        return False


def given(**params: str) -> Callable[[str], str]:
    return lambda name: params.get(name.rstrip("_"), "")


async def test_samples_come_one_a_line_between_a_head_and_an_end(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    head, *rows, end = await ask(run, "points=boiler-1.flow_temp,boiler-2.total")
    assert [point["id"] for point in head["head"]["points"]] == ["boiler-1.flow_temp", "boiler-2.total"]
    assert head["head"]["points"][0]["unit"] == "Cel"
    assert head["head"]["kind"] == "raw"
    assert end == {"end": {"rows": len(rows), "damaged": []}}
    temps = [row for row in rows if row["point"] == "boiler-1.flow_temp"]
    assert {(row["value"], row["quality"]) for row in temps} == {(61.5, "GOOD")}
    assert [row["seq"] for row in temps] == sorted(row["seq"] for row in temps)
    assert {row["value"] for row in rows if row["point"] == "boiler-2.total"} == {str(2**60)}


async def test_buckets_have_what_is_asked_of_them(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    _, *rows, end = await ask(run, "points=boiler-1.flow_temp&from=60s&buckets=4&aggregates=mean,count")
    assert end["end"]["rows"] == len(rows) == 4
    assert set(rows[0]) == {"point", "from_us", "to_us", "mean", "count"}
    assert rows[0]["mean"] is None
    assert rows[3]["mean"] == 61.5
    assert rows[3]["count"] > 0
    assert [row["to_us"] for row in rows[:3]] == [row["from_us"] for row in rows[1:]]


async def test_a_limit_is_of_each_point(run: Running) -> None:
    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 8)
    _, *rows, _ = await ask(run, "points=boiler-1.pump,boiler-2.pump&limit=2")
    assert [row["point"] for row in rows] == ["boiler-1.pump"] * 2 + ["boiler-2.pump"] * 2


async def test_a_point_at_an_instant(run: Running) -> None:
    now = await run.ask("GET", "/api/v1/points/boiler-1.flow_temp/at")
    assert now.status == 200, now.body
    assert (now.json["value"], now.json["quality"], now.json["unit"]) == (61.5, "GOOD", "Cel")
    assert 0 < now.json["at_us"] <= now.json["t_us"]
    early = (await run.ask("GET", "/api/v1/points/boiler-1.flow_temp/at?t=2001-01-01")).json
    assert (early["value"], early["quality"], early["at_us"], early["damaged"]) == (None, "", 0, [])


@pytest.mark.parametrize("path", ["history?points=boiler-1.flow_tmp", "points/boiler-1.flow_tmp/at"])
async def test_a_point_that_does_not_exist_is_named_with_what_was_meant(run: Running, path: str) -> None:
    reply = await run.ask("GET", f"/api/v1/{path}")
    assert (reply.status, reply.json["code"]) == (404, "not-found")
    assert "flow_tmp" in reply.json["message"]
    assert reply.json["hint"] == "Did you mean boiler-1.flow_temp?"


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, "points: none"),
        ({"points": "boiler"}, 'points: "boiler"'),
        ({"points": ",".join(f"d.p{i}" for i in range(MOST_POINTS + 1))}, f"points: {MOST_POINTS + 1}"),
        ({"points": "d.p", "from": "noon"}, 'from: "noon"'),
        ({"points": "d.p", "from": "1h", "to": "2h"}, 'from: "1h" is not before to, "2h"'),
        ({"points": "d.p", "from": "1900-01-01"}, "from: the range"),
        ({"points": "d.p", "from": "0001-01-01"}, "from: "),
        ({"points": "d.p", "buckets": "many"}, 'buckets: "many"'),
        ({"points": "d.p", "buckets": "-1"}, 'buckets: "-1"'),
        ({"points": "d.p", "buckets": str(MOST_BUCKETS + 1)}, f"at most {MOST_BUCKETS}"),
        ({"points": "d.p,d.q", "aggregates": "mean,median"}, 'aggregates: "median"'),
        ({"points": "d.p", "limit": "1e3"}, 'limit: "1e3"'),
    ],
)
def test_what_means_nothing_or_too_much_is_named(params: dict[str, str], names: str) -> None:
    with pytest.raises(ValueError) as caught:
        question(given(**params), NOW_NS)
    assert names in str(caught.value)


def test_without_times_it_is_the_last_day() -> None:
    asked = question(given(points="d.p,d.p, d.q"), NOW_NS)
    assert (asked.points, asked.from_ns, asked.to_ns) == (("d.p", "d.q"), NOW_NS - 86_400 * S, NOW_NS)
    assert (asked.kind, asked.limit) == ("raw", 10_000)


async def test_a_wrong_parameter_is_a_bad_request(run: Running) -> None:
    reply = await run.ask("GET", "/api/v1/history?points=boiler-1.pump&buckets=x")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")
    reply = await run.ask("GET", "/api/v1/points/boiler-1.pump/at?t=noon")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")


async def test_more_questions_than_may_wait_are_told_so(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "WAITING", 0)
    reply = await run.ask("GET", "/api/v1/history?points=boiler-1.pump")
    assert (reply.status, reply.json["code"]) == (503, "too-many")


async def test_a_client_that_goes_ends_the_work(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def readers() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if _asks(child)]

    await run.until(lambda: run.gateway.log.heads[Lane.ROUNDS] >= 6)
    assert (await ask(run, "points=boiler-1.pump"))[-1]["end"]["rows"]
    (child,) = readers()
    child.suspend()  # it will not answer
    _, writer = await asyncio.open_unix_connection(str(run.socket))
    writer.write(b"GET /api/v1/history?points=boiler-1.pump HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    for _ in range(250):
        if child not in readers():
            break
        await asyncio.sleep(0.02)
    assert child not in readers()
    assert (await ask(run, "points=boiler-1.pump"))[-1]["end"]["rows"], "and the next question is answered"
