"""Bytes that reach the block device for each stored point: the log with its history, beside two usual designs.

    python -m bench.flash [--hours 2] [--control-seconds 300] [--json PATH] [--strict]

The data set "mix" (mix.py: 1,000 points a second) goes through the real log: a commit every 1 or 5 simulated seconds,
an uplink that acknowledges everything, housekeeping every minute, and the compactor when an hour has closed. Simulated
seconds pass as fast as the machine permits; the file system's own journal, metadata and the last checkpoint are in.
The controls store the same points in the same run:

    rows     a row per point with an index on (point, time), one commit a second
    outbox   a JSON message per device and second: inserted, and deleted when it was sent, each in a commit of its own
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
import typing
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import mix
from bench.device import BlockDevice, block_device
from bench.peers import Missing
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import LogCfg
from fluxedge.log import Batch, Log
from fluxedge.model import Lane, Round

OUT = Path(__file__).resolve().parent / "out" / "flash.json"
POINTS_A_SECOND = mix.DEVICES * mix.POINTS
HOUSEKEEPING_S = 60
GRACE_NS = 180 * 10**9  # from the end of an hour to its compaction
BUDGETS = {1: (18.0, 7.0), 5: (9.0, 5.0)}  # commit interval in s: must, aim
HISTORY_BUDGET = (1.5, 0.8)


@dataclass(frozen=True, slots=True)
class Found:
    """What one design wrote."""

    design: str
    commit_s: int
    points: int
    block_bytes_per_point: float
    history_bytes_per_point: float = 0.0  # on the disk, for the hours that are compacted
    log_block_bytes_per_point: float = 0.0  # of it, without the history
    cpu_us_per_point: float = 0.0


class SteppedClock:
    """A clock that the bench moves."""

    def __init__(self) -> None:
        self.now_ns = mix.START_NS

    def wall_ns(self) -> int:
        """Return the simulated UTC."""
        return self.now_ns

    def mono_ns(self) -> int:
        """Return the simulated time since the boot."""
        return self.now_ns - mix.START_NS

    def trusted(self) -> bool:
        """Tell that the clock is right."""
        return True


async def run_log(device: BlockDevice, hours: int, commit_s: int, data: list[list[Round]]) -> Found:
    """Store `hours` through the real log and compact them."""
    state = device.root / f"log-{commit_s}"
    state.mkdir()
    before = device.written_bytes()
    clock = SteppedClock()
    log = Log(state, LogCfg(commit_s=Seconds(commit_s), free_space_bytes=Bytes(0)), clock)
    log.begin_uplink("bench", [Lane.ROUNDS], "oldest")
    cpu_s = time.process_time()
    in_history = 0
    written_by_compactor = 0
    for hour in range(hours):
        await store_hour(log, clock, commit_s, data, hour)
        start = device.written_bytes()
        in_history += await compact(log, state, clock)
        written_by_compactor += device.written_bytes() - start
    cpu_s = time.process_time() - cpu_s
    await log.close()
    written = device.written_bytes() - before
    points = hours * len(data) * POINTS_A_SECOND
    history = sum(file.stat().st_blocks * 512 for file in (state / "history").glob("*.db"))
    shutil.rmtree(state)
    return Found(
        "fluxedge", commit_s, points, written / points, history / max(1, in_history),
        (written - written_by_compactor) / points, cpu_s / points * 1e6,
    )  # fmt: skip


async def store_hour(
    log: Log, clock: SteppedClock, commit_s: int, data: list[list[Round]], hour: int, uplink: str = "bench"
) -> None:
    """Store the data of an hour, `hour` hours later than it is stamped; the uplink acknowledges everything."""
    shift_ns = hour * 3600 * 10**9
    batch = Batch()
    for second, rounds in enumerate(data):
        for round_ in rounds:
            log.add_round(batch, _later(round_, shift_ns))
        clock.now_ns = mix.START_NS + shift_ns + (second + 1) * 10**9
        if (second + 1) % commit_s == 0:
            await log.commit(batch)
            log.cursors.settle(uplink, log.epoch, Lane.ROUNDS, 1, log.heads[Lane.ROUNDS])
            batch = Batch()
        if second % HOUSEKEEPING_S == 0:
            while await log.housekeep([uplink]):
                pass


async def compact(log: Log, state: Path, clock: SteppedClock, uplink: str = "bench") -> int:
    """Run the compactor when the hour's grace is over, as compaction.py does; return the points in the history."""
    command = [sys.executable, "-m", "fluxedge.log.history.compactor", str(state), "--oldest-ns", "0"]
    clock.now_ns += GRACE_NS
    command += ["--wall-ns", str(clock.now_ns), "--mono-ns", str(clock.mono_ns())]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "--boot", str(log.boot)], capture_output=True, text=True, check=False
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or not reports or not reports[-1].get("done"):
        raise RuntimeError(f"the compactor failed: {done.stdout}{done.stderr}")
    for report in reports:
        if report.get("epoch"):
            await log.note_compacted(report["epoch"], report["upto"])
    while await log.housekeep([uplink]):
        pass
    return sum(report.get("points", 0) for report in reports)


