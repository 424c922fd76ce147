"""Eight hours without a broker cost no record, from the first minute to the last."""

from __future__ import annotations

import asyncio
import itertools
import random
import typing
from pathlib import Path

import pytest

from fluxedge.app import Gateway
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import (
    Config,
    DeviceCfg,
    DriverCfg,
    GatewayCfg,
    LogCfg,
    SimulatorOptionsCfg,
    SimulatorPointCfg,
    UplinkCfg,
)
from fluxedge.verify import Ledger
from tests.conftest import Mosquitto
from tests.durability.conftest import Drill
from tests.durability.door import Door
from tests.durability.fast_time import FastClock, FastLoop
from tests.durability.outcome import Outcome
from tests.system.consumer import Consumer
from tests.system.settled import Promise, heads, outstanding

pytestmark = pytest.mark.durability

HOURS_S = 8 * 3600.0
WINDOW_S = 3600.0
EVERY_S = 20.0
DEVICES = 10
RECONNECTING = 20.0  # factor until the gateway has found its broker again: its pauses are up to a minute long


def config(port: int) -> Config:
    points = {f"p{i}": SimulatorPointCfg(wave="ramp", to=1e6, period_s=Seconds(86400)) for i in range(20)}
    driver = DriverCfg(
        id="d", name="d", protocol="simulator", source="made up", points=points, options=SimulatorOptionsCfg()
    )
    return Config(
        gateway=GatewayCfg(id="gw"),
        log=LogCfg(
            commit_s=Seconds(10.0),
            segment_bytes=Bytes(128 << 10),
            backlog_bytes=Bytes(64 << 20),
            free_space_bytes=Bytes(0),
        ),
        devices={f"m{i}": DeviceCfg(driver="d", every_s=Seconds(EVERY_S)) for i in range(DEVICES)},
        drivers={"d": driver},
        uplinks={"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{port}")},
    )


async def until(reached: typing.Callable[[], object], seconds: float, what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + seconds
    while not reached():
        assert loop.time() < deadline_s, what
        await asyncio.sleep(0.1)


async def outage(state: Path, broker: Mosquitto, consumer: Consumer, outcome: Outcome, factor: float) -> None:
    """Run a gateway, take its uplink away for eight hours, give it back, and settle the account."""
    loop = typing.cast(FastLoop, asyncio.get_running_loop())
    rng = random.Random(outcome.seed)
    async with Door(broker.port, rng) as door:
        gateway = Gateway(config(door.port), state, clock=FastClock(loop), rng=rng)
        await gateway.start()
        try:
            await until(lambda: consumer.seen_upto("rounds", gateway.log.epoch), 120, "records arrive")
            door.leave()
            loop.run_at(factor)
            outcome.facts["rounds stored in each hour"] = await watch(state, gateway.log.epoch)
            outcome.injected = 1
            promised = heads(state)
            loop.run_at(RECONNECTING)
            await door.listen()
            await until(lambda: gateway.forwarders["cloud"].connected_since_ns, 300, "the gateway connects again")
            loop.run_at(1.0)
            await until(lambda: not outstanding(consumer.verifier, promised), 60, "the backlog arrives")
        finally:
            loop.run_at(1.0)
            await gateway.stop()
    settle(outcome, consumer, promised)


async def watch(state: Path, epoch: int) -> list[int]:
    """Let the hours pass; return how many rounds were committed in each hour."""
    loop = asyncio.get_running_loop()
    begun_s, stored = loop.time(), [heads(state)[epoch, "rounds"]]
    for window in range(1, int(HOURS_S / WINDOW_S) + 1):
        await asyncio.sleep(begun_s + window * WINDOW_S - loop.time())
        stored.append(heads(state)[epoch, "rounds"])
    return [after - before for before, after in itertools.pairwise(stored)]


def settle(outcome: Outcome, consumer: Consumer, promised: Promise) -> None:
    left = outstanding(consumer.verifier, promised)
    outcome.lost = sum(hi - lo + 1 for ranges in left.values() for lo, hi in ranges)
    for (epoch, lane), head in promised.items():
        ledger = consumer.verifier.ledgers.get(("gw", epoch, lane), Ledger())
        outcome.promised += head
        outcome.delivered += ledger.seen.count_upto(head)
        outcome.gaps += ledger.gaps.count_upto(head)
        outcome.duplicates += ledger.duplicate_records


@pytest.mark.timeout(600)
def test_eight_hours_without_a_broker_cost_no_record(tmp_path: Path, broker: Mosquitto, drill: Drill) -> None:
    outcome = drill.begin("the broker is away for eight hours, in accelerated time")
    factor = drill.times(2400, 480)
    consumer = Consumer(broker.port)
    try:
        with asyncio.Runner(loop_factory=FastLoop) as runner:
            runner.run(outage(tmp_path / "state", broker, consumer, outcome, factor))
    finally:
        consumer.close()
    outcome.facts["accelerated"] = f"{factor} times"
    outcome.must_hold()
    assert outcome.gaps == 0
    assert outcome.promised == outcome.delivered
    fewest, wanted = min(outcome.facts["rounds stored in each hour"]), DEVICES * WINDOW_S / EVERY_S
    assert fewest > wanted / 4, f"{fewest} rounds in an hour, there should be {wanted}"
