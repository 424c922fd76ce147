"""A road to a real broker through a door, faults on the way, and the account at the end.

    Modbus peer --> gateway (a process that is killed) --> door --> Mosquitto --> consumer (paho)

Each life of the gateway meets one fault and ends with kill -9. Afterwards everything that was committed must have been
delivered, be in quarantine, or have been announced as a gap.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from fluxedge.verify import Ledger, Verifier
from tests.conftest import Mosquitto
from tests.durability.door import Door
from tests.durability.outcome import Outcome
from tests.durability.road import Road
from tests.system.consumer import Consumer
from tests.system.modbus_peer import ModbusPeer
from tests.system.settled import Promise, heads, outstanding, quarantined

FLOWS_S = 20.0  # until the first record arrives after a start
DRAIN_S = 40.0
KEEPALIVE_S = 2.0
FAKETIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketime.so.1"


class Site:
    """Everything that a gateway needs to deliver, and the gateway."""

    def __init__(self, folder: Path, door: Door, broker: Mosquitto, outcome: Outcome, *, at_the_door: bool) -> None:
        self.folder, self.door, self.broker, self.outcome = folder, door, broker, outcome
        self.rng = door.rng
        self.peer = ModbusPeer()
        self.consumer = None if at_the_door else Consumer(broker.port)
        self.state = folder / "state"
        self.clock_file = folder / "clock"
        self.clock_file.write_text("+0")
        self.road = Road(str(self.state), self.peer.port, door.port, keepalive_s=KEEPALIVE_S)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def verifier(self) -> Verifier:
        return self.door.verifier if self.consumer is None else self.consumer.verifier

    def start(self, **environment: str) -> None:
        assert self.process is None
        self.process = self.road.spawn(self.folder / "road.log", environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            for file in Path("/dev/shm").glob(f"*faketime_*_{self.process.pid}"):  # libfaketime's, of a killed process
                file.unlink()
            self.process = None

    def arrived(self) -> int:
        """Return how many records have come so far, repeated ones included."""
        return sum(ledger.records for ledger in list(self.verifier.ledgers.values()))

    async def until(self, reached: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait until something is so, as long as the gateway lives."""
        deadline_s = time.monotonic() + timeout_s
        while not reached():
            log = self.folder / "road.log"
            assert self.process is not None
            assert self.process.poll() is None, (
                f"the road ended with {self.process.returncode}: {log.read_text()[-3000:]}"
            )
            assert time.monotonic() < deadline_s, f"not reached in {timeout_s} s: {what}: {log.read_text()[-1500:]}"
            await asyncio.sleep(0.02)

    async def flows(self) -> None:
        """Wait until records arrive."""
        before = self.arrived()
        await self.until(lambda: self.arrived() > before + 20, FLOWS_S, "records arrive")

    async def pause(self, least_s: float, most_s: float) -> None:
        """Wait for a random while."""
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    def heal(self) -> None:
        """Take every fault away."""
        door = self.door
        door.open, door.acks, door.frozen, door.mangle, door.pause_s = True, True, False, False, 0.0

    def close(self) -> None:
        self.kill()
        self.peer.close()
        if self.consumer is not None:
            self.consumer.close()


Fault = Callable[[Site], Awaitable[None]]


async def none(site: Site) -> None:
    """Leave it at the kill."""
    await site.pause(0.0, 0.5)


async def broker_dies(site: Site) -> None:
    """Kill the broker, start it again a moment later."""
    site.broker.stop()
    await site.pause(0.1, 0.8)
    site.broker.start()
    await site.pause(0.0, 1.5)


async def half_open(site: Site) -> None:
    """Pass nothing on, without a word, until the gateway gives the connection up.

    What it has sent meanwhile comes late in one half of the cases, and never in the other.
    """
    accepted, began_s = site.door.accepted, time.monotonic()
    site.door.frozen = True
    try:
        await site.until(lambda: site.door.accepted > accepted, 30, "the gateway gives a silent connection up")
        took_s = round(time.monotonic() - began_s, 1)
        facts = site.outcome.facts
        facts["longest until a silent connection was given up and another tried, s"] = max(
            took_s, facts.get("longest until a silent connection was given up and another tried, s", 0)
        )
    finally:
        if site.rng.random() < 0.5:
            site.door.cut()
        site.door.frozen = False
    await site.pause(0.0, 1.0)


async def loss(site: Site) -> None:
    """Reset the connection, refuse new ones for a while."""
    site.door.cut()
    site.door.open = site.rng.random() < 0.5
    await site.pause(0.0, 1.0)
    site.door.open = True
    await site.pause(0.5, 2.0)
    site.door.cut()
    await site.pause(0.0, 0.5)


async def acknowledgements_lost(site: Site) -> None:
    """Swallow acknowledgements, then reset the connection."""
    site.door.acks = False
    await site.pause(0.1, 0.8)
    site.door.cut()
    site.door.acks = True
    await site.pause(0.5, 2.0)


