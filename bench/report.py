"""What was found, beside the budgets: a table for people, a dictionary for programs."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from bench.measure import Measurement

OK, OVER, INFORMATION = "ok", "OVER", "info"
MB = 1e6
MEMORY_MB = {"W1": 80, "idle": 60}
LIBRARIES = ("uvloop", "msgspec", "gmqtt", "pymodbus", "aiohttp")


@dataclass(frozen=True, slots=True)
class Row:
    """One budget and what was found."""

    workload: str
    what: str
    found: float
    budget: float | None  # None: not a budget, but worth knowing
    aim: float | None
    unit: str
    floor: float | None = None  # the floor's in the same run: what is the machine's doing is in it, too

    @property
    def verdict(self) -> str:
        """Tell whether the budget is kept."""
        if self.budget is None:
            return INFORMATION
        return OK if self.found <= self.budget else OVER


def median(measured: Iterable[Measurement], workload: str, program: str, name: str) -> float:
    """Return the median over the turns; 0 when there were none."""
    values = [float(getattr(m, name)) for m in measured if (m.workload, m.program) == (workload, program)]
    return statistics.median(values) if values else 0.0


def judge(measured: Sequence[Measurement]) -> list[Row]:
    """Return every budget that this run can judge."""
    rows = []
    for workload in dict.fromkeys(m.workload for m in measured if m.program == "gateway"):

        def of(name: str, program: str = "gateway", workload: str = workload) -> float:
            return median(measured, workload, program, name)

        def row(
            what: str, found: float, must: float | None, aim: float | None, unit: str, workload: str = workload
        ) -> None:
            rows.append(Row(workload, what, found, must, aim, unit))

        def lag(what: str, name: str, must: float, workload: str = workload) -> None:
            rows.append(Row(workload, what, of(name), must, must, "ms", median(measured, workload, "floor", name)))

        floor = of("cpu_us_per_point", "floor")
        if floor:
            row("CPU per point, gateway to floor", of("cpu_us_per_point") / floor, 3, 1.5, "x")
        yardstick = of("cpu_us_per_point", "yardstick")
        if yardstick:
            row("CPU per point, gateway to yardstick", of("cpu_us_per_point") / yardstick, None, None, "x")
        if floor:
            lag("loop lag p99", "lag_p99_ms", 5)
            lag("loop lag max", "lag_max_ms", 50)
        if workload in MEMORY_MB:
            row("memory", of("pss_bytes") / MB, MEMORY_MB[workload], 50, "MB")
        row("start to first committed round", of("start_s"), 2, 0.7, "s")
    return rows


def table(measured: Sequence[Measurement], rows: Sequence[Row]) -> list[str]:
    """Return the lines to print."""
    lines = ["", f"{'':6}{'':11}{'µs/point':>9}{'x floor':>9}{'points/s':>10}{'% core':>8}{'MB PSS/RSS':>13}"
             f"{'→PUBACK p50/p99 ms':>20}{'lag p99/max ms':>17}{'commits/s':>11}{'B/point':>9}"]  # fmt: skip
    for workload, program in dict.fromkeys((m.workload, m.program) for m in measured):

        def of(name: str, key: tuple[str, str] = (workload, program)) -> float:
            return median(measured, *key, name)

        floor = median(measured, workload, "floor", "cpu_us_per_point")
        ratio = f"{of('cpu_us_per_point') / floor:.2f}" if floor else ""
        latency = f"{of('latency_p50_ms'):.0f} / {of('latency_p99_ms'):.0f}"
        memory = f"{of('pss_bytes') / MB:.1f} / {of('rss_bytes') / MB:.1f}"
        lag = f"{of('lag_p99_ms'):.1f} / {of('lag_max_ms'):.1f}"
        lines.append(
            f"{workload:6}{program:11}{of('cpu_us_per_point'):9.2f}{ratio:>9}{of('points_per_s'):10,.0f}"
            f"{100 * of('cpu_share'):8.1f}{memory:>13}{latency:>20}{lag:>17}"
            f"{of('commits_per_s'):11.2f}{of('written_bytes_per_point'):9.1f}"
        )
    late = [f"{m.workload} {m.program}" for m in measured if not m.keeps_up]
    if late:
        lines.append(f"did not keep up: {', '.join(late)}: its figures are those of an overload")
    lines += ["", f"{'budget':46}{'found':>9}{'must':>8}{'aim':>8}"]
    for row in rows:
        beside = f"   (the floor: {row.floor:.1f})" if row.floor is not None else ""
        what = f"{row.workload}: {row.what}"
        must, aim = ("-" if limit is None else f"{limit:g}" for limit in (row.budget, row.aim))
        lines.append(f"{what:46}{row.found:9.2f}{must:>8}{aim:>8} {row.unit:3}{row.verdict:5}{beside}")
    return lines


def machine_facts(ours: int, theirs: int) -> dict[str, typing.Any]:
    """Return what the figures belong to."""
    model = next(
        (line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line), ""
    )
    memory_kb = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if "MemTotal" in line), "0")
    return {
        "processor": model or platform.machine(),
        "processors": os.cpu_count(),
        "measured_on": ours,
        "peers_on": theirs,
        "memory_mib": int(memory_kb) // 1024,
        "kernel": platform.release(),
        "file_system": _file_system(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "commit": _commit(),
        "load_before": os.getloadavg()[0],
    }


def machine_lines(facts: dict[str, typing.Any]) -> list[str]:
    """Return the machine facts in words."""
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    lines = [
        f"{facts['processors']} x {facts['processor']}, {facts['memory_mib']} MiB, kernel {facts['kernel']}, "
        f"{facts['file_system']}; load {facts['load_before']:.2f}",
        f"Python {facts['python']}, SQLite {facts['sqlite']}, {libraries}; commit {facts['commit']}",
        f"measured on processor {facts['measured_on']}, peers on {facts['peers_on']}",
    ]
    if facts["measured_on"] == facts["peers_on"]:
        lines.append("only one processor: the peers take time from what is measured; lag and latency mean little")
    return lines


def as_json(
    facts: dict[str, typing.Any], measured: Sequence[Measurement], rows: Sequence[Row]
) -> dict[str, typing.Any]:
    """Return everything for a file."""
    return {
        "machine": facts,
        "measurements": [asdict(m) for m in measured],
        "budgets": [{**asdict(row), "verdict": row.verdict} for row in rows],
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _file_system() -> str:
    here = Path(__file__).stat().st_dev
    major, minor = os.major(here), os.minor(here)
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if fields[2] == f"{major}:{minor}":
            return fields[fields.index("-") + 1]
    return "unknown file system"


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
