"""GET queue/export."""

from __future__ import annotations

import json
import typing
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fluxedge.api import queue_export
from tests.fluxedge.api.queues import E, R, waiting
from tests.fluxedge.api.running import Running

EXPORT = "/api/v1/queue/export"
Line = dict[str, typing.Any]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with waiting(tmp_path) as found:
        yield found


async def lines(gateway: Running, query: str) -> tuple[list[Line], list[Line]]:
    """Return the rows of the quarantine and the records that were exported."""
    reply = await gateway.ask("GET", f"{EXPORT}?{query}")
    assert (reply.status, reply.kind) == (200, "application/jsonl")
    found = [json.loads(line) for line in reply.body.splitlines()]
    kept = [line["quarantine"] for line in found if "quarantine" in line]
    records = [line["record"] for line in found if "record" in line]
    assert len(kept) + len(records) == len(found)
    return kept, records


@pytest.mark.parametrize("turn", [1, 2000])
async def test_what_waits_and_what_was_refused_is_written_and_stays(
    gateway: Running, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_export, "TURN_POINTS", turn)
    heads = dict(gateway.gateway.log.heads)
    kept, records = await lines(gateway, "uplink=cloud")
    assert [(row["first"], row["last"], row["payload"], row["base64"]) for row in kept] == [
        (2, 4, '{"n": 3}', False), (7, 7, "//4=", True),
    ]  # fmt: skip
    rounds = [record["seq"] for record in records if record["lane"] == "rounds"]
    assert rounds[: heads[R] - 4] == [seq for seq in range(1, heads[R] + 1) if seq not in (2, 3, 4, 7)]
    events = [record["seq"] for record in records if record["lane"] == "events"]
    assert events[: heads[E]] == list(range(1, heads[E] + 1))
    assert records[0]["values"]["flow_temp"] == 61.5
    again, _ = await lines(gateway, "what=quarantine")
    assert again == kept


async def test_each_half_can_be_had_alone(gateway: Running) -> None:
    kept, records = await lines(gateway, "uplink=cloud&what=records")
    assert (kept, bool(records)) == ([], True)
    kept, records = await lines(gateway, "uplink=cloud&what=quarantine")
    assert (len(kept), records) == (2, [])


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("what=records", 400), ("what=some&uplink=cloud", 400), ("uplink=clod", 404)]
)
async def test_what_is_not_clear_is_refused(gateway: Running, query: str, status: int) -> None:
    assert (await gateway.ask("GET", f"{EXPORT}?{query}")).status == status
