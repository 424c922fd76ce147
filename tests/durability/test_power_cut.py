"""What was committed survives a power cut of the file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durability.conftest import Drill
from tests.durability.loop_disk import BASE, PREFIX, LoopDisk, run, sweep
from tests.durability.power_cut import cut_power

pytestmark = pytest.mark.durability


@pytest.mark.timeout(900)
def test_a_power_cut_costs_no_committed_record(ground: Path, drill: Drill) -> None:
    outcome = drill.begin("EXT4_IOC_SHUTDOWN without log flush, at random moments")
    cut_power(ground, outcome, drill.times(20, 100))
    outcome.must_hold()
    assert outcome.gaps, "nothing was evicted before it was delivered: the scenario is too mild"


@pytest.mark.timeout(300)
def test_the_harness_convicts_commits_that_are_not_synced(ground: Path, drill: Drill) -> None:
    outcome = drill.begin("as above, with synchronous = NORMAL: must lose")
    cut_power(ground, outcome, 10, "normal", until_lost=True)
    assert outcome.lost, f"{outcome.injected} cuts with synchronous = NORMAL, and nothing was found lost"


def test_what_a_harness_left_behind_that_died_is_taken_down(ground: Path) -> None:
    dead = BASE / f"{PREFIX}4194304-left"  # above the highest pid that Linux gives
    dead.mkdir()
    disk = LoopDisk(dead, 16)
    assert dead in sweep()
    assert not dead.exists()
    assert disk.device not in run("losetup", "-l", "-n", "-O", "NAME")
