"""The gateway as `fluxedge run` starts it, with a probe that tells its two streams apart: CONFIG STATE DONE.

DONE is made when everything that had waited for the uplink at the start is acknowledged.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import uvloop

from bench.probe import Probe
from bench.replay import POINTS
from fluxedge import journal
from fluxedge.cli.run import settle
from fluxedge.config.load import Layout
from fluxedge.model import Lane
from fluxedge.service import Service
from fluxedge.uplinks.counters import Histogram
from fluxedge.uplinks.forward import Forwarder


class Exact(Histogram):
    """Hand each duration of a live message of rounds to the probe."""

    probe: Probe | None = None

    def add(self, duration_s: float) -> None:
        super().add(duration_s)
        if self.probe is not None:
            self.probe.acknowledged(int(duration_s * 1e9))


class Streams:
    """The running totals of the one uplink."""

    def __init__(self, service: Service, done: Path) -> None:
        assert service.gateway is not None
        self._gateway = service.gateway
        self._done = done
        self._head = self._gateway.log.heads[Lane.ROUNDS]
        self._backlog = self._waiting()

    @property
    def forwarder(self) -> Forwarder:
        """Return the uplink's."""
        (forwarder,) = self._gateway.forwarders.values()
        return forwarder

    def _waiting(self) -> bool:
        """Tell whether anything is left of what was in the log at the start."""
        cursors = self._gateway.log.cursors
        (name,) = self._gateway.forwarders
        return any(ranges.intersect(1, self._head) for _, ranges in cursors.of(name, Lane.ROUNDS))

    def look(self) -> None:
        """Note when the backlog is gone."""
        if self._backlog and not self._waiting():
            self._backlog = False
            self._done.touch()

    def __call__(self) -> dict[str, float]:
        counters = self.forwarder.counters
        backlog = counters.backlog.records * POINTS  # its few events are counted in: one in a hundred thousand
        return {
            "points": self._gateway.pipeline.points_total,
            "acked_points": counters.points,
            "commits": self._gateway.log.commits,
            "backlog_points": min(backlog, counters.points),
            "live_points": max(0, counters.points - backlog),
        }


def attach(service: Service, done: Path) -> None:
    """Put the probe in and do what `fluxedge run` does; called when the gateway polls."""
    settle()
    streams = Streams(service, done)
    probe = Probe(streams)
    exact = Exact()
    exact.probe = probe
    streams.forwarder.counters.live.delivery = exact
    assert service.gateway is not None
    service.gateway.log.listeners.append(streams.look)


async def main() -> int:
    layout = Layout.standard(Path(sys.argv[1]), Path(sys.argv[2]))
    return await Service(layout, Path(sys.argv[2])).run(lambda service: attach(service, Path(sys.argv[3])))


if __name__ == "__main__":
    journal.set_up(logging.INFO)
    sys.exit(uvloop.run(main()))
