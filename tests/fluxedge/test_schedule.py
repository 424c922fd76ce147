"""When something is due, with instants written down."""

from __future__ import annotations

import pytest

from fluxedge.schedule import (
    FORCED_S,
    PROBE_LEAST_S,
    PROBE_MOST_S,
    WINDOW_S,
    DeviceState,
    Due,
    Overruns,
    Probe,
    Schedule,
)
from tests.fluxedge.poller_rig import FakeProtocol


def device(name: str = "m1", timeout_s: float = 1.0, **periods_s: float) -> DeviceState:
    return DeviceState(name, FakeProtocol(name, timeout_s=timeout_s, **periods_s))


def schedule(*devices: DeviceState) -> Schedule:
    """All first reads are due at 0."""
    made = Schedule()
    for each in devices:
        made.add(each, 0.0, lambda _: 0.0)
    return made


def due(made: Schedule, at_s: float) -> Due:
    found = made.pick(at_s)
    assert isinstance(found, Due)
    return found


def silence(made: Schedule, state: DeviceState, at_s: float) -> None:
    state.silent_rounds += 1
    made.park(state, at_s)


def test_a_late_read_does_not_move_the_next_one() -> None:
    made = schedule(device())
    assert made.done(due(made, 0.3), 0.35) == 0
    assert made.pick(0.9) is None
    assert made.wake_s(0.9) == 1.0
    assert due(made, 1.0).at_s == 1.0


def test_a_period_that_is_not_over_is_served_late_and_one_that_is_over_is_counted() -> None:
    made = schedule(device())
    assert made.done(due(made, 0.0), 1.9) == 0
    assert due(made, 1.9).at_s == 1.0
    assert made.done(due(made, 1.9), 5.5) == 3
    assert due(made, 5.5).at_s == 5.0


def test_the_earliest_due_time_comes_first_whoever_it_belongs_to() -> None:
    fast, slow = device("fast", main=0.1), device("slow", main=10.0)
    made = schedule(fast, slow)
    made.done(due(made, 0.0), 0.01)
    assert due(made, 5.0).device is slow  # due at 0; fast is due at 0.1, fifty times over


def test_equal_due_times_take_turns() -> None:
    devices = [device(name) for name in "abc"]
    made = schedule(*devices)
    order = []
    for _ in range(6):
        found = due(made, 1.0)
        order.append(found.device.id)
        made.done(found, 0.5)
    assert order == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize(("rounds", "factor"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 32), (50, 32)])
def test_the_interval_of_a_silent_device_doubles_up_to_32_times(rounds: int, factor: int) -> None:
    state = device()
    made = schedule(state)
    for _ in range(rounds):
        silence(made, state, 100.0)
    assert made.wake_s(100.0) == 100.0 + factor


def test_a_slow_device_is_probed_within_five_minutes_or_its_period() -> None:
    for period_s, wait_s in ((60.0, PROBE_MOST_S), (3600.0, 3600.0)):
        state = device(main=period_s)
        made = schedule(state)
        for _ in range(9):
            silence(made, state, 0.0)
        assert made.wake_s(0.0) == wait_s


def test_one_probe_stands_for_all_groups_at_the_fastest_period() -> None:
    state = device(fast=1.0, slow=60.0)
    made = schedule(state)
    silence(made, state, 0.0)
    assert made.wake_s(0.0) == 2.0
    assert isinstance(made.pick(2.0), Probe)
    assert made.pick(1.9) is None


def test_a_device_that_answers_again_is_read_whole_at_once_and_then_on_its_old_grid() -> None:
    state = device(fast=1.0, slow=60.0)
    made = schedule(state)
    for _ in range(3):
        silence(made, state, 0.0)
    made.restore(state, 10.3)
    names = []
    for _ in range(2):
        found = due(made, 10.3)
        names.append(found.group.name)
        assert made.done(found, 10.4) == 0
    assert sorted(names) == ["fast", "slow"]
    assert made.pick(10.9) is None
    assert due(made, 11.0).group.name == "fast"


def test_a_probe_runs_only_when_its_time_out_ends_before_the_next_group_is_due() -> None:
    dead, live = device("dead", timeout_s=1.0), device("live", main=3.0)
    made = schedule(live, dead)
    made.done(due(made, 0.0), 0.1)
    silence(made, dead, 0.1)  # probe due at 2.1, live at 3.0
    assert made.pick(2.1) is None
    assert made.wake_s(2.1) == 3.0
    made.done(due(made, 3.0), 3.1)
    assert isinstance(made.pick(3.1), Probe)


