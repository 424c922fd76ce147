"""Whichever write to the log fails, what was committed stays, and a commit that is tried again is written once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.durability.conftest import Drill
from tests.durability.failing_writes import KINDS, SHORT, all_k
from tests.durability.loop_disk import BASE

pytestmark = pytest.mark.durability


@pytest.mark.timeout(600)
def test_whichever_write_fails_no_committed_record_goes(drill: Drill) -> None:
    outcome = drill.begin("the k-th write, fsync or ftruncate of log.db* fails, for every k")
    with tempfile.TemporaryDirectory(prefix="failing-writes-", dir=BASE) as folder:
        wanted = drill.times(SHORT, len(KINDS))
        kinds = [kind for run in range(drill.times(1, 3)) for kind in all_k(Path(folder), outcome.seed + run, wanted)]
    for kind in kinds:
        outcome.injected += kind["writes"]
        outcome.promised += kind["promised"]
        outcome.held += kind["held"]
        outcome.delivered += kind["gone"]
        outcome.gaps += kind["gaps"]
        outcome.lost += kind["lost"]
        outcome.broken += kind["broken"]
        outcome.facts[kind["kind"]] = {"k from 1 to": kind["writes"], "commits refused": kind["refused"]}
    outcome.must_hold()
    assert len({kind["kind"] for kind in kinds}) == wanted
    assert all(kind["writes"] > 40 and kind["refused"] > 20 for kind in kinds), outcome.facts
    assert outcome.held < outcome.promised, "no segment was dropped meanwhile: the scenario is too mild"
