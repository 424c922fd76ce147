"""What was committed arrives, whatever moment the gateway is killed at."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.system.consumer import Consumer
from tests.system.modbus_peer import ModbusPeer
from tests.system.settled import heads

KILLS = 20
ROAD = Path(__file__).with_name("road.py")


def start(state: Path, modbus_port: int, mqtt_port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, ROAD, state, str(modbus_port), str(mqtt_port)], stdout=out, stderr=out)


@pytest.mark.system
@pytest.mark.timeout(120)
def test_twenty_kills_at_random_moments_lose_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    state, log = tmp_path / "state", tmp_path / "road.log"
    rng = random.Random(20261124)
    peer, consumer = ModbusPeer(), Consumer(broker.port)
    try:
        for _ in range(KILLS):
            process = start(state, peer.port, broker.port, log)
            time.sleep(rng.uniform(0.5, 1.7))
            process.send_signal(signal.SIGKILL)
            process.wait()
        promised = heads(state)
        process = start(state, peer.port, broker.port, log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(consumer.seen_upto(n, e) < head for (e, n), head in promised.items()):
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        consumer.close()
        peer.close()
    assert sum(promised.values()) > 1000, log.read_text()[-2000:]
    for (epoch, lane), head in promised.items():
        ledger = consumer.verifier.ledgers[("gw", epoch, lane)]
        assert ledger.first == 1
        assert ledger.last >= head
        assert ledger.missing(since=1) == []
        assert ledger.out_of_order == 0, "in each stream first publications go in the order of seq"
