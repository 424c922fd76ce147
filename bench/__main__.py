"""Measure the gateway beside the floor, in turn, on one processor, and print what it costs beside its budgets.

    python -m bench [--quick] [--workloads W1,W2,W3] [--yardstick PATH] [--json PATH]

Ratios within one run count; absolute figures belong to the machine and to what else it does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from bench import report
from bench.measure import Bench, Measurement
from bench.peers import Missing
from bench.subject import Failed
from bench.workloads import WORKLOADS

OUT = Path(__file__).resolve().parent / "out"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--quick", action="store_true", help="one short repetition")
    parser.add_argument("--workloads", default=names, help=f"some of {names} [all]")
    parser.add_argument("--repetitions", type=int, default=2, help="how often floor and gateway take turns [2]")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of each turn [8]")
    parser.add_argument("--yardstick", type=Path, help="another floor script to measure in the same run")
    parser.add_argument("--json", type=Path, default=OUT / "results.json", help="where the results go")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is exceeded")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds = 1, 5.0
    known = {workload.name: workload for workload in WORKLOADS}
    unknown = set(args.workloads.split(",")) - known.keys()
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    args.workloads = [known[name] for name in args.workloads.split(",")]
    return args


def main() -> int:
    """Run everything; return the exit code."""
    args = arguments()
    OUT.mkdir(exist_ok=True)
    bench = Bench(OUT, args.seconds, args.yardstick)
    facts = report.machine_facts(bench.ours, bench.theirs)
    print("\n".join(report.machine_lines(facts)), flush=True)
    measured: list[Measurement] = []
    failures = 0
    cases = [partial(bench.measure, workload, args.repetitions) for workload in args.workloads]
    for case in [*cases, bench.measure_idle]:
        try:
            measured += case()
        except (Failed, Missing) as exc:
            print(f"bench: {exc}", file=sys.stderr)
            failures += 1
    facts["load_after"] = os.getloadavg()[0]
    rows = report.judge(measured)
    print("\n".join(report.table(measured, rows)))
    args.json.write_text(json.dumps(report.as_json(facts, measured, rows), indent=2) + "\n")
    print(f"\nwritten: {args.json}")
    shutil.rmtree(bench.scratch, ignore_errors=True)
    if failures:
        return 2
    return 1 if args.strict and any(row.verdict == report.OVER for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
