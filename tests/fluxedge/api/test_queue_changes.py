"""POST queue/retry and queue/drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fluxedge.api import queue_changes
from fluxedge.log import LogFault, quarantine
from fluxedge.permissions import Principal
from fluxedge.problems import Problem
from tests.fluxedge.api.queues import E, R, announced, audited, events, gaps, rows, waiting
from tests.fluxedge.api.running import Running

RETRY, DROP = "/api/v1/queue/retry", "/api/v1/queue/drop"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with waiting(tmp_path) as found:
        yield found


def left(gateway: Running, lane: object = R) -> list[tuple[int, int]]:
    log = gateway.gateway.log
    return [part for _, ranges in log.cursors.of("cloud", lane) for part in ranges]  # type: ignore[arg-type]


# --- retry ------------------------------------------------------------------------------------------------------------


async def test_a_retry_marks_rows_wakes_the_uplink_and_is_audited(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    forwarder = gateway.gateway.forwarders["cloud"]
    monkeypatch.setattr(type(forwarder), "retry_quarantine", lambda self: woken.append(self.id))
    one, _ = await rows(gateway)
    answer = (await gateway.ask("POST", RETRY, {"ids": [one, 99]})).json
    assert (answer["rows"], answer["records"], answer["missing"]) == (1, 3, [99])
    assert woken == ["cloud"]
    assert [kept.id for kept in await gateway.gateway.log.look(quarantine.page) if kept.again] == [one]
    event = await audited(gateway)
    assert event.data["action"] == "queue-retry"
    assert (event.data["uplinks"], event.data["rows"], event.data["records"]) == (["cloud"], 1, 3)
    assert event.data["by"].startswith("uid ")


async def test_all_rows_of_an_uplink_can_be_retried_in_turns(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "AT_ONCE", 1)
    answer = (await gateway.ask("POST", RETRY, {"all": True, "uplink": "cloud"})).json
    assert (answer["rows"], answer["records"]) == (2, 4)
    assert all(kept.again for kept in await gateway.gateway.log.look(quarantine.page))


async def test_a_retry_of_nothing_changes_nothing(gateway: Running) -> None:
    assert (await gateway.ask("POST", RETRY, {"ids": [99]})).status == 404
    await gateway.ask("POST", DROP, {"ids": await rows(gateway)})
    answer = await gateway.ask("POST", RETRY, {"all": True})
    assert (answer.status, answer.json["rows"]) == (200, 0)


# --- drop -------------------------------------------------------------------------------------------------------------


async def test_dropped_records_leave_the_cursor_as_an_announced_gap_and_an_audit_event(gateway: Running) -> None:
    answer = await gateway.ask("POST", DROP, {"uplink": "cloud", "lane": "rounds", "upto": 6})
    assert answer.json["records"] == 3
    assert left(gateway)[0][0] == 8
    (event,) = await events(gateway, "audit")
    assert event.data["action"] == "queue-drop", "durable before the answer"
    assert (event.data["uplink"], event.data["records"], event.data["lanes"]) == ("cloud", 3, {"rounds": 3})
    assert await announced(gateway) == [
        ("rounds", 1, 1, "dropped", True), ("rounds", 5, 6, "dropped", True),
    ]  # fmt: skip
    told = [event.data for event in await events(gateway, "gap")]
    assert {(data["lo"], data["hi"], data["why"]) for data in told} == {(1, 1, "dropped"), (5, 6, "dropped")}


async def test_a_drop_of_everything_takes_both_lanes_and_says_so_in_new_events(gateway: Running) -> None:
    log = gateway.gateway.log
    before = dict(log.heads)
    answer = (await gateway.ask("POST", DROP, {"uplink": "cloud"})).json
    assert answer["records"] >= before[R] + before[E] - 4
    assert left(gateway)[0][0] > before[R]
    assert left(gateway, E)[0][0] > before[E]
    assert {(lane, why) for lane, _, _, why, _ in await announced(gateway)} == {
        ("rounds", "dropped"), ("events", "dropped"),
    }  # fmt: skip
    assert left(gateway, E)[0][1] > log.heads[E], "the gaps themselves still are to be delivered"


async def test_what_is_asked_dry_is_only_told(gateway: Running) -> None:
    asked = {"uplink": "cloud", "lane": "rounds", "upto": 6, "dry": True}
    assert (await gateway.ask("POST", DROP, asked)).json["records"] == 3
    one, two = await rows(gateway)
    assert (await gateway.ask("POST", DROP, {"ids": [one], "dry": True})).json["rows"] == 1
    assert left(gateway)[0] == (1, 1)
    assert await rows(gateway) == [one, two]
    assert await gaps(gateway) == []


async def test_records_can_be_dropped_by_their_age(gateway: Running) -> None:
    asked = {"uplink": "cloud", "lane": "rounds", "older_than_s": 3600}
    assert (await gateway.ask("POST", DROP, asked)).json["records"] == 0
    await asyncio.sleep(0.2)
    answer = (await gateway.ask("POST", DROP, asked | {"older_than_s": 0.15})).json
    assert answer["records"] > 0
    assert left(gateway)[0][0] == answer["ranges"][-1]["last"] + 1


async def test_dropped_rows_of_the_quarantine_leave_announced_gaps(gateway: Running) -> None:
    one, two = await rows(gateway)
    answer = (await gateway.ask("POST", DROP, {"ids": [one, 77]})).json
    assert (answer["rows"], answer["records"], answer["missing"]) == (1, 3, [77])
    assert await rows(gateway) == [two]
    assert await announced(gateway) == [("rounds", 2, 4, "dropped", True)]
    (event,) = await events(gateway, "audit")
    assert (event.data["action"], event.data["rows"]) == ("queue-drop", 1)


async def test_what_an_uplink_that_was_removed_has_left_can_be_dropped(gateway: Running) -> None:
    gateway.gateway.log.cursors.begin("old", R, gateway.gateway.log.epoch, 3, 5)
    assert (await gateway.ask("POST", DROP, {"uplink": "old"})).json["records"] == 3


async def test_a_seq_that_is_not_clear_is_asked_back(gateway: Running) -> None:
    reply = await gateway.ask("POST", DROP, {"uplink": "cloud", "upto": 5})
    assert reply.status == 400
    assert f"rounds of epoch {gateway.gateway.log.epoch}" in reply.json["hint"]
    reply = await gateway.ask("POST", DROP, {"uplink": "cloud", "epoch": 5})
    assert str(gateway.gateway.log.epoch) in reply.json["hint"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"\xff", {}, {"uplink": "cloud", "ids": [1]}, {"ids": [1], "lane": "rounds"},
        {"uplink": "cloud", "lane": "both"}, {"uplink": "cloud", "upto": -1}, {"uplink": "cloud", "older_than_s": -1},
        {"uplink": "cloud", "older_than_s": 5, "upto": 5, "lane": "rounds"}, {"ids": [0]}, {"ids": [2**63]},
        {"uplink": "cloud", "what": 1}, {"ids": list(range(1, 10_002))},
    ],
    ids=str,
)  # fmt: skip
async def test_requests_that_mean_nothing_change_nothing(gateway: Running, body: object) -> None:
    before = left(gateway)[0], await rows(gateway)
    assert (await gateway.ask("POST", DROP, body)).status == 400
    assert before == (left(gateway)[0], await rows(gateway))


@pytest.mark.parametrize("body", [b"", {}, {"ids": [1], "all": True}, {"ids": [1], "uplink": "cloud"}], ids=str)
async def test_retries_that_mean_nothing_are_refused(gateway: Running, body: object) -> None:
    assert (await gateway.ask("POST", RETRY, body)).status == 400


@pytest.mark.parametrize(("path", "more"), [(DROP, {}), (RETRY, {"all": True})])
async def test_an_uplink_that_does_not_exist_is_not_found(gateway: Running, path: str, more: dict[str, object]) -> None:
    reply = await gateway.ask("POST", path, {"uplink": "clod", **more})
    assert (reply.status, reply.json["hint"]) == (404, "Did you mean cloud?")


async def test_who_may_only_look_may_not_change(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Principal("peer", "uid 1000", "viewer")
    monkeypatch.setattr(gateway.api.doorkeeper, "of_peer", lambda _: viewer)
    for path, body in ((DROP, {"uplink": "cloud"}), (RETRY, {"all": True})):
        assert (await gateway.ask("POST", path, body)).status == 403
    assert (await gateway.ask("GET", "/api/v1/queue")).status == 200


async def test_a_drop_that_the_disk_does_not_take_says_so(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object, **__: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(LogFault("log-write-failed", "SQLITE_FULL: database or disk is full"))
        return future

    monkeypatch.setattr(gateway.gateway.pipeline, "submit", submit)
    reply = await gateway.ask("POST", DROP, {"uplink": "cloud", "lane": "rounds", "upto": 1})
    assert (reply.status, reply.json["code"]) == (503, "not-available")
    assert "SQLITE_FULL" in reply.json["message"]
    monkeypatch.undo()


async def test_a_commit_that_takes_too_long_is_not_waited_for(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_changes, "DURABLE_S", 0.01)
    monkeypatch.setattr(gateway.gateway.pipeline, "submit", lambda *_, **__: asyncio.get_running_loop().create_future())
    reply = await gateway.ask("POST", DROP, {"uplink": "cloud", "lane": "rounds", "upto": 1})
    assert reply.status == 503
    monkeypatch.undo()


async def test_dropping_the_last_row_of_an_uplink_ends_its_problem(gateway: Running) -> None:
    problems = gateway.gateway.problems
    problems.report("uplink:cloud", Problem("record-refused", "rounds 2-4: payload format invalid"))
    one, other = await rows(gateway)
    await gateway.ask("POST", DROP, {"ids": [one]})
    assert problems.stands("uplink:cloud", "record-refused")
    await gateway.ask("POST", DROP, {"ids": [other]})
    assert not problems.stands("uplink:cloud", "record-refused")
