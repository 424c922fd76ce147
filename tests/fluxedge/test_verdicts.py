"""What an answer means: state, counters, standing problems, events."""

from __future__ import annotations

import typing

import pytest

from fluxedge.model import Flag, Quality, Round
from fluxedge.problems import DeviceProblem, ProblemBook
from fluxedge.schedule import DeviceState
from fluxedge.verdicts import Verdicts
from tests.fluxedge.log.fake_clock import FakeClock
from tests.fluxedge.poller_rig import FakeProtocol

REFUSAL = DeviceProblem("illegal-address", "no such register", alive=True)
SILENCE = DeviceProblem("no-reply", "no answer")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.problems = ProblemBook(self.clock.mono_ns)
        self.events: list[tuple[str, str, dict[str, typing.Any]]] = []
        self.verdicts = Verdicts(lambda *event: self.events.append(event), self.problems, self.clock)
        self.device = DeviceState("m1", FakeProtocol("m1", fast=1.0, slow=60.0))
        self.fast, self.slow = self.device.protocol.groups

    def codes(self) -> list[str]:
        return [standing.code for standing in self.problems.of("device:m1")]


def test_the_first_answer_makes_a_device_ok_without_an_event() -> None:
    bench = Bench()
    bench.verdicts.read(bench.device, bench.fast, None)
    assert (bench.device.state, bench.device.last_answer_ns) == ("ok", bench.clock.mono_ns())
    assert bench.events == []


def test_a_problem_stands_as_long_as_one_group_has_it() -> None:
    bench = Bench()
    bench.verdicts.refused(bench.device, bench.fast, REFUSAL)
    bench.verdicts.read(bench.device, bench.slow, REFUSAL)
    bench.verdicts.read(bench.device, bench.fast, None)
    assert bench.codes() == ["illegal-address"]
    bench.verdicts.read(bench.device, bench.slow, None)
    assert bench.codes() == []
    assert bench.device.exceptions == 1


def test_a_silence_replaces_what_stood_and_an_answer_ends_it() -> None:
    bench = Bench()
    bench.verdicts.refused(bench.device, bench.fast, REFUSAL)
    bench.verdicts.silent(bench.device, SILENCE)
    assert bench.codes() == ["no-reply"]
    assert bench.verdicts.offline(bench.device, "no-reply")
    assert not bench.verdicts.offline(bench.device, "no-reply")
    bench.verdicts.answered(bench.device)
    assert bench.codes() == []
    assert [(kind, item, data["state"]) for kind, item, data in bench.events] == [
        ("device-state", "device:m1", "offline"),
        ("device-state", "device:m1", "ok"),
    ]
    assert (bench.device.silent, bench.device.silent_rounds) == (1, 0)


def test_a_defect_proves_nothing_about_the_device() -> None:
    bench = Bench()
    bench.verdicts.refused(bench.device, bench.fast, DeviceProblem("bug", "KeyError", alive=True))
    assert (bench.device.state, bench.device.exceptions) == ("waiting", 0)
    assert bench.codes() == ["bug"]


def test_rounds_say_whether_their_clock_is_trusted() -> None:
    bench = Bench()
    read = bench.fast.round((1, 2), 5, 6)
    assert bench.verdicts.stamped(read) is read
    bench.clock.is_trusted = False
    assert bench.verdicts.stamped(read).flags == Flag.CLOCK_UNSYNCED
    empty = bench.verdicts.empty_round(bench.fast, Quality.OFFLINE)
    assert (empty.flags, empty.quality, empty.at_ns) == (Flag.CLOCK_UNSYNCED, b"\3\3", bench.clock.wall_ns())


DAY_NS = 86_400 * 10**9


def late(bench: Bench, at_ns: int, quality: bytes = b"") -> Round:
    """Return what became of a round with its device's own time that arrived two seconds ago."""
    arrived_ns = bench.clock.mono_ns() - 2 * 10**9
    return bench.verdicts.stamped(
        bench.fast.round((1, 2), at_ns, arrived_ns, quality=quality, flags=int(Flag.SOURCE_TIME | Flag.HISTORICAL))
    )


@pytest.mark.parametrize("ago_ns", [0, 3 * 365 * DAY_NS, -DAY_NS // 2])
def test_a_devices_own_time_is_kept_however_late_it_comes(ago_ns: int) -> None:
    bench = Bench()
    at_ns = bench.clock.wall_ns() - ago_ns
    kept = late(bench, at_ns)
    assert (kept.at_ns, kept.quality) == (at_ns, b"")
    assert kept.flags == Flag.SOURCE_TIME | Flag.HISTORICAL


@pytest.mark.parametrize("at_ns", [0, -(2**62), 946_684_799 * 10**9, 2**62])
def test_a_time_that_cannot_be_becomes_that_of_the_arrival_and_uncertain(at_ns: int) -> None:
    bench = Bench()
    moved = late(bench, at_ns, b"\0\2")
    assert moved.at_ns == bench.clock.wall_ns() - 2 * 10**9
    assert moved.quality == b"\1\2"
    assert moved.flags == Flag.HISTORICAL
    assert moved.raws == (1, 2)


def test_while_our_clock_cannot_tell_a_devices_future_is_believed_up_to_2100() -> None:
    bench = Bench()
    bench.clock.is_trusted = False
    assert late(bench, bench.clock.wall_ns() + 10 * DAY_NS).flags & Flag.SOURCE_TIME
    assert late(bench, 4_102_444_801 * 10**9).flags == Flag.HISTORICAL | Flag.CLOCK_UNSYNCED


def test_nothing_stands_about_a_device_that_is_forgotten() -> None:
    bench = Bench()
    bench.verdicts.silent(bench.device, SILENCE)
    bench.problems.report("device:m1/slow", REFUSAL)
    bench.verdicts.forget(bench.device)
    assert len(bench.problems) == 0
