"""What was committed is delivered, whatever happens between the gateway and its broker, and whenever it is killed."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.durability.conftest import Drill
from tests.durability.delivery import FAULTS, Site, account, settle, trouble
from tests.durability.door import Door
from tests.system.settled import heads

pytestmark = pytest.mark.durability

TIGHT_KIB = 192  # the log's cap: some seconds of what the devices say


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_kill_and(fault: str, tmp_path: Path, drill: Drill) -> None:
    outcome = drill.begin(f"{fault}; kill -9 at the end of each life")
    times = drill.times(10, 100) if fault == "nothing but kill -9" else drill.times(3, 25)
    await trouble(tmp_path, outcome, fault, times)
    outcome.must_hold()
    assert outcome.promised == outcome.delivered + outcome.quarantined
    assert outcome.gaps == 0, "nothing was evicted, and yet there are gaps"


@pytest.mark.timeout(300)
async def test_the_harness_convicts_a_cursor_that_moves_on_send(tmp_path: Path, drill: Drill) -> None:
    outcome = drill.begin("the connection is half-open, with cursors that pass a message when it is sent: must lose")
    await trouble(tmp_path, outcome, "the connection is half-open", 8, hook="on-send", drain_s=3, until_lost=True)
    assert outcome.lost, f"{outcome.injected} half-open connections, and nothing was found lost"


@pytest.mark.timeout(1800)
async def test_what_is_evicted_while_the_uplink_is_dead_is_announced_exactly(tmp_path: Path, drill: Drill) -> None:
    outcome = drill.begin("the broker is away until undelivered segments are evicted; kill -9 meanwhile")
    broker = Mosquitto(tmp_path).start()
    async with Door(broker.port, random.Random(drill.seed)) as door:
        site = Site(tmp_path, door, broker, outcome, at_the_door=False)
        site.road = replace(site.road, backlog_kib=TIGHT_KIB)
        try:
            for _ in range(drill.times(2, 15)):
                site.start()
                await site.flows()
                door.open = False
                door.cut()
                for _ in range(2):  # a kill while segments are dropped
                    await site.pause(2.0, 5.0)
                    site.kill()
                    site.start()
                await site.pause(1.0, 2.0)
                site.kill()
                site.heal()
                outcome.injected += 1
            await settle(site)
        finally:
            site.close()
            broker.close()
    outcome.must_hold()
    assert outcome.gaps, "nothing was evicted: the scenario is too mild"
    assert outcome.promised == outcome.delivered + outcome.quarantined + outcome.gaps


async def test_the_account_counts_each_record_once(tmp_path: Path, drill: Drill) -> None:
    outcome = drill.begin("none: a run without a fault, for comparison")
    broker = Mosquitto(tmp_path).start()
    async with Door(broker.port, random.Random(drill.seed)) as door:
        site = Site(tmp_path, door, broker, outcome, at_the_door=False)
        try:
            site.start()
            await site.flows()
            promised, deadline_s = heads(site.state), time.monotonic() + 5
            while time.monotonic() < deadline_s:
                await asyncio.sleep(0.1)
                if door.verifier.ledgers.keys() == site.verifier.ledgers.keys():
                    break
            await asyncio.sleep(1)
            account(site, promised)
        finally:
            site.close()
            broker.close()
    assert (outcome.lost, outcome.duplicates, outcome.gaps) == (0, 0, 0)
    assert outcome.promised == outcome.delivered > 20
    for stream, ledger in site.verifier.ledgers.items():  # what the broker acknowledged is what the consumer got
        assert ledger.seen.first_from(1) == (1, ledger.last)
        assert door.verifier.ledgers[stream].first == ledger.first == 1
