"""The schedule of one channel: which group is read next, and when a silent device is asked again. Pure.

    groups of live devices     by due time, on a grid: a late read does not move the ones after it
    groups of silent devices   parked; one probe stands for all of them
    probes                     in slack only: when the next group is due after the probe's time-out; when there has
                               been no slack for 60 s, one is forced
    while commands take the line   what is late by more than its period, and a forced probe, still have turns

Instants are parameters, in seconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from fluxedge.model import Group
from fluxedge.spi import Protocol

DEMOTION_MOST = 32  # a silent device's interval is doubled per silent round up to this factor
PROBE_MOST_S = 300.0  # and up to this time, unless its own period is longer: a slow device is cheap to ask
PROBE_LEAST_S = 0.1  # time-out of a probe at least; precedent: Victron's dbus-modbus-client
PROBE_LATENCIES = 4  # time-out of a probe, in latencies of the device's latest answer; same precedent
PATIENT_EVERY = 4  # one probe in so many waits for the device's whole time-out: it may have become slow
FORCED_S = 60.0  # without slack, after which one probe is run all the same
TIMER_S = 0.001  # uvloop's timers and clock count whole milliseconds: a timer that fires early is a read that is due
WINDOW_S = 60.0  # over which missed periods are judged
MISSED_SHARE = 0.1  # of a window's reads; more is a channel that cannot keep its periods


@dataclass(slots=True)
class DeviceState:
    """What is known about a device while it runs; `status` and metrics show it."""

    id: str
    protocol: Protocol
    state: str = "waiting"  # "waiting" | "ok" | "offline"
    since_ns: int = 0  # CLOCK_BOOTTIME
    silent_rounds: int = 0  # in a row, probes included
    last_answer_ns: int = 0  # CLOCK_BOOTTIME
    latency_s: float = 0.0  # of the latest read of a group
    reads: int = 0
    silent: int = 0  # reads without an answer
    exceptions: int = 0  # reads answered by an exception
    overruns: int = 0  # periods that passed unread
    probes: int = 0  # questions to it while it was silent
    codes: dict[str, str] = field(default_factory=dict)  # group ("" = the device) -> code of its standing problem

    @property
    def item(self) -> str:
        """Return its name among the problems."""
        return f"device:{self.id}"

    @property
    def probe_timeout_s(self) -> float:
        """Return how long the next probe waits for an answer."""
        whole_s = self.protocol.timeout_s
        if not self.last_answer_ns or self.probes % PATIENT_EVERY == PATIENT_EVERY - 1:
            return whole_s
        return self.quick_timeout_s

    @property
    def quick_timeout_s(self) -> float:
        """Return how long a probe waits in which a device that is back would answer as it used to."""
        return min(self.protocol.timeout_s, max(PROBE_LEAST_S, PROBE_LATENCIES * self.latency_s))


@dataclass(order=True, slots=True)
class Due:
    """A group that wants to be read."""

    at_s: float
    order: int
    device: DeviceState = field(compare=False)
    group: Group = field(compare=False)
    period_s: float = field(compare=False)
    grid_s: float = field(compare=False)  # where its rhythm says that it is due; before that, a read is an extra one


@dataclass(order=True, slots=True)
class Probe:
    """A silent device that wants to be asked whether it is back."""

    at_s: float
    order: int
    device: DeviceState = field(compare=False)


class Schedule:
    """Due times of the groups and probes of one channel."""

    def __init__(self) -> None:
        self._due: list[Due] = []
        self._probes: list[Probe] = []
        self._parked: dict[str, list[Due]] = {}  # device -> its groups while it is silent
        self._order = 0
        self._probed_s = -math.inf

    def add(self, device: DeviceState, now_s: float, delay_s: Callable[[float], float]) -> None:
        """Take a device in; `delay_s` of a period says when its first read is."""
        for group in device.protocol.groups:
            period_s = device.protocol.periods_s[group.name]
            at_s = now_s + delay_s(period_s)
            heapq.heappush(self._due, Due(at_s, self._next(), device, group, period_s, at_s))

    def remove(self, devices: set[str]) -> None:
        """Forget devices."""
        self._due = [due for due in self._due if due.device.id not in devices]
        self._probes = [probe for probe in self._probes if probe.device.id not in devices]
        heapq.heapify(self._due)
        heapq.heapify(self._probes)
        for device in devices:
            self._parked.pop(device, None)

    def pick(self, now_s: float) -> Due | Probe | None:
        """Return what is to be done now; it stays in the schedule until `done`, `park` or `restore`."""
        live = self._due[0] if self._due else None
        if not self._probes:
            return live if live is not None and live.at_s <= now_s + TIMER_S else None
        probe = self._probes[0]
        asked = probe.at_s <= now_s + TIMER_S
        if asked and live is not None and self._forced(now_s):
            return probe
        if live is not None and live.at_s <= now_s + TIMER_S:
            return live
        if asked and (live is None or live.at_s - now_s >= probe.device.probe_timeout_s):
            return probe
        return None

    def overdue(self, now_s: float) -> Due | Probe | None:
        """Return what has waited too long behind commands: a forced probe, or the oldest read that is late by a period.

        It stays in the schedule like what `pick` returns.
        """
        if self._forced(now_s):
            return self._probes[0]
        return min((due for due in self._due if now_s - due.at_s > due.period_s), default=None)

    def _forced(self, now_s: float) -> bool:
        """Tell whether the next probe has been without slack for so long that it is run all the same."""
        return bool(self._probes) and now_s - max(self._probes[0].at_s, self._probed_s) >= FORCED_S

    def wake_s(self, now_s: float) -> float:
        """Return when `pick` will have something, after it had nothing."""
        live_s = self._due[0].at_s if self._due else math.inf
        probe_s = self._probes[0].at_s if self._probes else math.inf
        return min(live_s, probe_s if probe_s > now_s + TIMER_S else math.inf)

    def done(self, due: Due, now_s: float) -> int:
        """Plan the next read of the group that was picked; return how many periods passed unread."""
        missed = 0
        if due.at_s >= due.grid_s:
            due.grid_s += due.period_s
        if due.grid_s < now_s:
            missed = int((now_s - due.grid_s) / due.period_s)  # the period that is not over is served late
            due.grid_s += missed * due.period_s
        first = self._due[0] is due
        due.at_s = due.grid_s
        due.order = self._next()
        if first:
            heapq.heapreplace(self._due, due)
        else:  # `overdue` took it out of its turn
            heapq.heapify(self._due)
        return missed

    def park(self, device: DeviceState, now_s: float) -> None:
        """Put a device off that did not answer: its interval doubles with every silent round."""
        mine = [due for due in self._due if due.device is device]
        if mine:
            self._due = [due for due in self._due if due.device is not device]
            heapq.heapify(self._due)
            self._parked[device.id] = mine
        else:
            self._probes = [probe for probe in self._probes if probe.device is not device]
            heapq.heapify(self._probes)
        period_s = min(due.period_s for due in self._parked[device.id])
        factor = min(DEMOTION_MOST, 2 ** min(device.silent_rounds, 5))
        wait_s = max(period_s, min(PROBE_MOST_S, period_s * factor))
        heapq.heappush(self._probes, Probe(now_s + wait_s, self._next(), device))

    def note_probe(self, now_s: float) -> None:
        """Note that a probe was run to its end."""
        self._probed_s = now_s

    def restore(self, device: DeviceState, now_s: float) -> None:
        """Read everything of a device that answers again at once, then in its rhythm."""
        self._probes = [probe for probe in self._probes if probe.device is not device]
        heapq.heapify(self._probes)
        for due in self._parked.pop(device.id, []):
            self._advance(due, now_s)
            heapq.heappush(self._due, due)

    def soon(self, device: DeviceState, point: str, now_s: float) -> None:
        """Read the group of a point at once, as an extra read."""
        for due in self._due:
            if due.device is device and point in due.group.names:
                due.at_s = min(due.at_s, now_s)
        heapq.heapify(self._due)

    def resume(self, now_s: float) -> None:
        """Go on after an outage of the channel: what became due meanwhile is due now, in its order; none is missed."""
        for due in sorted(self._due):
            if due.at_s < now_s:
                self._advance(due, now_s)
        heapq.heapify(self._due)
        for probe in self._probes:
            probe.at_s = min(probe.at_s, now_s)
        heapq.heapify(self._probes)

    def _advance(self, due: Due, now_s: float) -> None:
        if due.grid_s <= now_s:
            due.grid_s += (int((now_s - due.grid_s) / due.period_s) + 1) * due.period_s
        due.at_s, due.order = now_s, self._next()

    def _next(self) -> int:
        self._order += 1
        return self._order


class Overruns:
    """Judge minute by minute whether a channel keeps its periods."""

    def __init__(self) -> None:
        self._until_s = -math.inf
        self.reads = 0
        self.missed = 0
        self.commands = 0  # run by the channel, which take time from reads

    def note(self, missed: int, now_s: float) -> str | None:
        """Count a read; at the end of a window return what is wrong, "" for nothing; None within a window."""
        found = None
        if now_s >= self._until_s:
            asked = self.reads + self.missed
            found = f"{self.missed} of {asked} reads were missed within a minute"
            found += f", beside {self.commands} commands" if self.commands else ""
            if self.missed <= MISSED_SHARE * asked:
                found = ""
            self._until_s, self.reads, self.missed, self.commands = now_s + WINDOW_S, 0, 0, 0
        self.reads += 1
        self.missed += missed
        return found
