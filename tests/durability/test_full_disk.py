"""A disk that another program fills up, and frees again, costs no committed record, and live data goes on."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.durability.conftest import Drill
from tests.durability.delivery import Site, settle
from tests.durability.door import Door
from tests.durability.loop_disk import LoopDisk
from tests.system.settled import Promise, heads

pytestmark = pytest.mark.durability

DISK_MIB = 64
COMES_BACK_S = 30.0  # until the log is on the disk again after the disk has room


class Glutton:
    """Another program, whose file takes whatever the disk has left."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "somebody-elses"
        self._file = self._path.open("ab", buffering=0)

    def eat(self) -> None:
        """Take everything that is free now."""
        size = 1 << 20
        while size:
            try:
                size = size if self._file.write(bytes(size)) else 0
            except OSError:
                size //= 4

    def close(self) -> None:
        """Give everything back."""
        self._file.close()
        self._path.unlink()


async def fill(site: Site, disk: LoopDisk) -> bool:
    """Fill the disk for a while and free it; tell whether the gateway was killed meanwhile."""
    glutton = Glutton(disk.mounted_at)
    try:
        greedy, deadline_s = site.rng.random() < 0.7, time.monotonic() + site.rng.uniform(2.0, 5.0)
        site.door.open = site.rng.random() < 0.7
        if not site.door.open:
            site.door.cut()
        glutton.eat()
        while time.monotonic() < deadline_s:
            await site.pause(0.1, 0.2)
            if greedy:  # it takes what the gateway frees for itself, too
                glutton.eat()
        killed = site.rng.random() < 0.3
        if killed:
            site.kill()
        elif site.door.open:
            before = site.arrived()
            await site.until(lambda: site.arrived() > before, 20, "live data arrives while the disk is full")
    finally:
        glutton.close()
        site.door.open = True
    return killed


def durable_rounds(state: Path) -> int:
    """Return how many rounds were ever committed to the disk."""
    return sum(head for (_, lane), head in heads(state).items() if lane == "rounds")


async def disk_is_used(site: Site) -> None:
    """Wait until rounds are committed to the disk."""
    before = durable_rounds(site.state)
    await site.until(lambda: durable_rounds(site.state) > before, COMES_BACK_S, "the disk is used again")


@pytest.mark.timeout(1800)
async def test_a_full_disk_costs_no_committed_record(tmp_path: Path, ground: Path, drill: Drill) -> None:
    outcome = drill.begin("another program fills the disk for seconds and frees it; at times the uplink is away too")
    disk, broker = LoopDisk(ground, DISK_MIB), Mosquitto(tmp_path).start()
    outcome.facts["file system"] = f"ext4, {DISK_MIB} MiB, loop device"
    promised: Promise = {}
    async with Door(broker.port, random.Random(drill.seed)) as door:
        site = Site(tmp_path, door, broker, outcome, at_the_door=False)
        site.state = disk.mounted_at / "state"
        site.road = replace(site.road, state=str(site.state), free_space_kib=4096, backlog_kib=8192)
        try:
            for _ in range(drill.times(3, 25)):
                site.start()
                await site.flows()
                await site.pause(0.0, 1.0)
                killed = await fill(site, disk)
                outcome.injected += 1
                if not killed:
                    before = durable_rounds(site.state)
                    await site.until(
                        lambda before=before: durable_rounds(site.state) > before,
                        COMES_BACK_S,
                        "the disk is used again",
                    )
                    await site.pause(0.0, 1.0)
                    site.kill()
                promised |= heads(site.state)
            await settle(site, promised=promised)
        finally:
            site.close()
            broker.close()
    disk.close()
    outcome.must_hold()
    assert outcome.promised == outcome.delivered + outcome.quarantined + outcome.gaps
