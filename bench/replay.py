"""A backlog beside live data: how fast it goes, and what live messages feel of it.

    python -m bench.replay [--points 20000000] [--format json-columns] [--json PATH] [--strict]

A log with a backlog of so many points (200 groups of 500, half float32, half int16 in tenths) is made first. Then the
gateway runs twice against a local Mosquitto while it polls W2 (15,000 points a second): once with an empty log for the
control, once with the backlog. Live commit -> PUBACK is taken exactly, message by message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
import typing
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import peers
from bench.flash import SteppedClock
from bench.peers import Missing
from bench.subject import Failed, Subject, running
from bench.workloads import WORKLOADS, write_config
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Group, Lane, Point

OUT = Path(__file__).resolve().parent / "out"
LIVE = next(workload for workload in WORKLOADS if workload.name == "W2")
GROUPS, POINTS = 200, 500
SETTLE_S = 3.0
MEASURED_S = 15.0  # without a backlog
DRAIN_S = 300.0  # at most
RATE_BUDGET = (1e6, 3e6)  # points a second: must, aim
LATENCY_BUDGET = (2.0, 1.2)  # live p99 with the backlog, by the one without: must, aim


@dataclass(frozen=True, slots=True)
class Found:
    """What one run found."""

    run: str  # "live alone" | "beside backlog"
    seconds: float
    backlog_points_per_s: float
    live_points_per_s: float
    live_p50_ms: float  # commit -> PUBACK
    live_p99_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    cpu_share: float
    rss_bytes: int


async def fill(state: Path, points: int) -> None:
    """Make a log whose uplink is behind by so many points."""
    columns = tuple(Point(f"point_{i}", "f") for i in range(POINTS // 2))
    columns += tuple(Point(f"point_{i}", "h", scale=0.1) for i in range(POINTS // 2, POINTS))
    groups = [Group(f"old-{i}", "main", columns) for i in range(GROUPS)]
    rng = random.Random(5)
    raws = [
        (*[int(rng.gauss(230, 4) * 8) / 8 for _ in range(POINTS // 2)], *[int(rng.gauss(500, 20)) for _ in range(250)])
        for _ in range(40)
    ]
    clock = SteppedClock()
    clock.now_ns = time.time_ns() - 3600 * 10**9
    log = Log(state, LogCfg(), clock)
    log.begin_uplink("broker", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    for second in range(points // (GROUPS * POINTS)):
        batch = Batch()
        for i, group in enumerate(groups):
            log.add_round(batch, group.round(raws[(i + second) % 40], clock.now_ns, clock.mono_ns()))
        clock.now_ns += 10**9
        await log.commit(batch)
    await log.close()


def write_gateway(scratch: Path, modbus_port: int, mqtt_port: int, form: str) -> None:
    """Write the configuration of the gateway that polls W2."""
    write_config(scratch / "config", LIVE, modbus_port, mqtt_port)
    main = scratch / "config" / "fluxedge.toml"
    main.write_text(main.read_text() + f'format = "{form}"\n')


def measure(subject: Subject, run: str, done: Path | None) -> Found:
    """Measure ten settled seconds, or the whole backlog: `done` appears when it is gone."""
    if done is None:
        subject.wait_steady(SETTLE_S)
    first = subject.sample()
    deadline_s = time.monotonic() + (DRAIN_S if done else MEASURED_S)
    peak = 0
    while time.monotonic() < deadline_s and not (done and done.exists()):
        time.sleep(0.1)
        peak = max(peak, subject.memory_bytes()[1])
    last = subject.sample()
    if done and not done.exists():
        raise Failed(f"only {last.told['backlog_points']:,} points of the backlog went in {DRAIN_S} s")
    seconds = last.at_s - first.at_s
    return Found(
        run=run,
        seconds=seconds,
        backlog_points_per_s=(last.told["backlog_points"] - first.told["backlog_points"]) / seconds,
        live_points_per_s=(last.told["live_points"] - first.told["live_points"]) / seconds,
        live_p50_ms=last.told["latency_p50_ms"],
        live_p99_ms=last.told["latency_p99_ms"],
        lag_p99_ms=last.told["lag_p99_ms"],
        lag_max_ms=last.told["lag_max_ms"],
        cpu_share=(last.cpu_s - first.cpu_s) / seconds,
        rss_bytes=peak,
    )


def table(found: list[Found]) -> list[str]:
    """Return the lines to print, with what the budgets say."""
    lines = [f"{'':16}{'s':>7}{'backlog pt/s':>14}{'live pt/s':>11}{'live ->PUBACK p50/p99 ms':>26}"
             f"{'lag p99/max ms':>16}{'% core':>8}{'MB RSS':>8}"]  # fmt: skip
    for one in found:
        latency, lag = f"{one.live_p50_ms:.1f} / {one.live_p99_ms:.1f}", f"{one.lag_p99_ms:.1f} / {one.lag_max_ms:.1f}"
        lines.append(
            f"{one.run:16}{one.seconds:7.1f}{one.backlog_points_per_s:14,.0f}{one.live_points_per_s:11,.0f}"
            f"{latency:>26}{lag:>16}{100 * one.cpu_share:8.1f}{one.rss_bytes / 1e6:8.1f}"
        )
    lines += ["", f"{'budget':46}{'found':>12}{'must':>12}{'aim':>12}"]
    lines += [
        f"{what:46}{value:12,.2f}{must:12,.1f}{aim:12,.1f}  {'ok' if kept else 'OVER'}"
        for what, value, (must, aim), kept in judged(found)
    ]
    return lines


def judged(found: list[Found]) -> list[tuple[str, float, tuple[float, float], bool]]:
    """Return each budget: what, found, (must, aim), whether it is kept."""
    alone, beside = found
    rate, ratio = beside.backlog_points_per_s, beside.live_p99_ms / max(0.001, alone.live_p99_ms)
    return [
        ("replay beside live, points/s", rate, RATE_BUDGET, rate >= RATE_BUDGET[0]),
        ("live p99 with the backlog, by without", ratio, LATENCY_BUDGET, ratio <= LATENCY_BUDGET[0]),
    ]


def run(args: argparse.Namespace, scratch: Path) -> list[Found]:
    """Make the backlog, run the gateway without it and with it."""
    processors = sorted(os.sched_getaffinity(0))
    ours, theirs = processors[0], processors[-1]
    responder = peers.build_responder(OUT)
    print(f"making a backlog of {args.points:,} points ...", flush=True)
    behind = scratch / "behind"
    behind.mkdir()
    asyncio.run(fill(behind, args.points))
    found = []
    with (
        peers.responder(responder, LIVE, theirs) as modbus_port,
        peers.mosquitto(scratch, theirs) as mqtt_port,
    ):
        write_gateway(scratch, modbus_port, mqtt_port, args.format)
        for name, state in (("live alone", scratch / "alone"), ("beside backlog", behind)):
            print(f"{name} ...", flush=True)
            state.mkdir(exist_ok=True)
            done = state / "backlog-done"
            words = [sys.executable, "-m", "bench.replaying", str(scratch / "config"), str(state), str(done)]
            with running(words, ours, scratch / f"{state.name}.log") as subject:
                found.append(measure(subject, name, done if state is behind else None))
    return found


def main(words: list[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=20_000_000, help="of the backlog [20000000]")
    parser.add_argument("--format", default="json-columns", choices=("json", "json-columns"))
    parser.add_argument("--json", type=Path, default=OUT / "replay.json", help="where the results go")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is exceeded")
    args = parser.parse_args(words)
    OUT.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="replay-", dir=OUT))
    try:
        found = run(args, scratch)
    except (Missing, Failed) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("\n".join(table(found)))
    results: dict[str, typing.Any] = {"format": args.format, "found": [asdict(one) for one in found]}
    args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if args.strict and not all(kept for *_, kept in judged(found)) else 0


if __name__ == "__main__":
    sys.exit(main())
