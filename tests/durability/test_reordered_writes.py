"""What was committed survives a power cut of a disk that writes what it caches in any order."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.durability.conftest import Drill
from tests.durability.recording_disk import cut_anywhere

pytestmark = pytest.mark.durability


@pytest.fixture
def recorder_ground(ground: Path) -> Path:
    """A folder of ours, on a machine that has file systems in user space."""
    if not Path("/dev/fuse").exists():
        pytest.skip("durability: this machine has no FUSE")
    if not shutil.which("fusermount3"):
        pytest.fail("fusermount3 is missing; `make test` installs fuse3")
    return ground


@pytest.mark.timeout(900)
def test_a_cut_that_reorders_writes_costs_no_committed_record(recorder_ground: Path, drill: Drill) -> None:
    outcome = drill.begin("power cut at any write; what was not flushed is there or not, in pieces of 1 KiB")
    cut_anywhere(recorder_ground, outcome, drill.times(30, 200))
    outcome.must_hold()


@pytest.mark.timeout(300)
def test_the_harness_convicts_reordered_writes_without_flushes(recorder_ground: Path, drill: Drill) -> None:
    outcome = drill.begin("as above, with synchronous = NORMAL: must lose")
    cut_anywhere(recorder_ground, outcome, 20, "normal", until_lost=True)
    assert outcome.lost, f"{outcome.injected} cuts with synchronous = NORMAL, and nothing was found lost"
