"""Reading: rhythm, fairness, silence, refusals, defects, exchange of devices. See test_poller_channel for the link."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from fluxedge.model import Flag, Quality
from fluxedge.problems import DeviceProblem
from tests.fluxedge.poller_rig import FakeChannel, FakeProtocol, gaps, now, rig, silence
from tests.fluxedge.virtual import virtual

GOOD, BAD, OFFLINE = Quality.GOOD, Quality.BAD, Quality.OFFLINE


def refusal() -> DeviceProblem:
    return DeviceProblem("illegal-address", "no such register", alive=True)


@virtual
async def test_reads_keep_their_rhythm_for_an_hour() -> None:
    m1 = FakeProtocol("m1", cost_s=0.37)
    async with rig(m1=m1) as r:
        await asyncio.sleep(3600)
        assert len(m1.reads) == 3600
        assert set(gaps(m1.reads)) == {1.0}
        assert r.device("m1").overruns == 0
        assert r.codes("channel:line") == []


@virtual
async def test_first_reads_are_spread() -> None:
    devices = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.0) for i in range(20)}
    begun_s = now()
    async with rig(**devices):
        await asyncio.sleep(1)
        first = sorted(device.reads[0] - begun_s for device in devices.values())
    assert first[0] < 0.1
    assert 0.3 < first[-1] <= 0.5


@virtual
async def test_periods_that_pass_unread_are_counted_and_a_channel_that_cannot_keep_up_says_so() -> None:
    devices = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.4) for i in range(5)}  # 2 s of work a second
    async with rig(**devices) as r:
        await asyncio.sleep(100)
        reads = [len(device.reads) for device in devices.values()]
        overruns = [r.device(name).overruns for name in devices]
        assert max(reads) - min(reads) <= 1
        assert all(read + missed == pytest.approx(100, abs=3) for read, missed in zip(reads, overruns, strict=True))
        assert r.codes("channel:line") == ["overrun"]
        for device in devices.values():
            device.cost_s = 0.05
        await asyncio.sleep(130)
        assert r.codes("channel:line") == []


@virtual
async def test_a_slow_device_and_a_fast_one_share_an_overloaded_line_fairly() -> None:
    fast = FakeProtocol("fast", cost_s=0.2, main=0.1)
    slow = FakeProtocol("slow", cost_s=0.2, main=5.0)
    async with rig(fast=fast, slow=slow):
        await asyncio.sleep(100)
        assert max(gaps(slow.reads)) < 5.5


@virtual
async def test_each_round_is_delivered_as_soon_as_it_is_read() -> None:
    quick, slow = FakeProtocol("quick", cost_s=0.01), FakeProtocol("slow", cost_s=5.0, main=60.0)
    async with rig(quick=quick, slow=slow) as r:
        await asyncio.sleep(0.6)
        ended_s = quick.reads[0] + 0.01
        at_s, first = r.rounds[0]
        assert (at_s, first.group.device) == (pytest.approx(ended_s), "quick")


@virtual
async def test_a_silent_device_is_offline_once_and_asked_less_and_less_often() -> None:
    dead = FakeProtocol("dead", timeout_s=0.5, fast=1.0, slow=10.0)
    dead.fault = silence
    async with rig(dead=dead) as r:
        await asyncio.sleep(300)
        assert r.qualities("dead") == [OFFLINE, OFFLINE]  # one for each group
        assert r.states("device:dead") == ["offline"]
        assert r.changes == [("raised", "device:dead", "no-reply")]
        assert len(dead.reads) == 1
        begun = [at_s for at_s, _ in dead.probes]
        assert gaps([dead.reads[0], *begun])[:8] == [2.5, 4.5, 8.5, 16.5, 32.5, 32.5, 32.5, 32.5]
        assert r.device("dead").state == "offline"


@virtual
async def test_the_first_answer_of_a_silent_device_brings_back_all_of_it_at_full_rate() -> None:
    meter = FakeProtocol("meter", fast=1.0, slow=60.0)
    async with rig(meter=meter) as r:
        await asyncio.sleep(5)
        meter.fault = silence
        await asyncio.sleep(100)
        r.rounds.clear()
        meter.fault = lambda: None
        await asyncio.sleep(40)
        assert r.states("device:meter") == ["offline", "ok"]
        assert r.codes("device:meter") == []
        back_s = meter.probes[-1][0]
        names = [round_.group.name for at_s, round_ in r.rounds if at_s < back_s + 0.1]
        assert sorted(names) == ["fast", "slow"]
        after = [at_s for at_s in meter.reads if at_s > back_s + 0.1]
        assert set(gaps(after)) == {1.0}
        assert r.device("meter").silent_rounds == 0


@virtual
async def test_a_probe_of_a_device_that_is_known_to_be_quick_is_short() -> None:
    meter = FakeProtocol("meter", cost_s=0.05, timeout_s=1.0)
    async with rig(meter=meter):
        await asyncio.sleep(2)
        meter.fault = silence
        await asyncio.sleep(100)
        assert [timeout_s for _, timeout_s in meter.probes[:5]] == [
            pytest.approx(wanted) for wanted in (0.2, 0.2, 0.2, 1.0, 0.2)
        ]


@virtual
async def test_neighbours_of_dead_devices_keep_their_period() -> None:
    live = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.04, main=3.0) for i in range(30)}
    dead = {f"d{i}": FakeProtocol(f"d{i}", timeout_s=1.0, main=3.0) for i in range(2)}
    for device in dead.values():
        device.fault = silence
    async with rig(**live, **dead):
        await asyncio.sleep(30)
        for device in live.values():
            device.reads.clear()
        await asyncio.sleep(600)
        worst = max(gap for device in live.values() for gap in gaps(device.reads))
        assert worst < 3.0 * 1.05
        assert all(len(device.probes) >= 5 for device in dead.values())


@virtual
async def test_an_exception_reply_makes_points_bad_each_round_and_never_demotes() -> None:
    meter = FakeProtocol("meter")
    meter.fault = refusal
    async with rig(meter=meter) as r:
        await asyncio.sleep(20)
        assert r.qualities("meter") == [BAD] * len(meter.reads)
        assert set(gaps(meter.reads)) == {1.0}
        assert r.changes == [("raised", "device:meter", "illegal-address")]
        state = r.device("meter")
        assert (state.state, state.exceptions, state.silent) == ("ok", len(meter.reads), 0)
        meter.fault = lambda: None
        await asyncio.sleep(1)
        assert r.changes[1:] == [("cleared", "device:meter", "illegal-address")]


@virtual
async def test_what_is_wrong_with_a_part_stands_while_the_round_is_delivered_and_clears() -> None:
    meter = FakeProtocol("meter")
    meter.partial = refusal()
    async with rig(meter=meter) as r:
        await asyncio.sleep(5)
        assert set(r.qualities("meter")) == {GOOD}
        assert r.changes == [("raised", "device:meter", "illegal-address")]
        meter.partial = DeviceProblem("bad-value", "no number", alive=True)
        await asyncio.sleep(1)
        assert r.codes("device:meter") == ["bad-value"]
        meter.partial = None
        await asyncio.sleep(1)
        assert r.codes("device:meter") == []


@virtual
async def test_a_group_that_is_refused_beside_one_that_is_read_is_one_standing_problem() -> None:
    meter = FakeProtocol("meter", one=1.0, two=1.0)
    count = 0

    def every_other() -> DeviceProblem | None:
        nonlocal count
        count += 1
        return refusal() if count % 2 else None

    meter.fault = every_other
    async with rig(meter=meter) as r:
        await asyncio.sleep(30)
        assert r.changes == [("raised", "device:meter", "illegal-address")]
        assert r.device("meter").state == "ok"


@virtual
async def test_a_silence_takes_the_place_of_what_was_said_before_it() -> None:
    meter = FakeProtocol("meter")
    meter.fault = refusal
    async with rig(meter=meter) as r:
        await asyncio.sleep(3)
        meter.fault = silence
        await asyncio.sleep(3)
        assert r.codes("device:meter") == ["no-reply"]
        meter.fault = refusal
        await asyncio.sleep(10)
        assert r.codes("device:meter") == ["illegal-address"]
        assert r.qualities("meter")[-1] is BAD


@pytest.mark.parametrize("defect", [KeyError("x"), TimeoutError(), RecursionError(), ZeroDivisionError()])
def test_a_defect_of_a_protocol_costs_its_device_a_problem_and_nobody_else_anything(
    defect: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def check() -> None:
        broken, healthy = FakeProtocol("broken"), FakeProtocol("healthy")
        broken.fault = lambda: defect
        async with rig(broken=broken, healthy=healthy) as r:
            await asyncio.sleep(20)
            assert r.codes("device:broken") == ["bug"]
            assert r.codes("device:healthy") == []
            assert set(r.qualities("broken")) == {BAD}
            assert set(gaps(healthy.reads)) == {1.0}
            assert len(healthy.reads) >= 19
            broken.fault = lambda: None
            await asyncio.sleep(2)
            assert r.codes("device:broken") == []

    with caplog.at_level(logging.ERROR, "fluxedge.poller"):
        check()
    assert len(caplog.records) == 1  # not one a second
    assert caplog.records[0].exc_info is not None


@virtual
async def test_what_is_no_round_of_the_group_is_a_defect_too() -> None:
    broken, healthy = FakeProtocol("broken"), FakeProtocol("healthy")
    async with rig(broken=broken, healthy=healthy) as r:
        for junk in ("text", healthy.groups[0].round((1, 2), 0, 0)):
            broken.returns = junk
            await asyncio.sleep(2)
            assert r.codes("device:broken") == ["bug"]
        assert set(r.qualities("healthy")) == {GOOD}


@virtual
async def test_a_defect_in_a_probe_does_not_lose_the_device() -> None:
    meter = FakeProtocol("meter")
    async with rig(meter=meter) as r:
        await asyncio.sleep(2)
        meter.fault = silence
        await asyncio.sleep(2)
        meter.fault = lambda: KeyError("probe")
        await asyncio.sleep(10)
        assert r.codes("device:meter") == ["no-reply", "bug"]
        meter.fault = lambda: None
        await asyncio.sleep(10)
        assert r.qualities("meter")[-1] is GOOD
        assert r.codes("device:meter") == []


@virtual
async def test_a_full_queue_makes_the_poller_wait_and_nothing_else_breaks() -> None:
    meter = FakeProtocol("meter")
    async with rig(meter=meter) as r:
        await asyncio.sleep(3)
        r.room.clear()
        await asyncio.sleep(10.5)
        held = len(meter.reads)
        r.room.set()
        await asyncio.sleep(10)
        assert held <= 5
        assert r.device("meter").overruns >= 8
        assert set(gaps(meter.reads)[-5:]) == {1.0}


@virtual
async def test_rounds_are_marked_while_the_clock_is_not_trusted() -> None:
    meter, dead = FakeProtocol("meter"), FakeProtocol("dead")
    dead.fault = silence
    async with rig(meter=meter, dead=dead) as r:
        r.clock.sure = False
        await asyncio.sleep(5)
        assert r.rounds
        assert all(round_.flags == Flag.CLOCK_UNSYNCED for _, round_ in r.rounds)
        r.clock.sure = True
        await asyncio.sleep(2)
        assert r.rounds[-1][1].flags == 0


@virtual
async def test_a_step_of_the_wall_clock_moves_stamps_and_not_polls() -> None:
    meter = FakeProtocol("meter")
    meter.fault = refusal  # its rounds are stamped by the poller
    async with rig(meter=meter) as r:
        for step_s in (3600, -7200):
            await asyncio.sleep(5)
            r.clock.step_ns += step_s * 10**9
        await asyncio.sleep(5)
        assert set(gaps(meter.reads)) == {1.0}
        stamps = [round_.at_ns // 10**9 for _, round_ in r.rounds]
        assert {b - a for a, b in itertools.pairwise(stamps)} == {1, 3601, -7199}


@virtual
async def test_latency_and_busy_time_are_finer_than_the_clock_of_the_loop() -> None:
    meter = FakeProtocol("meter", cost_s=0.0)
    async with rig(meter=meter) as r:
        loop_ns, passed_ns = r.clock.mono_ns, 0

        def answer() -> None:  # within 250 us, in which uvloop's time stands still
            nonlocal passed_ns
            passed_ns += 250_000

        r.clock.mono_ns = lambda: loop_ns() + passed_ns  # type: ignore[method-assign]
        meter.fault = answer  # type: ignore[assignment]
        await asyncio.sleep(3.9)
        assert len(meter.reads) == 4
        assert r.device("meter").latency_s == pytest.approx(0.00025)
        assert r.poller.state.busy_s == pytest.approx(0.001)
        await r.order("meter")
        assert r.poller.state.busy_s == pytest.approx(0.00125)
        await asyncio.sleep(0)


@virtual
async def test_unchanged_devices_keep_state_and_rhythm_when_the_set_changes() -> None:
    stays, goes, comes = FakeProtocol("stays"), FakeProtocol("goes"), FakeProtocol("comes")
    goes.fault = silence
    async with rig(stays=stays, goes=goes) as r:
        await asyncio.sleep(10)
        state = r.device("stays")
        changed = FakeProtocol("goes")
        r.poller.set_devices({"stays": stays, "goes": changed, "comes": comes})
        await asyncio.sleep(10)
        assert r.device("stays") is state
        assert set(gaps(stays.reads)[3:]) == {1.0}  # the first silence costs everybody a time-out
        assert len(comes.reads) >= 9
        assert len(changed.reads) >= 9
        assert r.device("goes").state == "ok"
        assert r.codes("device:goes") == []
        asked = len(goes.probes), len(goes.reads)
        r.poller.set_devices({"comes": comes})
        await asyncio.sleep(10)
        assert list(r.poller.devices) == ["comes"]
        assert (len(goes.probes), len(goes.reads)) == asked


@virtual
async def test_the_set_changes_between_transactions_only() -> None:
    slow, other = FakeProtocol("slow", cost_s=3.0, main=60.0), FakeProtocol("other")
    async with rig(FakeChannel(), slow=slow) as r:
        await asyncio.sleep(1)
        assert slow.under_way == 1
        r.poller.set_devices({"other": other})
        await asyncio.sleep(1)
        assert slow.under_way == 1
        assert other.reads == []
        await asyncio.sleep(3)
        assert r.qualities("slow") == [GOOD]
        assert len(other.reads) >= 1
        assert r.channel is not None
        assert len(r.channel.opens) == 1


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3, 0.9, 1.3, 2.0, 2.6, 3.4])
def test_cancelling_at_any_moment_leaves_nothing_open(after_s: float) -> None:
    @virtual
    async def check() -> None:
        channel = FakeChannel()
        channel.opening_s = 0.4
        live, dead = FakeProtocol("live", cost_s=0.5), FakeProtocol("dead", timeout_s=0.4)
        dead.fault = silence
        async with rig(channel, live=live, dead=dead):
            await asyncio.sleep(after_s)

    check()
