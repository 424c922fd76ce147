"""The gateway as `fluxedge run` starts it, with the bench's probe inside: CONFIG STATE."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import uvloop

from bench.probe import Probe
from fluxedge import journal
from fluxedge.cli.run import settle
from fluxedge.config.load import Layout
from fluxedge.service import Service
from fluxedge.uplinks.counters import ForwardCounters


class ProbedCounters(ForwardCounters):
    """Hand the age of each message of rounds to the probe when it is acknowledged."""

    probe: Probe | None = None
    seen_points = 0

    @property
    def ack_latency_ns(self) -> int:
        return 0

    @ack_latency_ns.setter
    def ack_latency_ns(self, age_ns: int) -> None:
        if self.probe is not None and self.points > self.seen_points:  # a message of events has no points
            self.probe.acknowledged(age_ns)
            self.seen_points = self.points


class Totals:
    """The running totals of a gateway."""

    def __init__(self, service: Service) -> None:
        assert service.gateway is not None
        self._gateway = service.gateway
        self._first_commit_ns = 0
        self._gateway.log.listeners.append(self._committed)

    def _committed(self) -> None:
        if not self._first_commit_ns and self._gateway.pipeline.rounds_total:
            self._first_commit_ns = time.time_ns()

    def __call__(self) -> dict[str, float]:
        gateway = self._gateway
        return {
            "points": gateway.pipeline.points_total,
            "acked_points": sum(forwarder.counters.points for forwarder in gateway.forwarders.values()),
            "commits": gateway.log.commits,
            "first_commit_ns": self._first_commit_ns,
        }


def attach(service: Service) -> None:
    """Put the probe in and do what `fluxedge run` does; called when the gateway polls."""
    settle()
    probe = Probe(Totals(service))
    assert service.gateway is not None
    for forwarder in service.gateway.forwarders.values():
        counters = ProbedCounters()
        counters.probe = probe
        forwarder.counters = counters


async def main() -> int:
    layout = Layout.standard(Path(sys.argv[1]), Path(sys.argv[2]))
    return await Service(layout, Path(sys.argv[2])).run(attach)


if __name__ == "__main__":
    journal.set_up(logging.INFO)
    sys.exit(uvloop.run(main()))
