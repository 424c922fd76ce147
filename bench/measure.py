"""The turns: floor, gateway and, where there is one, a yardstick, one after the other on the same processor."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.subject import Failed, Subject, running
from bench.workloads import Workload, write_config, write_idle_config

SETTLE_S = 3.0  # from the first acknowledged points to the measured time
IDLE_SETTLE_S = 5.0
KEEPS_UP = 0.9  # of the points that were read must be acknowledged, and of those that are due be read


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one turn of one program found."""

    workload: str
    program: str  # "gateway" | "floor" | "yardstick"
    cpu_us_per_point: float
    points_per_s: float
    cpu_share: float  # of one processor
    pss_bytes: int
    rss_bytes: int
    latency_p50_ms: float = 0.0  # oldest round of a message read -> PUBACK
    latency_p99_ms: float = 0.0
    lag_p99_ms: float = 0.0
    lag_max_ms: float = 0.0
    commits_per_s: float = 0.0
    written_bytes_per_point: float = 0.0
    start_s: float = 0.0  # process started -> first committed round
    keeps_up: bool = True


class Bench:
    """Where and how long to measure."""

    def __init__(self, out: Path, seconds: float, yardstick: Path | None) -> None:
        processors = sorted(os.sched_getaffinity(0))
        self.ours, self.theirs = processors[0], processors[-1]  # the same where there is only one
        self.scratch = Path(tempfile.mkdtemp(prefix="run-", dir=out))
        self._seconds = seconds
        self._yardstick = yardstick
        self._responder = peers.build_responder(out)
        os.sched_setaffinity(0, {self.theirs})

    def close(self) -> None:
        """Remove what the run left; not called after a failure, so that the logs can be read."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def measure(self, workload: Workload, repetitions: int) -> list[Measurement]:
        """Let the programs take turns."""
        found = []
        with (
            peers.responder(self._responder, workload, self.theirs) as modbus_port,
            peers.mosquitto(self.scratch, self.theirs) as mqtt_port,
        ):
            for _ in range(repetitions):
                state = self._fresh_state()
                found.append(self._turn(workload, "floor", self._floor(workload, modbus_port, mqtt_port, state)))
                state = self._fresh_state()
                write_config(self.scratch / "config", workload, modbus_port, mqtt_port)
                found.append(self._turn(workload, "gateway", self._gateway(state)))
                if self._yardstick is not None:
                    found += self._try_yardstick(self._yardstick, workload, modbus_port, mqtt_port)
        return found

    def measure_idle(self) -> list[Measurement]:
        """Measure a gateway that polls only its own machine."""
        state = self._fresh_state()
        with peers.mosquitto(self.scratch, self.theirs) as mqtt_port:
            write_idle_config(self.scratch / "config", mqtt_port)
            with self._run("idle", "gateway", self._gateway(state)) as subject:
                subject.wait_steady(IDLE_SETTLE_S)
                first = subject.sample()
                time.sleep(self._seconds)
                last = subject.sample()
                pss, rss = subject.memory_bytes()
                found = Measurement(
                    workload="idle",
                    program="gateway",
                    cpu_us_per_point=0.0,
                    points_per_s=0.0,
                    cpu_share=(last.cpu_s - first.cpu_s) / (last.at_s - first.at_s),
                    pss_bytes=pss,
                    rss_bytes=rss,
                    start_s=last.told["first_commit_ns"] / 1e9 - subject.started_ns / 1e9,
                )
                return [found]

    def _turn(self, workload: Workload, program: str, command: list[str]) -> Measurement:
        with self._run(workload.name, program, command) as subject:
            subject.wait_steady(SETTLE_S)
            first = subject.sample()
            time.sleep(self._seconds)
            last = subject.sample()
            pss, rss = subject.memory_bytes()
            seconds = last.at_s - first.at_s
            points = last.told["points"] - first.told["points"]
            acked = last.told["acked_points"] - first.told["acked_points"]
            if not points:
                raise Failed(f"{program} read nothing; the end of its log:\n{subject.log_end()}")
            started_ns = last.told.get("first_commit_ns", 0)
            return Measurement(
                workload=workload.name,
                program=program,
                # Read and acknowledged points are the same in the mean; those that were read do not come in bursts.
                cpu_us_per_point=(last.cpu_s - first.cpu_s) / points * 1e6,
                points_per_s=points / seconds,
                cpu_share=(last.cpu_s - first.cpu_s) / seconds,
                pss_bytes=pss,
                rss_bytes=rss,
                latency_p50_ms=last.told["latency_p50_ms"],
                latency_p99_ms=last.told["latency_p99_ms"],
                lag_p99_ms=last.told["lag_p99_ms"],
                lag_max_ms=last.told["lag_max_ms"],
                commits_per_s=(last.told["commits"] - first.told["commits"]) / seconds,
                written_bytes_per_point=(last.written_bytes - first.written_bytes) / points,
                start_s=(started_ns - subject.started_ns) / 1e9 if started_ns else 0.0,
                keeps_up=points >= KEEPS_UP * workload.points_per_s * seconds
                # one commit's points may be on their way
                and acked + 1.5 * workload.points_per_s >= KEEPS_UP * points,
            )

    def _run(self, workload: str, program: str, command: list[str]) -> contextlib.AbstractContextManager[Subject]:
        print(f"{workload}: {program} ...", flush=True)
        return running(command, self.ours, self.scratch / f"{program}-{workload}.log")

    def _floor(self, workload: Workload, modbus_port: int, mqtt_port: int, state: Path) -> list[str]:
        words = ["--devices", workload.devices, "--points", workload.points, "--modbus-port", modbus_port]
        words += ["--mqtt-port", mqtt_port, "--state", state]
        return [sys.executable, "-m", "bench.floor", *map(str, words)]

    def _gateway(self, state: Path) -> list[str]:
        return [sys.executable, "-m", "bench.gateway", str(self.scratch / "config"), str(state)]

    def _try_yardstick(self, script: Path, workload: Workload, modbus_port: int, mqtt_port: int) -> list[Measurement]:
        """Measure the yardstick; it is not ours: when it fails, that is said and the rest of the run counts."""
        try:
            return [self._measure_yardstick(script, workload, modbus_port, mqtt_port)]
        except (Failed, subprocess.TimeoutExpired) as exc:
            print(f"bench: no yardstick for {workload.name}: {exc}", file=sys.stderr)
            return []

    def _measure_yardstick(self, script: Path, workload: Workload, modbus_port: int, mqtt_port: int) -> Measurement:
        """Run a floor script of the yardstick's command line and read the figures that it prints."""
        print(f"{workload.name}: yardstick ...", flush=True)
        state = self._fresh_state() / "log.db"
        words = ["--devices", workload.devices, "--points", workload.points, "--secs", self._seconds]
        words += ["--mport", modbus_port, "--qport", mqtt_port, "--db", state]
        pin = {self.ours}
        done = subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=60 + self._seconds,
            preexec_fn=lambda: os.sched_setaffinity(0, pin),
            check=False,
        )
        found = {
            name: re.search(pattern, done.stdout)
            for name, pattern in (
                ("cpu", r"= ([\d.]+) us/pt"), ("rate", r"([\d,]+) pts/s stored"), ("share", r"CPU ([\d.]+) %"),
                ("memory", r"RSS (\d+) MiB"), ("lag", r"lag p50 [\d.]+ p99 ([\d.]+) max ([\d.]+)"),
                ("latency", r"PUBACK p50 (\d+) p99 (\d+)"), ("commits", r"commits/s ([\d.]+)"),
            )
        }  # fmt: skip
        if not found["cpu"]:
            raise Failed(f"{script} printed no figures:\n{done.stdout}{done.stderr}"[-2000:])

        def figure(name: str, group: int = 1) -> float:
            match = found[name]
            return float(match[group].replace(",", "")) if match else 0.0

        return Measurement(
            workload=workload.name,
            program="yardstick",
            cpu_us_per_point=figure("cpu"),
            points_per_s=figure("rate"),
            cpu_share=figure("share") / 100,
            pss_bytes=0,  # it prints only RSS
            rss_bytes=int(figure("memory")) << 20,
            latency_p50_ms=figure("latency"),
            latency_p99_ms=figure("latency", 2),
            lag_p99_ms=figure("lag"),
            lag_max_ms=figure("lag", 2),
            commits_per_s=figure("commits"),
        )

    def _fresh_state(self) -> Path:
        for name in ("state", "config"):
            shutil.rmtree(self.scratch / name, ignore_errors=True)
            (self.scratch / name).mkdir()
        return self.scratch / "state"
