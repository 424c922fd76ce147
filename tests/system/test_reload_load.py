"""One device file changed under load: the others are not touched, on the wire either."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import pytest

from tests.system.arrivals import wait_until
from tests.system.daemon import Daemon
from tests.system.peers import TcpPeer

DEVICES = 60
PERIOD_S = 0.1
DRIVER = """\
name = "Meter"
protocol = "modbus"
source = "tests"
[points]
level = { at = "ir:7", type = "uint16" }
"""


def device(number: int, port: int, every_ms: int) -> str:
    return f"""\
[devices.m{number}]
driver = "meter"
channel = "tcp://127.0.1.{number}:{port}"
unit = {number}
every = "{every_ms}ms"
"""


def spacing(asked: list[float], since_s: float, until_s: float) -> list[float]:
    times = [at_s for at_s in asked if since_s <= at_s <= until_s]
    return [b - a for a, b in itertools.pairwise(times)]


def moved(asked: list[float], before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return by how much the grid on which requests come has moved between two spans of time: the median, at most half
    a period."""
    anchor = next(at_s for at_s in asked if at_s >= before[0])

    def offsets(span: tuple[float, float]) -> list[float]:
        found = [at_s - anchor for at_s in asked if span[0] <= at_s <= span[1]]
        return [offset - round(offset / PERIOD_S) * PERIOD_S for offset in found]

    shift_s = statistics.median(offsets(after)) - statistics.median(offsets(before))
    return abs(shift_s - round(shift_s / PERIOD_S) * PERIOD_S)


@pytest.mark.system
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["watched", "sighup"])
def test_a_changed_device_file_leaves_connections_and_rhythm_of_the_others_alone(tmp_path: Path, how: str) -> None:
    peer = TcpPeer(host="0.0.0.0")
    daemon = Daemon(tmp_path)
    daemon.write("fluxedge.toml", '[gateway]\nid = "gw"\n')
    daemon.write("drivers/meter.toml", DRIVER)
    for number in range(1, DEVICES + 1):
        daemon.write(f"devices/m{number}.toml", device(number, peer.port, 100))
    asked = peer.registers.asked
    try:
        daemon.start()
        wait_until(lambda: set(daemon.devices().values()) == {"ok"} and len(asked) == DEVICES, what="all answer")
        accepted = dict(peer.accepted)
        assert set(accepted.values()) == {1}
        begun_s = time.monotonic()
        time.sleep(1)
        changed_s = time.monotonic()
        daemon.write("devices/m7.toml", device(7, peer.port, 300))
        if how == "sighup":
            daemon.reload()
        time.sleep(2.5)
        ended_s = time.monotonic()
    finally:
        daemon.close()
        peer.stop()
    assert dict(peer.accepted) == accepted  # nor was the channel of the changed device closed
    assert min(spacing(asked[7], ended_s - 1.2, ended_s)) > 0.2
    for number in set(range(1, DEVICES + 1)) - {7}:
        gaps = spacing(asked[number], begun_s, ended_s)
        assert len(gaps) == pytest.approx((ended_s - begun_s) / PERIOD_S, abs=2)  # no period was skipped or added
        assert max(gaps) < 3 * PERIOD_S  # test machines have stalls of their own
        assert moved(asked[number], (begun_s, changed_s), (changed_s + 1, ended_s)) < 0.015