async def slow(site: Site) -> None:
    """Let the link crawl: some 60 kB a second."""
    site.door.pause_s = 0.03
    await site.pause(1.0, 2.0)
    site.door.pause_s = 0.0


async def broker_stalls(site: Site) -> None:
    """Stop the broker for a while, as a machine that swaps does."""
    site.broker.signal(signal.SIGSTOP)
    await site.pause(0.2, 1.5)
    site.broker.signal(signal.SIGCONT)
    await site.pause(0.0, 0.3)


async def acknowledgements_mangled(site: Site) -> None:
    """Let acknowledgements come twice, and in any order."""
    site.door.mangle = True
    await site.pause(1.0, 2.0)
    site.door.mangle = False
    site.outcome.facts["acknowledgements doubled"] = site.door.doubled
    site.outcome.facts["acknowledgements out of order"] = site.door.shuffled


async def clock_steps(site: Site) -> None:
    """Step the wall clock forth and back by hours."""
    for _ in range(3):
        site.clock_file.write_text(f"{site.rng.randint(-7200, 7200):+d}")
        await site.pause(0.2, 0.5)
    site.clock_file.write_text("+0")


FAULTS: dict[str, Fault] = {
    "nothing but kill -9": none,
    "the broker dies and comes back": broker_dies,
    "the connection is half-open": half_open,
    "the connection is lost": loss,
    "acknowledgements are lost": acknowledgements_lost,
    "the link is slow": slow,
    "the broker stalls": broker_stalls,
    "acknowledgements come twice and out of order": acknowledgements_mangled,
    "the clock is stepped": clock_steps,
}
AT_THE_DOOR = ("the broker dies and comes back",)  # what a broker had acknowledged dies with it


def environment_of(site: Site, fault: str) -> dict[str, str]:
    """Return what the road's environment needs for a fault."""
    if fault != "the clock is stepped":
        return {}
    assert FAKETIME.exists(), f"{FAKETIME} is missing; `make test` installs libfaketime"
    return {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(site.clock_file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


async def trouble(
    folder: Path,
    outcome: Outcome,
    fault: str,
    lives: int,
    *,
    hook: str = "",
    drain_s: float = DRAIN_S,
    until_lost: bool = False,
) -> None:
    """Let a gateway live several times, each time with the fault and kill -9 at random moments; settle the account.

    With `until_lost` it is settled after each life, and the first loss is the end.
    """
    rng = random.Random(outcome.seed)
    broker = Mosquitto(folder).start()
    async with Door(broker.port, rng) as door:
        site = Site(folder, door, broker, outcome, at_the_door=fault in AT_THE_DOOR)
        site.road = replace(site.road, hook=hook)
        try:
            for _ in range(lives):
                site.start(**environment_of(site, fault))
                await site.flows()
                await site.pause(0.0, 0.5)
                await FAULTS[fault](site)
                site.kill()
                site.heal()
                outcome.injected += 1
                if until_lost:
                    await settle(site, drain_s)
                    if outcome.lost:
                        return
            await settle(site, drain_s)
        finally:
            site.close()
            broker.signal(signal.SIGCONT)
            broker.close()


async def settle(site: Site, drain_s: float = DRAIN_S, promised: Promise | None = None) -> None:
    """Let a healthy gateway deliver what was committed before; write the account."""
    promised = (promised or {}) | heads(site.state)
    site.start()
    deadline_s = time.monotonic() + drain_s
    while outstanding(site.verifier, promised, quarantined(site.state)):
        if time.monotonic() > deadline_s:
            break
        await asyncio.sleep(0.1)
    site.kill()
    account(site, promised)


def account(site: Site, promised: Promise) -> None:
    """Count what became of everything that was promised."""
    outcome, verifier, aside = site.outcome, site.verifier, quarantined(site.state)
    left = outstanding(verifier, promised, aside)
    outcome.promised = outcome.delivered = outcome.quarantined = outcome.gaps = outcome.duplicates = 0
    outcome.lost = sum(hi - lo + 1 for ranges in left.values() for lo, hi in ranges)
    outcome.broken = [f"epoch {epoch}, {lane}: {ranges[:5]} never came" for (epoch, lane), ranges in left.items()]
    for (epoch, lane), head in promised.items():
        ledger = verifier.ledgers.get(("gw", epoch, lane), Ledger())
        outcome.promised += head
        outcome.delivered += ledger.seen.count_upto(head)
        outcome.duplicates += ledger.duplicate_records
        outcome.gaps += sum(
            min(hi, head) - lo + 1 - sum(b - a + 1 for a, b in ledger.seen.intersect(lo, min(hi, head)))
            for lo, hi in ledger.gaps
            if lo <= head
        )
        outcome.quarantined += sum(
            hi - lo + 1 for lo, hi in aside.get((epoch, lane), ()) if hi <= head and not ledger.seen.intersect(lo, hi)
        )
    if len({epoch for epoch, _ in promised}) > 1:
        outcome.facts["epochs"] = len({epoch for epoch, _ in promised})
