"""A clock that is stepped by hours while the gateway runs: nothing is lost, no poll moves, and the rows explain it."""

from __future__ import annotations

import bisect
import itertools
import json
import os
import sqlite3
import statistics
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.log.placing import ClockRow, rows_of
from fluxedge.log.query import Query, query
from fluxedge.model import Lane, Record, Round
from tests.conftest import Mosquitto
from tests.system.arrivals import wait_until
from tests.system.consumer import Consumer
from tests.system.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

FAKETIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketime.so.1"
EVERY_S = 0.05
S = 10**9
TANK = """\
name = "Tank"
protocol = "simulator"
source = "tests"
[points]
level = { wave = "sine", from = 0.0, to = 100.0 }
"""


class Site:
    """A gateway whose wall clock the test moves, and a consumer behind its broker."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        assert FAKETIME.exists(), f"{FAKETIME} is missing; `make test` installs libfaketime"
        self.offset = folder / "offset"
        self.step("+0")
        self.daemon = Daemon(folder)
        self.daemon.environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.daemon.write(
            "fluxedge.toml",
            f'[gateway]\nid = "gw"\n[log]\ncommit = "50ms"\n[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{broker.port}"\n',
        )
        self.daemon.write("drivers/tank.toml", TANK)
        self.daemon.write("devices/tank.toml", f'[devices.tank]\ndriver = "tank"\nevery = "{EVERY_S * 1000:.0f}ms"\n')
        self.consumer = Consumer(broker.port)

    def step(self, offset: str) -> None:
        """Move the clock at once: libfaketime must never see half a file."""
        fresh = self.offset.with_name("offset.new")
        fresh.write_text(offset)
        fresh.rename(self.offset)

    def clock_set(self) -> list[dict[str, typing.Any]]:
        """Return what the events clock-set said that arrived upstream."""
        bodies = [json.loads(payload) for topic, payload in self.consumer.payloads if topic.endswith("/events")]
        records = [record for body in bodies for record in body["records"]]
        return [record["data"] for record in records if record["kind"] == "clock-set"]

    def wait_for_step(self, count: int) -> None:
        wait_until(lambda: len(self.clock_set()) == count, 20, f"{count} events clock-set arrive")
        time.sleep(1.0)  # and the gateway goes on for a while


@pytest.fixture
def site(tmp_path: Path, broker: Mosquitto) -> Iterator[Site]:
    made = Site(tmp_path, broker)
    yield made
    made.daemon.close()
    made.consumer.close()


async def records(site: Site, lane: Lane) -> list[Record]:
    return [record async for record in query(site.daemon.state / "log.db", Query(lane))]


def clock_rows(site: Site) -> list[ClockRow]:
    connection = sqlite3.connect(site.daemon.state / "log.db")
    try:
        return rows_of(connection)
    finally:
        connection.close()


def unexplained(found: list[Record], rows: list[ClockRow]) -> list[Record]:
    """Return rounds whose stamps fit neither the row before them nor, within the second of a look, the one after."""
    begins = [mono_ms * 10**6 for _, mono_ms, _, _ in rows]
    ahead = [(utc_ms - mono_ms) * 10**6 for _, mono_ms, utc_ms, _ in rows]
    bad = []
    for record in found:
        assert isinstance(record.body, Round)
        at_ns, mono_ns = record.body.at_ns, record.body.arrived_mono_ns
        index = max(0, bisect.bisect_right(begins, mono_ns) - 1)
        near = [index] + [index + 1] * (index + 1 < len(begins) and begins[index + 1] - mono_ns < 3 * S)
        if all(abs(at_ns - mono_ns - ahead[i]) > S // 2 for i in near):
            bad.append(record)
    return bad


async def test_steps_lose_nothing_move_no_poll_and_are_written_down(site: Site) -> None:
    site.daemon.start()
    wait_until(lambda: site.consumer.seen_upto("rounds", site.daemon.ask("status")["log"]["epoch"]) > 20, 20, "rounds")
    site.step("+3600")
    site.wait_for_step(1)
    site.step("-7200")
    site.wait_for_step(2)
    status = site.daemon.ask("status")
    assert status["gateway"]["clock_step_us"] == pytest.approx(-10_800 * 10**6, abs=10**6)
    assert site.daemon.problems() == {}
    epoch = status["log"]["epoch"]
    assert site.daemon.stop() == 0

    rounds = await records(site, Lane.ROUNDS)
    assert [record.seq for record in rounds] == list(range(1, len(rounds) + 1))
    wait_until(lambda: site.consumer.seen_upto("rounds", epoch) > len(rounds) - 40, 5, "what was acknowledged")
    for ledger in site.consumer.verifier.ledgers.values():
        assert not ledger.missing()

    mono_s = [record.body.arrived_mono_ns / S for record in rounds if isinstance(record.body, Round)]
    periods_s = [after - before for before, after in itertools.pairwise(mono_s)]
    assert statistics.median(periods_s) == pytest.approx(EVERY_S, rel=0.5)
    assert min(periods_s) >= 0
    assert max(periods_s) < 15.0  # a busy machine is late; a poll that follows the clock would be late by hours

    rows = clock_rows(site)
    assert [row[3] for row in rows][1:] == ["step", "step"]
    steps_us = [data["step_us"] for data in site.clock_set()]
    assert steps_us == [pytest.approx(3600 * 10**6, abs=10**6), pytest.approx(-10_800 * 10**6, abs=10**6)]
    assert [(data["mono_us"] // 1000, data["utc_us"] // 1000) for data in site.clock_set()] == [
        row[1:3] for row in rows[1:]
    ]
    assert unexplained(rounds, rows) == []
    assert unexplained(rounds, rows[:1]) != []  # the check finds stamps that no row explains


async def test_a_jump_to_2038_makes_nothing_old(site: Site) -> None:
    text = (site.daemon.config / "fluxedge.toml").read_text()
    limits = 'commit = "50ms"\nkeep = "30d"\nkeep_events = "30d"\nsegment = "1KiB"\n'
    site.daemon.write("fluxedge.toml", text.replace('commit = "50ms"\n', limits))
    site.daemon.start()
    wait_until(lambda: segments(site) > 3, 30, "segments, of which the oldest could go")
    site.step("+400000000")
    site.wait_for_step(1)
    before = segments(site)
    wait_until(lambda: segments(site) > before, 30, "a segment of 2038, behind which the log keeps house")
    assert site.daemon.stop() == 0
    rounds = await records(site, Lane.ROUNDS)
    assert [record.seq for record in rounds] == list(range(1, len(rounds) + 1))
    kinds = {record.body.kind for record in await records(site, Lane.EVENTS) if not isinstance(record.body, Round)}
    assert "gap" not in kinds


def segments(site: Site) -> int:
    """Return the number of the newest segment of rounds."""
    connection = sqlite3.connect(site.daemon.state / "log.db")
    try:
        return int(connection.execute("SELECT max(number) FROM segments WHERE lane = 0").fetchone()[0] or 0)
    finally:
        connection.close()
