"""The report says what was found, and does not call a failed run good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.durability.outcome import Outcome
from tests.durability.report import collect, markdown

pytestmark = pytest.mark.durability


def _report(folder: Path, *outcomes: Outcome, exit_code: int = 0) -> dict[str, object]:
    for outcome in outcomes:
        outcome.end().save(folder / "scenarios")
    return json.loads(json.dumps(collect(folder, exit_code)))  # type: ignore[no-any-return]


def test_losses_that_were_wanted_are_not_added_to_those_that_were_not(tmp_path: Path) -> None:
    good = Outcome("a_cut", "power cut", 1, injected=3, promised=10, delivered=4, held=6)
    guilty = Outcome("the_harness_convicts_a_cut", "as above", 2, injected=1, promised=5, lost=5)
    report = _report(tmp_path, good, guilty)
    assert report["sums"]["lost"] == 0  # type: ignore[index]
    assert "3 faults, 10 records promised, 0 lost" in str(report["verdict"])
    assert "found guilty: 1" in str(report["verdict"])
    page = markdown(report)
    assert "| a_cut | power cut | 1 | 3 | 10 | 4 | 0 | 0 | 6 | 0 | 0 |" in page
    assert "kernel" in page


def test_a_failed_run_is_not_called_good(tmp_path: Path) -> None:
    bad = Outcome("a_cut", "power cut", 1, injected=3, promised=10, lost=2, broken=["rounds 4..5 are gone"])
    report = _report(tmp_path, bad, exit_code=1)
    assert "everything held" not in str(report["verdict"])
    assert "BROKEN: rounds 4..5 are gone" in markdown(report)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("s", "f", 1, injected=1, promised=1, lost=1),
        Outcome("s", "f", 1, injected=1, promised=1, broken=["a new epoch"]),
        Outcome("s", "f", 1, injected=0, promised=1),
        Outcome("s", "f", 1, injected=1, promised=0),
    ],
)
def test_an_outcome_with_a_loss_or_without_a_fault_does_not_hold(outcome: Outcome) -> None:
    with pytest.raises(AssertionError):
        outcome.must_hold()