def _later(round_: Round, shift_ns: int) -> Round:
    """Return a round of another hour."""
    return Round(
        round_.group, round_.raws, round_.values, round_.quality, round_.at_ns + shift_ns,
        round_.arrived_mono_ns + shift_ns,
    )  # fmt: skip


def run_rows(device: BlockDevice, seconds: int, data: list[list[Round]]) -> Found:
    """Store a row per point with an index."""
    path = device.root / "rows.db"
    before = device.written_bytes()
    connection = _connect(path)
    connection.execute("CREATE TABLE point (id INTEGER PRIMARY KEY, tag INTEGER, at_ms INTEGER, value REAL, q INTEGER)")
    connection.execute("CREATE INDEX point_tag_at ON point (tag, at_ms)")
    cpu_s = time.process_time()
    for second in range(seconds):
        connection.execute("BEGIN IMMEDIATE")
        for number, round_ in enumerate(data[second]):
            at_ms = round_.at_ns // 10**6
            connection.executemany(
                "INSERT INTO point (tag, at_ms, value, q) VALUES (?, ?, ?, 0)",
                [(number * mix.POINTS + i, at_ms, value) for i, value in enumerate(round_.values)],
            )
        connection.execute("COMMIT")
    cpu_s = time.process_time() - cpu_s
    return _ended(device, connection, path, "rows with index", seconds, before, cpu_s)


def run_outbox(device: BlockDevice, seconds: int, data: list[list[Round]]) -> Found:
    """Insert and delete a message per device and second, each in a commit of its own."""
    path = device.root / "outbox.db"
    before = device.written_bytes()
    connection = _connect(path)
    connection.execute("CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT)")
    cpu_s = time.process_time()
    for second in range(seconds):
        for round_ in data[second]:
            values = dict(zip(round_.group.names, round_.values, strict=True))
            payload = json.dumps({"device": round_.group.device, "at_ms": round_.at_ns // 10**6, "values": values})
            number = connection.execute("INSERT INTO outbox (payload) VALUES (?)", (payload,)).lastrowid
            connection.execute("DELETE FROM outbox WHERE id = ?", (number,))
    cpu_s = time.process_time() - cpu_s
    return _ended(device, connection, path, "outbox per message", seconds, before, cpu_s)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _ended(
    device: BlockDevice,
    connection: sqlite3.Connection,
    path: Path,
    design: str,
    seconds: int,
    before: int,
    cpu_s: float,
) -> Found:
    connection.close()
    points = seconds * POINTS_A_SECOND
    written = device.written_bytes() - before
    path.unlink()
    return Found(design, 1, points, written / points, cpu_us_per_point=cpu_s / points * 1e6)


def table(found: list[Found]) -> list[str]:
    """Return the lines to print, with what the budgets say."""
    lines = [f"{'':22}{'commit':>7}{'points':>12}{'block B/point':>15}{'log alone':>11}{'on disk':>9}{'µs/point':>10}"]
    for one in found:
        lines.append(
            f"{one.design:22}{one.commit_s:6}s{one.points:12,}{one.block_bytes_per_point:15.1f}"
            f"{one.log_block_bytes_per_point:11.1f}{one.history_bytes_per_point:9.2f}{one.cpu_us_per_point:10.2f}"
        )
    lines += ["", f"{'budget':46}{'found':>9}{'must':>8}{'aim':>8}"]
    lines += [
        f"{what:46}{value:9.2f}{must:8g}{aim:8g} B/point {'ok' if value <= must else 'OVER'}"
        for what, value, (must, aim) in judged(found)
    ]
    return lines


def judged(found: list[Found]) -> list[tuple[str, float, tuple[float, float]]]:
    """Return each budget: what, found, (must, aim)."""
    ours = [one for one in found if one.design == "fluxedge"]
    rows = [(f"written, commit {one.commit_s} s", one.block_bytes_per_point, BUDGETS[one.commit_s]) for one in ours]
    return rows + [(f"history, commit {one.commit_s} s", one.history_bytes_per_point, HISTORY_BUDGET) for one in ours]


def main(words: list[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.flash", description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=int, default=2, help="simulated hours for the log [2]")
    parser.add_argument("--control-seconds", type=int, default=300, help="simulated seconds for the controls [300]")
    parser.add_argument("--json", type=Path, default=OUT, help="where the results go")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is exceeded")
    args = parser.parse_args(words)
    print("making the data ...", flush=True)
    data = list(mix.seconds(3600))
    found = []
    try:
        with block_device() as device:
            for commit_s in BUDGETS:
                print(f"fluxedge, a commit every {commit_s} s ...", flush=True)
                found.append(asyncio.run(run_log(device, args.hours, commit_s, data)))
            print("controls ...", flush=True)
            found.append(run_rows(device, args.control_seconds, data))
            found.append(run_outbox(device, args.control_seconds, data))
    except Missing as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    print("\n".join(table(found)))
    args.json.parent.mkdir(exist_ok=True)
    facts: dict[str, typing.Any] = {"found": [asdict(one) for one in found]}
    args.json.write_text(json.dumps(facts, indent=2) + "\n")
    over = any(value > must for _, value, (must, _) in judged(found))
    return 1 if args.strict and over else 0


if __name__ == "__main__":
    sys.exit(main())
