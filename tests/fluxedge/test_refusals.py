"""Refusals: the first at once, the others by their number, and never more than the table holds."""

from __future__ import annotations

import asyncio
import typing

from fluxedge.permissions import Principal
from fluxedge.refusals import KINDS, TELL_EVERY_S, TOLD_AT_ONCE, Refusals
from tests.fluxedge.virtual import virtual

ANNA, BERT = (Principal("peer", name, "viewer") for name in ("anna", "bert"))


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[float, str, dict[str, typing.Any]]] = []
        self.refusals = Refusals(self._tell)
        self._began_s = asyncio.get_running_loop().time()

    def _tell(self, item: str, data: dict[str, typing.Any]) -> None:
        self.events.append((round(asyncio.get_running_loop().time() - self._began_s, 3), item, data))

    def note(
        self, who: Principal = ANNA, target: str = "pump.speed", code: str = "command-refused", k: int = 0
    ) -> None:
        self.refusals.note(who, target, code, f"device:{target.partition('.')[0]}", lambda: {"by": str(who), "k": k})

    def take(self) -> list[tuple[float, str, dict[str, typing.Any]]]:
        events, self.events = self.events, []
        return events


@virtual
async def test_the_first_refusal_of_a_kind_is_told_at_once() -> None:
    told = Told()
    for i in range(1000):
        told.note(k=i)
    told.note(BERT)
    told.note(target="pump.mode")
    told.note(code="log-damaged")
    assert [(item, data) for _, item, data in told.take()] == [
        ("device:pump", {"by": "anna", "k": 0}),
        ("device:pump", {"by": "bert", "k": 0}),
        ("device:pump", {"by": "anna", "k": 0}),
        ("device:pump", {"by": "anna", "k": 0}),
    ]
    told.refusals.close()


@virtual
async def test_those_that_follow_are_one_event_a_minute_with_the_latest_and_their_number() -> None:
    told = Told()
    for i in range(1501):  # ten a second for 150 s
        told.note(k=i)
        await asyncio.sleep(0.1)
    await asyncio.sleep(3600)
    assert [(at_s, data.get("k"), data.get("n")) for at_s, _, data in told.take()] == [
        (0.0, 0, None), (60.0, 599, 599), (120.0, 1199, 600), (180.0, 1500, 301),
    ]  # fmt: skip
    told.note()
    assert len(told.take()) == 1  # forgotten after a quiet minute, and told at once again
    told.refusals.close()


@virtual
async def test_what_is_counted_is_told_at_the_end() -> None:
    told = Told()
    for i in range(3):
        told.note(k=i)
    told.refusals.close()
    assert [data for _, _, data in told.take()] == [{"by": "anna", "k": 0}, {"by": "anna", "k": 2, "n": 2}]
    await asyncio.sleep(10 * TELL_EVERY_S)
    assert told.take() == []


@virtual
async def test_kinds_beyond_the_table_are_counted_together() -> None:
    told = Told()
    for i in range(10_000):
        told.note(target=f"d{i}.p")
    first = told.take()
    assert len(first) == KINDS + 1
    assert [(item, data["by"]) for _, item, data in first[-1:]] == [("gateway", "others")]
    await asyncio.sleep(TELL_EVERY_S + 0.1)
    assert [(item, data["n"]) for _, item, data in told.take()] == [("gateway", 10_000 - KINDS - 1)]
    for i in range(1000):
        told.note(target=f"e{i}.p")
    assert len(told.take()) <= KINDS
    told.refusals.close()


@virtual
async def test_many_kinds_are_told_in_several_turns_of_the_loop() -> None:
    told = Told()
    for i in range(200):
        told.note(target=f"d{i}.p")
        told.note(target=f"d{i}.p")
    told.take()
    sizes = []
    await asyncio.sleep(TELL_EVERY_S)
    while len(sizes) < 10:
        sizes.append(len(told.take()))
        await asyncio.sleep(0)
    assert sum(sizes) == 200
    assert max(sizes) <= 2 * TOLD_AT_ONCE
    told.refusals.close()
