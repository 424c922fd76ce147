"""The report of a soak: what was injected, how often, and what became of what was promised.

As a program: OUT EXIT_CODE. Reads OUT/scenarios/*.json, writes OUT/report.json and OUT/report.md.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
import typing
from importlib import metadata
from pathlib import Path

CONVICTIONS = "the_harness_convicts"
COUNTS = ("injected", "promised", "delivered", "quarantined", "gaps", "held", "duplicates", "lost")


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    here = Path(__file__).resolve().parent
    found = {
        "fluxedge": metadata.version("fluxedge"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "file system of the checkout": _said_by("stat", "-f", "-c", "%T", str(here)),
        "mosquitto": _said_by("/usr/sbin/mosquitto", "-h").split("\n")[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    commit = _said_by("git", "-C", str(here), "describe", "--always", "--dirty")
    return found | ({"commit": commit} if commit else {})


def _said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def markdown(report: dict[str, typing.Any]) -> str:
    """Return the report as a page."""
    lines = [
        "# Soak",
        "",
        f"**{report['verdict']}**",
        "",
        *(f"* {name}: {text}" for name, text in report["machine"].items()),
        "",
        "promised = delivered + quarantined + gaps + held + lost; held: in the log, still to be delivered.",
        "",
        f"| scenario | fault | seed | {' | '.join(COUNTS)} | s |",
        f"|---|---|---|{'---|' * len(COUNTS)}---|",
    ]
    for one in report["scenarios"]:
        counts = " | ".join(f"{one[name]:,}" for name in COUNTS)
        lines.append(f"| {one['scenario']} | {one['fault']} | {one['seed']} | {counts} | {one['seconds']} |")
    lines += ["", "## Details", ""]
    for one in report["scenarios"]:
        for name, fact in one["facts"].items():
            lines.append(f"* {one['scenario']}: {name}: {fact}")
        wanted = one["scenario"].startswith(CONVICTIONS)
        for text in one["broken"][:5]:
            lines.append(f"* {one['scenario']}: {'as it must: ' if wanted else 'BROKEN: '}{text}")
    return "\n".join(lines) + "\n"


def collect(out: Path, exit_code: int) -> dict[str, typing.Any]:
    """Return the report of what the scenarios left in a folder."""
    found = [json.loads(file.read_text()) for file in sorted((out / "scenarios").glob("*.json"))]
    honest = [one for one in found if not one["scenario"].startswith(CONVICTIONS)]
    sums = {name: sum(one[name] for one in honest) for name in COUNTS}
    what = "everything held" if exit_code == 0 else "SOMETHING FAILED: see pytest.log"
    verdict = (
        f"{what}: {sums['injected']:,} faults, {sums['promised']:,} records promised, {sums['lost']:,} lost; "
        f"{len(found) - len(honest)} runs with a defect on purpose, found guilty: "
        f"{sum(one['lost'] > 0 for one in found if one not in honest)}"
    )
    return {"verdict": verdict, "exit_code": exit_code, "machine": machine(), "sums": sums, "scenarios": found}


def main() -> None:
    out = Path(sys.argv[1])
    report = collect(out, int(sys.argv[2]))
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(markdown(report))
    print(f"{report['verdict']}\n{out}/report.md")


if __name__ == "__main__":
    main()
