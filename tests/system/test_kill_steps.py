"""What was committed arrives or is announced as a gap, between whichever two steps the gateway is killed."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Mosquitto, free_port
from tests.system.consumer import Consumer
from tests.system.kill_road import EVICTION_STEPS, STEPS
from tests.system.modbus_peer import ModbusPeer
from tests.system.settled import Promise, heads, outstanding

ROAD = Path(__file__).with_name("kill_road.py")
ROOMY_KIB, TIGHT_KIB = 1 << 20, 128
AT_OPENING = ("the epoch is judged, the witness is not written", "the witness is written, nothing has begun")
NTH = 25  # commits run every 50 ms, messages follow them: the road has been working for a second or so


class Kills:
    """A state folder, a peer, and the road that is started on them again and again."""

    def __init__(self, folder: Path, mqtt_port: int, backlog_kib: int) -> None:
        self.state = folder / "state"
        self._out = folder / "road.log"
        self._peer = ModbusPeer()
        self._ports = str(self._peer.port), str(mqtt_port)
        self._backlog_kib = str(backlog_kib)

    def start(self, *step: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROAD), str(self.state), *self._ports, self._backlog_kib]
        with self._out.open("ab") as out:
            return subprocess.Popen([*command, *step], stdout=out, stderr=out)

    def run_into(self, step: str, nth: int) -> None:
        """Run the road until it has killed itself at a step."""
        process = self.start(step, str(nth))
        try:
            code = process.wait(30)
        finally:
            process.kill()
            process.wait()
        assert code == -signal.SIGKILL, f"{step}: {code}\n{self._out.read_text()[-3000:]}"

    def drain(self, consumer: Consumer, promised: Promise) -> None:
        """Run the road until the consumer has all that was promised, or for 20 s."""
        process = self.start()
        deadline = time.monotonic() + 20
        try:
            while outstanding(consumer.verifier, promised) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        self._peer.close()


def announced(consumer: Consumer, promised: Promise) -> int:
    """Assert that everything promised is settled; return how many records were announced as gaps."""
    assert promised
    assert outstanding(consumer.verifier, promised) == {}
    return sum(
        consumer.verifier.ledgers["gw", epoch, lane].gaps.count_upto(head) for (epoch, lane), head in promised.items()
    )


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_kill_between_any_two_steps_of_the_road_loses_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    kills, consumer = Kills(tmp_path, broker.port, ROOMY_KIB), Consumer(broker.port)
    epochs = set[int]()
    try:
        for step in STEPS:
            before = sum(ledger.duplicate_records for ledger in consumer.verifier.ledgers.values())
            kills.run_into(step, 1 if step in AT_OPENING else NTH)
            promised = heads(kills.state)
            epochs |= {epoch for epoch, _ in promised}
            kills.drain(consumer, promised)
            again = sum(ledger.duplicate_records for ledger in consumer.verifier.ledgers.values()) - before
            # 500 rounds a second: two kills, each with what two commits, the window and unsaved cursors can hold
            assert again <= 1000, f"{step}: {again} records came twice"
            assert announced(consumer, promised) == 0
    finally:
        consumer.close()
        kills.close()
    assert len(epochs) == 1, "a kill is no reason for a new epoch"
    assert sum(promised.values()) > 1000


@pytest.mark.system
@pytest.mark.timeout(60)
@pytest.mark.parametrize("step", EVICTION_STEPS)
def test_a_kill_between_eviction_and_announcement_hides_no_gap(tmp_path: Path, step: str) -> None:
    port = free_port()
    kills = Kills(tmp_path, port, TIGHT_KIB)
    broker = Mosquitto(tmp_path, port=port)
    try:
        kills.run_into(step, 2)  # no broker: nothing is delivered, the oldest segments go
        broker.start()
        consumer = Consumer(port)
        try:
            promised = heads(kills.state)
            kills.drain(consumer, promised)
            assert announced(consumer, promised) > 0
            assert_each_gap_is_told_once(consumer)
        finally:
            consumer.close()
    finally:
        broker.close()
        kills.close()


def assert_each_gap_is_told_once(consumer: Consumer) -> None:
    told: dict[tuple[int, int], dict[str, object]] = {}  # (epoch, seq) of the event -> what it says
    for topic, payload in consumer.payloads:
        if topic.endswith("/events"):
            body = json.loads(payload)
            for record in body["records"]:
                if record["kind"] == "gap":
                    told[body["epoch"], record["seq"]] = record["data"]
    stretches = sorted((gap["lane"], gap["lo"], gap["hi"]) for gap in told.values())
    assert len(set(stretches)) == len(stretches)
    for (lane, _, hi), (next_lane, lo, _) in itertools.pairwise(stretches):
        assert lane != next_lane or hi < lo, "gaps overlap"
