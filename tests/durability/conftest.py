"""Fixtures of the durability tests: seeds, counts, and disks that are taken down whatever happens.

DURABILITY_SEED=N       repeat a run; without it each test draws one, and prints it
DURABILITY_COUNTS=long  as many faults as `make soak` injects
DURABILITY_REPORT=DIR   write what was found there, a file a test
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.loop_disk import own_folder
from tests.durability.outcome import Outcome


class Drill:
    """One scenario's seed and counts; what it found is kept for the report."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seed = int(os.environ.get("DURABILITY_SEED") or random.SystemRandom().randrange(10**9))
        self.rng = random.Random(self.seed)
        self.long = os.environ.get("DURABILITY_COUNTS") == "long"
        self.outcome: Outcome | None = None

    def times(self, short: int, long: int) -> int:
        """Return how many faults are to be injected."""
        return long if self.long else short

    def begin(self, fault: str) -> Outcome:
        """Return the outcome to be filled in."""
        self.outcome = Outcome(self.name, fault, self.seed)
        return self.outcome


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Iterator[Drill]:
    """Seed, counts and outcome of a test."""
    made = Drill(request.node.name.removeprefix("test_"))
    print(f"DURABILITY_SEED={made.seed}")
    yield made
    report = os.environ.get("DURABILITY_REPORT")
    if report and made.outcome is not None:
        made.outcome.end().save(Path(report))


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder of ours for images and mounts; needs root, and a kernel with loop devices."""
    if os.geteuid():
        pytest.skip("durability: mounting needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("durability: this machine has no loop devices")
    if not (shutil.which("mkfs.ext4") and shutil.which("losetup")):
        pytest.fail("mkfs.ext4 or losetup is missing; `make test` installs them")
    with own_folder() as folder:
        yield folder
