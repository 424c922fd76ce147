"""GET queue and GET queue/quarantine."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fluxedge.api import queue
from tests.fluxedge.api.queues import R, announced, rows, waiting
from tests.fluxedge.api.running import Running
from tests.fluxedge.cli.test_queue import Steady

QUEUE, QUARANTINE = "/api/v1/queue", "/api/v1/queue/quarantine"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with waiting(tmp_path) as found:
        yield found


async def test_everything_that_waits_for_an_uplink_is_there(gateway: Running) -> None:
    gateway.api.sampler.log_bytes = Steady()
    (found,) = (await gateway.ask("GET", QUEUE)).json
    assert (found["id"], found["state"], found["gap_records"], found["gaps"]) == ("cloud", "down", 0, [])
    lane = {lane["lane"]: lane for lane in found["lanes"]}["rounds"]
    epoch = gateway.gateway.log.epoch
    assert lane["ranges"][:3] == [
        {"epoch": epoch, "first": 1, "last": 1}, {"epoch": epoch, "first": 5, "last": 6},
        {"epoch": epoch, "first": 8, "last": lane["ranges"][-1]["last"]},
    ]  # fmt: skip
    assert lane["records"] == lane["ranges"][-1]["last"] - 4
    assert (lane["ranges_count"], lane["live"]) == (3, 0)
    assert lane["bytes"] > 0
    assert lane["oldest_us"] > 0
    assert (found["quarantine_rows"], found["quarantine_records"], found["quarantine_bytes"]) == (2, 4, 10)
    assert [(row["first"], row["last"], row["tries"], row["payload"]) for row in found["quarantine"]] == [
        (2, 4, 1, None), (7, 7, 1, None),
    ]  # fmt: skip
    assert found["autonomy_h"] > 0


async def test_gaps_say_why_and_whether_they_are_announced(gateway: Running) -> None:
    log = gateway.gateway.log
    log.lose("cloud", log.epoch, R, 1, 1, "backlog")
    await announced(gateway)
    (found,) = (await gateway.ask("GET", f"{QUEUE}?uplink=cloud")).json
    (gap,) = found["gaps"]
    assert (gap["lane"], gap["first"], gap["last"], gap["why"], gap["announced"]) == ("rounds", 1, 1, "backlog", True)
    assert found["gap_records"] == 1


async def test_an_uplink_that_is_not_configured_any_more_is_shown_while_something_waits_for_it(
    gateway: Running,
) -> None:
    gateway.gateway.log.cursors.begin("old", R, gateway.gateway.log.epoch, 3, 5)
    found = {uplink["id"]: uplink for uplink in (await gateway.ask("GET", QUEUE)).json}
    assert list(found) == ["cloud", "old"]
    assert (found["old"]["state"], found["old"]["autonomy_h"]) == ("not-configured", None)
    assert [(lane["lane"], lane["records"]) for lane in found["old"]["lanes"]] == [("rounds", 3)]


async def test_an_uplink_that_does_not_exist_is_named_with_what_was_meant(gateway: Running) -> None:
    reply = await gateway.ask("GET", f"{QUEUE}?uplink=clod")
    assert (reply.status, reply.json["hint"]) == (404, "Did you mean cloud?")


async def test_a_session_tells_live_from_backlog(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    log = gateway.gateway.log
    forwarder = gateway.gateway.forwarders["cloud"]
    monkeypatch.setattr(type(forwarder), "live_from", (log.epoch, dict.fromkeys(log.heads, 9)))
    head = log.heads[R]
    (found,) = (await gateway.ask("GET", QUEUE)).json
    lane = {lane["lane"]: lane for lane in found["lanes"]}["rounds"]
    assert head - 8 <= lane["live"] == lane["records"] - 4


async def test_a_row_is_shown_with_its_payload_only_when_it_is_asked_for(gateway: Running) -> None:
    text, raw = await rows(gateway)
    assert [row["payload"] for row in (await gateway.ask("GET", QUARANTINE)).json] == [None, None]
    (first,) = (await gateway.ask("GET", f"{QUARANTINE}?id={text}")).json
    assert (first["payload"], first["base64"], first["reason"]) == ('{"n": 3}', False, "payload format invalid")
    (second,) = (await gateway.ask("GET", f"{QUARANTINE}?id={raw}")).json
    assert (base64.b64decode(second["payload"]), second["base64"]) == (b"\xff\xfe", True)


async def test_rows_come_in_pages(gateway: Running) -> None:
    one, two = await rows(gateway)
    assert [row["id"] for row in (await gateway.ask("GET", f"{QUARANTINE}?limit=1")).json] == [one]
    assert [row["id"] for row in (await gateway.ask("GET", f"{QUARANTINE}?limit=1&after={one}")).json] == [two]
    assert (await gateway.ask("GET", f"{QUARANTINE}?uplink=nobody")).json == []


@pytest.mark.parametrize("query", ["id=x", "after=-1", "limit=1.5", "id=99999999999999999999", "id=²"])
async def test_numbers_that_are_none_are_refused(gateway: Running, query: str) -> None:
    reply = await gateway.ask("GET", f"{QUARANTINE}?{query}".replace("²", "%C2%B2"))
    assert (reply.status, reply.json["code"]) == (400, "bad-request")


async def test_a_row_that_is_gone_is_not_found(gateway: Running) -> None:
    reply = await gateway.ask("GET", f"{QUARANTINE}?id=99")
    assert (reply.status, reply.json["message"]) == (404, "there is no row 99 in the quarantine")


async def test_a_cursor_of_many_pieces_is_cut_short(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SHOWN", 2)
    (found,) = (await gateway.ask("GET", QUEUE)).json
    lane = {lane["lane"]: lane for lane in found["lanes"]}["rounds"]
    assert (len(lane["ranges"]), lane["ranges_count"]) == (2, 3)
