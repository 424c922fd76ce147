"""Measure the gateway beside the floor, in turn, on one processor, and print what it costs beside its budgets.

    python -m bench [--quick] [--parts road,flash,replay,query] [--workloads W1,W2,W3,idle] [--strict]
                    [--yardstick PATH | --no-yardstick] [--json PATH]

Ratios within one run count; absolute figures belong to the machine and to what else it does.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import flash, query, replay, report
from bench.measure import Bench, Measurement
from bench.peers import Missing
from bench.subject import Failed
from bench.workloads import WORKLOADS

IDLE = "idle"
OTHERS = {"flash": flash.main, "replay": replay.main, "query": query.main}
PARTS = ("road", *OTHERS)
OUT = Path(__file__).resolve().parent / "out"
YARDSTICK = Path(__file__).resolve().parents[2] / "shared" / "bench" / "floor.py"  # beside the checkout


def standard_yardstick(beside: Path = YARDSTICK) -> Path | None:
    """Return the floor script beside the checkout, if there is one."""
    return beside if beside.is_file() else None


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join([workload.name for workload in WORKLOADS] + [IDLE])
    parser.add_argument("--quick", action="store_true", help="one short repetition")
    parser.add_argument("--workloads", default=names, help=f"some of {names} [all]")
    parser.add_argument("--parts", default="", help=f"some of {','.join(PARTS)} [all; with --quick: road]")
    parser.add_argument("--repetitions", type=int, default=2, help="how often floor and gateway take turns [2]")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of each turn [8]")
    yardstick = parser.add_mutually_exclusive_group()
    words = "another floor script to measure in the same run [../shared/bench/floor.py, if it is there]"
    yardstick.add_argument("--yardstick", type=Path, default=standard_yardstick(), help=words)
    yardstick.add_argument("--no-yardstick", dest="yardstick", action="store_const", const=None, help="measure none")
    parser.add_argument("--json", type=Path, default=OUT / "results.json", help="where the results go")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is exceeded")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds = 1, 5.0
    args.workloads = args.workloads.split(",")
    args.parts = (args.parts or ("road" if args.quick else ",".join(PARTS))).split(",")
    for what, given, known in (("workload", args.workloads, names.split(",")), ("part", args.parts, list(PARTS))):
        unknown = set(given) - set(known)
        if unknown:
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    return args


def main() -> int:
    """Run everything; return the exit code."""
    args = arguments()
    OUT.mkdir(exist_ok=True)
    try:
        with alone():
            outcomes = [run(args)] if "road" in args.parts else []
            for part in args.parts:
                if part in OTHERS:
                    print(f"\n--- {part}", flush=True)
                    outcomes.append(OTHERS[part](["--strict"] if args.strict else []))
            return max(outcomes)
    except Missing as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other bench runs in this checkout: two would measure each other."""
    with (OUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another bench runs; waiting for its end ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; return the exit code."""
    bench = Bench(OUT, args.seconds, args.yardstick)
    facts = report.machine_facts(bench.ours, bench.theirs)
    print("\n".join(report.machine_lines(facts)), flush=True)
    measured: list[Measurement] = []
    failures = 0
    known = {workload.name: workload for workload in WORKLOADS}
    for name in args.workloads:
        try:
            measured += bench.measure_idle() if name == IDLE else bench.measure(known[name], args.repetitions)
        except Failed as exc:
            print(f"bench: {exc}", file=sys.stderr)
            failures += 1
    facts["load_after"] = os.getloadavg()[0]
    rows = report.judge(measured)
    print("\n".join(report.table(measured, rows)))
    args.json.write_text(json.dumps(report.as_json(facts, measured, rows), indent=2) + "\n")
    print(f"\nwritten: {args.json}")
    if failures:
        print(f"logs: {bench.scratch}")
        return 2
    bench.close()
    return 1 if args.strict and any(row.verdict == report.OVER for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
