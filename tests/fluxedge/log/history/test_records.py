"""Rounds of the history by seq; what a query of records makes of them is held by test_filed."""

from __future__ import annotations

import random

import pytest

from fluxedge.log.history import records as records_module
from fluxedge.log.history.records import FiledRounds
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import compact, fill, rounds

EVER = (-(2**62), 2**62)


@pytest.mark.parametrize("room", [1, 7, 2_000_000])
async def test_seqs_come_in_order_in_both_directions_however_few_rounds_are_unpacked_at_once(
    open_log: OpenLog, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "UNPACKED_VALUES", room)
    monkeypatch.setattr(records_module, "FEWEST_ROUNDS", 1)
    rng = random.Random(3)
    log = open_log()
    await fill(log, rounds(rng, 150), rng)
    for upto in (40, 41, 150):
        compact(log.path.parent, log.epoch, upto)
    told: list[str] = []
    filed = FiledRounds(log.path.parent / "history", log.epoch, {log.epoch: 150}, lambda _: True, told.append)
    for first, last in ((1, 150), (30, 60), (41, 41), (140, 999)):
        wanted = list(range(first, min(last, 150) + 1))
        found = [record.seq for page in filed.pages(first, last, EVER) for record in page]
        assert found == wanted
        back = [record.seq for page in filed.pages(first, last, EVER, newest_first=True) for record in page]
        assert back == wanted[::-1]
    assert told == []
    assert filed._open == {}, "every file is closed when its chunks have been read"
    filed.close()
