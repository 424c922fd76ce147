"""The last 24 hours of a point in 1,000 buckets, asked of a gateway that polls and forwards meanwhile.

    python -m bench.query [--hours 24] [--json PATH] [--strict]

So many hours of the data set "mix" (1,000 points a second) are stored and compacted first. Then the gateway runs on
that state and polls W2 (15,000 points a second). First: no reader child runs. Cold: nothing of the history files is in
memory, for each of some points anew. Warm: other points, one after the other. The loop's lag is taken while they are
asked without a pause. Reader and gateway share one processor.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import http.client
import json
import os
import shutil
import socket
import sys
import time
import typing
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

from bench import mix, peers
from bench.device import BlockDevice, block_device
from bench.flash import SteppedClock, compact, store_hour
from bench.peers import Missing
from bench.probe import quantile
from bench.subject import Failed, running
from bench.workloads import WORKLOADS, write_config
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import LogCfg
from fluxedge.log import Log
from fluxedge.model import Lane

OUT = Path(__file__).resolve().parent / "out"
LIVE = next(workload for workload in WORKLOADS if workload.name == "W2")
BUCKETS = 1000
SETTLE_S = 3.0
WARM, COLD = 40, 9
BUDGET_MS = (100.0, 20.0)  # must, aim
LAG_BUDGET_MS = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found."""

    first_ms: float  # the child's start is in it
    cold_ms: float  # median
    warm_p50_ms: float
    warm_p99_ms: float
    lag_p99_ms: float  # while queries run without a pause
    lag_max_ms: float
    idle_lag_p99_ms: float
    idle_lag_max_ms: float


class _Connection(http.client.HTTPConnection):
    """HTTP on the gateway's unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


async def fill(state: Path, first_hour: int, hours: int) -> None:
    """Store and compact the hours from `first_hour`, counted from the data set's own, on."""
    data = list(mix.seconds(3600))
    clock = SteppedClock()
    clock.now_ns = mix.START_NS + first_hour * 3600 * 10**9
    log = Log(state, LogCfg(free_space_bytes=Bytes(0)), clock)
    log.begin_uplink("broker", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for hour in range(first_hour, first_hour + hours):
        await store_hour(log, clock, 5, data, hour, "broker")
        await compact(log, state, clock, "broker")
    await log.close()


def ask(path: Path, point: str, from_s: int, to_s: int) -> float:
    """Ask for a point's buckets; return the milliseconds until the whole answer was there."""
    start_s = time.perf_counter()
    connection = _Connection(path)
    try:
        words = {"points": point, "from": _iso(from_s), "to": _iso(to_s), "buckets": BUCKETS}
        connection.request("GET", "/api/v1/history?" + urlencode(words))
        answer = connection.getresponse()
        lines = answer.read().splitlines()
    finally:
        connection.close()
    if answer.status != 200 or len(lines) != BUCKETS + 2 or b'"end"' not in lines[-1]:
        raise Failed(f"{point}: status {answer.status}, {len(lines)} lines: {lines[:2]!r}")
    empty = sum(1 for line in lines[1:-1] if not json.loads(line)["count"])
    if empty > 2:
        raise Failed(f"{point}: {empty} buckets are empty")
    return (time.perf_counter() - start_s) * 1000


def _iso(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def measure(device: BlockDevice, hours: int) -> Found:
    """Fill, run the gateway, ask."""
    processors = sorted(os.sched_getaffinity(0))
    ours, theirs = processors[0], processors[-1]
    first_hour = int((time.time_ns() - mix.START_NS) // (3600 * 10**9)) - hours
    state, config = device.root / "state", device.root / "config"
    state.mkdir()
    print(f"storing {hours} hours ...", flush=True)
    asyncio.run(fill(state, first_hour, hours))
    device.forget(state / "history")
    from_s = mix.START_NS // 10**9 + first_hour * 3600
    with (
        peers.responder(peers.build_responder(OUT), LIVE, theirs) as modbus_port,
        peers.mosquitto(device.root, theirs) as mqtt_port,
    ):
        write_config(config, LIVE, modbus_port, mqtt_port)
        words = [sys.executable, "-m", "bench.gateway", str(config), str(state)]
        with running(words, ours, OUT / "query.log") as subject:
            subject.wait_steady(SETTLE_S)
            subject.ask()
            time.sleep(5)
            idle = subject.ask()
            device.forget(state / "history")
            until_s = from_s + hours * 3600
            first_ms = ask(state / "api.sock", "device-0.counter_0", from_s, until_s)
            cold_ms = []
            for i in range(COLD):
                device.forget(state / "history")
                cold_ms.append(ask(state / "api.sock", f"device-{i}.analog_{i}", from_s, until_s))
            points = [f"device-{i % mix.DEVICES}.register_{i % 20}" for i in range(WARM)]
            subject.ask()
            warm_ms = [ask(state / "api.sock", point, from_s, until_s) for point in points]
            busy = subject.ask()
    shutil.rmtree(state)
    return Found(
        first_ms=first_ms,
        cold_ms=quantile(cold_ms, 0.5),
        warm_p50_ms=quantile(warm_ms, 0.5),
        warm_p99_ms=quantile(warm_ms, 0.99),
        lag_p99_ms=busy["lag_p99_ms"],
        lag_max_ms=busy["lag_max_ms"],
        idle_lag_p99_ms=idle["lag_p99_ms"],
        idle_lag_max_ms=idle["lag_max_ms"],
    )


def judged(found: Found) -> list[tuple[str, float, float, float]]:
    """Return each budget: what, found, must, aim."""
    return [
        ("24 h of a point, cold p50", found.cold_ms, *BUDGET_MS),
        ("24 h of a point, warm p50", found.warm_p50_ms, *BUDGET_MS),
        ("loop lag p99 while asked", found.lag_p99_ms, LAG_BUDGET_MS, LAG_BUDGET_MS),
    ]


def main(words: list[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.query", description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=int, default=24, help="stored and asked for [24]")
    parser.add_argument("--json", type=Path, default=OUT / "query.json", help="where the results go")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is exceeded")
    args = parser.parse_args(words)
    OUT.mkdir(exist_ok=True)
    try:
        with block_device() as device:
            found = measure(device, args.hours)
    except (Missing, Failed) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    print(f"first {found.first_ms:.0f} ms, warm p99 {found.warm_p99_ms:.0f} ms; lag max {found.lag_max_ms:.1f} ms; "
          f"without queries p99 {found.idle_lag_p99_ms:.1f}, max {found.idle_lag_max_ms:.1f} ms")  # fmt: skip
    print(f"\n{'budget':46}{'found':>9}{'must':>8}{'aim':>8}")
    for what, value, must, aim in judged(found):
        print(f"{what:46}{value:9.1f}{must:8g}{aim:8g} ms {'ok' if value <= must else 'OVER'}")
    results: dict[str, typing.Any] = asdict(found)
    args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if args.strict and any(value > must for _, value, must, _ in judged(found)) else 0


if __name__ == "__main__":
    sys.exit(main())
