"""A gateway whose log is damaged while it is down: what was committed arrives, or is announced; polling goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxedge.log.database import write_witness
from fluxedge.model import Lane
from tests.conftest import Mosquitto
from tests.system.arrivals import wait_until
from tests.system.consumer import Consumer
from tests.system.modbus_peer import ModbusPeer
from tests.system.settled import heads, outstanding

ROAD = Path(__file__).with_name("road.py")


def start(state: Path, modbus_port: int, mqtt_port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, ROAD, state, str(modbus_port), str(mqtt_port)], stdout=out, stderr=out)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def zero_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(1024))


def garbage_in_the_middle(path: Path) -> None:
    """Spoil a tenth of the pages, the table of groups left out: without it no round means anything."""
    connection = sqlite3.connect(path)
    kept = {page for (page,) in connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'groups'")}
    connection.close()
    pages = path.stat().st_size // 1024
    with path.open("r+b") as file:
        for page in range(pages * 7 // 10, pages * 8 // 10):
            if page + 1 not in kept:
                file.seek(page * 1024)
                file.write(os.urandom(1024))
    path.with_suffix(".broken").touch()


@pytest.mark.system
@pytest.mark.timeout(120)
@pytest.mark.parametrize("spoil", [zero_first_page, garbage_in_the_middle])
def test_a_log_that_is_damaged_while_the_gateway_is_down_arrives_or_is_announced(
    tmp_path: Path, broker: Mosquitto, spoil: Callable[[Path], None]
) -> None:
    state, log = tmp_path / "state", tmp_path / "road.log"
    peer = ModbusPeer()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        process = start(state, peer.port, nobody.getsockname()[1], log)  # the broker is away: all is still to be sent
        time.sleep(4)
        end(process)
    promised = heads(state)
    connection = sqlite3.connect(state / "log.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    (epoch,) = {epoch for epoch, _ in promised}
    seen = {lane: promised.get((epoch, lane.label), 0) for lane in Lane}
    write_witness(state / "log.witness", state / "log.db", epoch, seen)  # as within the next minute
    spoil(state / "log.db")
    consumer = Consumer(broker.port)
    try:
        process = start(state, peer.port, broker.port, log)
        began_s = time.monotonic()
        wait_until(
            lambda: any(e not in {p for p, _ in promised} for _, e, _ in list(consumer.verifier.ledgers)),
            15,
            "live data",
        )
        assert time.monotonic() - began_s < 10

        wait_until(lambda: not outstanding(consumer.verifier, promised), 40, "all of it, or its gap")
        end(process)
        (report,) = [json.loads(file.read_text()) for file in state.glob("log.damaged-*/salvaged.json")]
        ledger = consumer.verifier.ledgers[("gw", epoch, "rounds")]
        delivered = sum(hi - lo + 1 for lo, hi in ledger.seen)
        assert delivered >= promised[(epoch, "rounds")] * 0.7
        if spoil is zero_first_page:
            assert (report["lost"], delivered) == (0, report["rounds"])
    finally:
        if process.poll() is None:
            end(process)
        consumer.close()
        peer.close()