def test_after_a_minute_without_slack_one_probe_is_forced() -> None:
    dead, other, live = device("dead"), device("other"), device("live", main=0.5)
    made = schedule(live, dead, other)
    made.done(due(made, 0.0), 0.01)
    silence(made, dead, 0.0)
    silence(made, other, 0.0)
    found = None
    at_s = 0.5
    while not isinstance(found := made.pick(at_s), Probe):
        made.done(due(made, at_s), at_s + 0.01)
        at_s += 0.5
    assert at_s == pytest.approx(2.0 + FORCED_S)
    assert found.device is dead
    made.note_probe(at_s)
    silence(made, dead, at_s)
    assert isinstance(made.pick(at_s), Due)  # the other one is overdue as well, and has to wait another minute


def test_a_probe_waits_for_a_few_latencies_and_now_and_then_for_the_whole_time_out() -> None:
    state = device(timeout_s=1.0)
    assert state.probe_timeout_s == 1.0  # it never answered: nothing is known
    state.last_answer_ns, state.latency_s = 1, 0.05
    found = []
    for state.probes in range(8):
        found.append(state.probe_timeout_s)
    assert found == [0.2, 0.2, 0.2, 1.0] * 2
    state.probes, state.latency_s = 0, 0.0
    assert state.probe_timeout_s == PROBE_LEAST_S
    state.latency_s = 9.0
    assert state.probe_timeout_s == 1.0


def test_an_extra_read_after_a_write_leaves_the_rhythm_alone() -> None:
    state = device()
    made = schedule(state)
    made.done(due(made, 0.0), 0.1)
    made.soon(state, "main-p", 0.4)
    assert made.done(due(made, 0.4), 0.5) == 0
    assert made.pick(0.9) is None
    assert due(made, 1.0).at_s == 1.0


def test_a_read_is_overdue_when_it_is_late_by_more_than_its_period_and_the_oldest_comes_first() -> None:
    slow, quick, other = device("slow", main=60.0), device("quick", main=0.5), device("other", main=1.0)
    made = schedule(slow, other, quick)
    assert made.overdue(0.4) is None
    found = made.overdue(0.6)
    assert isinstance(found, Due)
    assert found.device is quick  # slow is due as long, but has a minute
    assert made.done(found, 0.7) == 0
    for name in ("slow", "other"):  # nothing lost its place
        found = due(made, 0.8)
        assert found.device.id == name
        made.done(found, 0.8)
    assert due(made, 0.9).device is quick
    found = made.overdue(5.0)
    assert isinstance(found, Due)
    assert found.device is quick
    assert made.done(found, 5.0) == 8  # 1.0 to 4.5


def test_a_probe_without_slack_for_a_minute_is_overdue() -> None:
    dead, live = device("dead"), device("live", main=600.0)
    made = schedule(live, dead)
    made.done(due(made, 0.0), 0.0)
    silence(made, dead, 0.0)  # its probe is due at 2
    assert made.overdue(2.0 + FORCED_S - 0.1) is None
    found = made.overdue(2.0 + FORCED_S)
    assert isinstance(found, Probe)
    made.note_probe(2.0 + FORCED_S)
    assert made.overdue(3.0 + FORCED_S) is None


def test_an_outage_is_no_overrun_and_keeps_the_order() -> None:
    first, second = device("first"), device("second")
    made = schedule(first, second)
    made.done(due(made, 0.0), 0.1)
    made.done(due(made, 0.0), 0.2)
    made.resume(500.7)
    for name in ("first", "second"):
        found = due(made, 500.7)
        assert (found.device.id, made.done(found, 500.8)) == (name, 0)
    assert made.pick(500.9) is None
    assert due(made, 501.0).device is first


def test_a_removed_device_leaves_nothing_behind() -> None:
    live, parked = device("live"), device("parked")
    made = schedule(live, parked)
    silence(made, parked, 0.0)
    made.remove({"live", "parked"})
    assert made.pick(1e9) is None
    assert made.wake_s(0.0) == float("inf")


def test_overruns_are_judged_by_the_minute() -> None:
    judge = Overruns()
    assert judge.note(0, 0.0) == ""
    for i in range(100):
        assert judge.note(int(i < 20), 0.1 * i) is None
    found = judge.note(0, WINDOW_S)
    assert found == "20 of 121 reads were missed within a minute"
    for i in range(100):
        assert judge.note(int(i < 5), WINDOW_S + 0.1 * i) is None
    assert judge.note(0, 2 * WINDOW_S) == ""


def test_what_missed_reads_is_told_with_the_commands_beside_them() -> None:
    judge = Overruns()
    judge.note(0, 0.0)
    judge.note(9, 1.0)
    judge.commands = 300
    assert judge.note(0, WINDOW_S) == "9 of 11 reads were missed within a minute, beside 300 commands"
    assert judge.commands == 0
