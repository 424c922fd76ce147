"""Verdicts: what the answers of a channel's devices mean for their state, their standing problems and events.

The poller asks and decides when to ask again; here is kept what became of it. Nothing here waits.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Callable

from fluxedge.clock import Clock
from fluxedge.model import Flag, Group, Quality, Round
from fluxedge.problems import DeviceProblem, ProblemBook
from fluxedge.schedule import DeviceState

Tell = Callable[[str, str, dict[str, typing.Any]], object]  # (event kind, item, data)

_UNSYNCED = int(Flag.CLOCK_UNSYNCED)
_SOURCE_TIME = int(Flag.SOURCE_TIME)
_FIRST_NS = 946_684_800 * 10**9  # 2000-01-01: what a device stamps before, its clock has made up
_LAST_NS = 4_102_444_800 * 10**9  # 2100-01-01, while our own clock cannot tell
_AHEAD_NS = 86_400 * 10**9  # a device may be ahead by its time zone
_log = logging.getLogger("fluxedge.poller")


class Verdicts:
    """Keep the state of devices, and say what changed."""

    def __init__(self, tell: Tell, problems: ProblemBook, clock: Clock) -> None:
        self._tell = tell
        self._problems = problems
        self._clock = clock

    def answered(self, device: DeviceState) -> None:
        """Take in that a device answered, whatever it said."""
        device.silent_rounds = device.probes = 0
        device.last_answer_ns = self._clock.mono_ns()
        if "" in device.codes:
            self._judge(device, "", None)
        if device.state != "ok":
            if device.state == "offline":
                self._tell("device-state", device.item, {"state": "ok"})
            device.state, device.since_ns = "ok", device.last_answer_ns

    def read(self, device: DeviceState, group: Group, partial: DeviceProblem | None) -> None:
        """Take in a group that was read; `partial` is why a part of it is not GOOD."""
        self.answered(device)
        if partial is not None or device.codes:
            self._judge(device, group.name, partial)

    def refused(self, device: DeviceState, group: Group, problem: DeviceProblem) -> None:
        """Take in an exception reply, which proves the device alive, or a defect, which proves nothing."""
        if problem.code != "bug":
            device.exceptions += 1
            self.answered(device)
        self._judge(device, group.name, problem)

    def silent(self, device: DeviceState, problem: DeviceProblem) -> None:
        """Take in that a device did not answer."""
        device.silent += 1
        device.silent_rounds += 1
        for group in [name for name in device.codes if name]:
            self._judge(device, group, None)
        self._judge(device, "", problem)

    def offline(self, device: DeviceState, code: str) -> bool:
        """Say once that a device is offline; tell whether it was not before."""
        if device.state == "offline":
            return False
        device.state, device.since_ns = "offline", self._clock.mono_ns()
        self._tell("device-state", device.item, {"state": "offline", "code": code})
        return True

    def forget(self, device: DeviceState) -> None:
        """Clear what stands about a device that is removed."""
        for item in (device.item, *(f"{device.item}/{group.name}" for group in device.protocol.groups)):
            self._problems.clear(item)

    def empty_round(self, group: Group, quality: Quality) -> Round:
        """Return a round without any value, stamped now."""
        flags = 0 if self._clock.trusted() else _UNSYNCED
        return group.silent_round(quality, self._clock.wall_ns(), self._clock.mono_ns(), flags)

    def stamped(self, read: Round) -> Round:
        """Return a round, marked when the clock that stamped it is not trusted; without a time that cannot be."""
        if read.flags & _SOURCE_TIME:
            read = self._believable(read)
        if self._clock.trusted():
            return read
        flags = read.flags | _UNSYNCED  # dataclasses.replace takes 10 us
        return Round(read.group, read.raws, read.values, read.quality, read.at_ns, read.arrived_mono_ns, flags)

    def _believable(self, read: Round) -> Round:
        """Return a round with its device's own time; with that of its arrival and UNCERTAIN where that cannot be.

        A device whose clock was never set would file its values under 1970, or under a year to come.
        """
        now_ns = self._clock.wall_ns()
        latest_ns = now_ns + _AHEAD_NS if self._clock.trusted() else _LAST_NS
        if _FIRST_NS <= read.at_ns <= latest_ns:
            return read
        at_ns = now_ns - (self._clock.mono_ns() - read.arrived_mono_ns)
        quality = bytes(max(mark, Quality.UNCERTAIN) for mark in read.quality or bytes(len(read.values)))
        flags = read.flags & ~_SOURCE_TIME
        return Round(read.group, read.raws, read.values, quality, at_ns, read.arrived_mono_ns, flags)

    def _judge(self, device: DeviceState, group: str, problem: DeviceProblem | None) -> None:
        """Keep one standing problem for each group ("" = the device as a whole), and none that is over."""
        before = device.codes.pop(group, "")
        if problem is not None:
            if problem.code == "bug" and before != "bug":
                _log.error("%s, group %s", device.item, group, exc_info=problem.__cause__)
            device.codes[group] = problem.code
            self._problems.report(device.item, problem)
        if before and before not in device.codes.values():
            self._problems.clear(device.item, before)
