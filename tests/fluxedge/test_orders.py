"""Commands on their way to the wire, through a poller on virtual time."""

from __future__ import annotations

import asyncio
import re

import pytest

from fluxedge.orders import QUEUED_COMMANDS
from fluxedge.problems import DeviceProblem, LinkProblem, Problem
from fluxedge.spi import Written
from tests.fluxedge.poller_rig import FakeChannel, FakeProtocol, Rig, gaps, now, rig, silence, until
from tests.fluxedge.virtual import virtual

GONE = LinkProblem("link-down", "the port is gone")


async def code_of(order: asyncio.Future[Written]) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        await order
    return caught.value.code, caught.value.message


@virtual
async def test_a_command_goes_before_polls_that_are_due() -> None:
    busy = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.3, main=0.5) for i in range(4)}  # the line is never idle
    async with rig(**busy) as r:
        await asyncio.sleep(5.1)
        asked_s = now()
        assert (await r.order("m2")).verified
        assert busy["m2"].writes[0][0] - asked_s <= 0.3  # the transaction that was running
        assert now() - asked_s <= 0.6


async def besiege(r: Rig, device: str, writers: int, for_s: float) -> list[float]:
    """Let writers write to one point without a pause; return how long each command took."""
    ends_s = now() + for_s
    took: list[float] = []

    async def write() -> None:
        while now() < ends_s:
            asked_s = now()
            await r.order(device, in_s=1000.0)
            took.append(now() - asked_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    return sorted(took)


@virtual
async def test_devices_are_read_while_commands_are_always_waiting() -> None:
    written, beside = FakeProtocol("written", cost_s=0.08), FakeProtocol("beside", cost_s=0.08)
    async with rig(written=written, beside=beside) as r:
        await asyncio.sleep(2)
        began_s = now()
        await besiege(r, "written", 90, 40.0)
        for device in (written, beside):
            during = [at_s for at_s in device.reads if began_s - 1 <= at_s <= began_s + 40]
            assert max(gaps(during)) < 2.5
            assert len(during) >= 38  # late, but none is missed
        assert len(written.writes) >= 3 * 40 / 0.08 / 4 - 90
        assert r.codes("channel:line") == []


@virtual
async def test_periods_that_pass_unread_because_of_commands_are_counted_and_told() -> None:
    devices = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.1) for i in range(8)}  # 0.8 s of reads a second
    async with rig(**devices) as r:
        await asyncio.sleep(70)
        assert r.codes("channel:line") == []
        await besiege(r, "m0", 50, 130.0)
        assert r.codes("channel:line") == ["overrun"]
        (standing,) = r.problems.of("channel:line")
        assert re.search(r"reads were missed within a minute, beside 4\d\d commands$", standing.message)
        for name, device in devices.items():
            assert max(gaps(device.reads)) < 4.4, name  # 2.5 reads a second for eight devices, late by a period
            assert r.device(name).overruns >= 70
        await asyncio.sleep(130)
        assert r.codes("channel:line") == []


@virtual
async def test_overdue_reads_cost_a_command_at_most_one_transaction_more() -> None:
    crowd = {f"m{i}": FakeProtocol(f"m{i}", cost_s=0.3, main=0.5) for i in range(4)}  # everything is always overdue
    async with rig(**crowd) as r:
        await asyncio.sleep(5)
        took = await besiege(r, "m2", 1, 100.0)
        assert took[-1] <= 0.3 + 0.3  # the transaction that was running, and its own
        took = await besiege(r, "m2", 3, 100.0)
        assert took[-1] <= 3 * 0.3 + 0.3  # two before it, its own, one read


@virtual
async def test_a_silent_device_is_asked_within_a_minute_while_commands_are_always_waiting() -> None:
    live, dead = FakeProtocol("live", cost_s=0.08), FakeProtocol("dead", cost_s=0.02)
    dead.fault = silence
    async with rig(live=live, dead=dead) as r:
        await asyncio.sleep(5)
        assert r.device("dead").state == "offline"
        probes = len(dead.probes)
        await besiege(r, "live", 5, 130.0)
        asked = [timeout_s for _, timeout_s in dead.probes[probes:]]
        assert len(asked) == 2
        assert set(asked) == {0.1}  # not the whole time-out: commands wait for it
        dead.fault = lambda: None
        await besiege(r, "live", 5, 130.0)
        assert r.device("dead").state == "ok"
        assert max(gaps(dead.reads)[-60:]) < 2.5


@virtual
async def test_commands_keep_their_order_and_values_that_are_false_arrive() -> None:
    meter = FakeProtocol("meter")
    async with rig(meter=meter) as r:
        await asyncio.sleep(1)
        values = [0, False, "", 0.0, 5]
        await asyncio.gather(*(r.order("meter", value) for value in values))
        assert [value for _, _, value in meter.writes] == values
        assert [type(value) for _, _, value in meter.writes] == [int, bool, str, float, int]


@virtual
async def test_the_group_of_a_written_point_is_read_at_once() -> None:
    meter = FakeProtocol("meter", main=10.0)
    async with rig(meter=meter) as r:
        await asyncio.sleep(3)
        before = list(meter.reads)
        await r.order("meter")
        await asyncio.sleep(0.1)
        assert len(meter.reads) == len(before) + 1
        await asyncio.sleep(20)
        assert meter.reads[-1] == before[0] + 20  # the rhythm is the old one


@virtual
async def test_a_command_that_cannot_be_sent_in_time_dies_at_its_deadline() -> None:
    slow = FakeProtocol("slow", cost_s=10.0, main=60.0)
    async with rig(slow=slow) as r:
        await asyncio.sleep(1)
        asked_s = now()
        found = await code_of(r.order("slow", in_s=2.0))
        assert found == ("command-refused", "expired before it could be sent")
        assert now() == asked_s + 2.0
        await asyncio.sleep(30)
        assert slow.writes == []


@virtual
async def test_a_command_that_was_begun_is_not_cut_off_by_its_deadline() -> None:
    meter = FakeProtocol("meter", cost_s=3.0, main=60.0)
    async with rig(meter=meter) as r:
        await asyncio.sleep(5)
        assert (await r.order("meter", in_s=0.1)).verified


@virtual
async def test_the_queue_has_a_bound() -> None:
    slow = FakeProtocol("slow", cost_s=1.0, main=60.0)
    async with rig(slow=slow) as r:
        await asyncio.sleep(0.6)
        orders = [r.order("slow", in_s=1000.0) for _ in range(QUEUED_COMMANDS)]
        assert (await code_of(r.order("slow")))[1] == f"channel line has {QUEUED_COMMANDS} commands waiting"
        await asyncio.gather(*orders)
        assert len(slow.writes) == QUEUED_COMMANDS


@virtual
async def test_a_command_for_an_offline_device_is_refused_at_once() -> None:
    dead = FakeProtocol("dead")
    dead.fault = silence
    async with rig(dead=dead) as r:
        await asyncio.sleep(5)
        asked_s = now()
        assert (await code_of(r.order("dead")))[1] == "dead is offline"
        assert now() == asked_s


@virtual
async def test_a_command_that_may_wait_is_sent_when_the_device_is_back_and_dies_when_it_is_not() -> None:
    meter, neighbour = FakeProtocol("meter"), FakeProtocol("neighbour")
    async with rig(meter=meter, neighbour=neighbour) as r:
        await asyncio.sleep(2)
        meter.fault = silence
        await asyncio.sleep(20)
        dying = r.order("meter", 1, in_s=5.0, patient=True)
        waiting = r.order("meter", 2, in_s=500.0, patient=True)
        assert (await r.order("neighbour")).verified  # it lets others pass
        assert (await code_of(dying))[1] == "expired before it could be sent"
        meter.fault = lambda: None
        assert (await waiting).sent == 2
        assert [value for _, _, value in meter.writes] == [2]


@virtual
async def test_commands_are_refused_when_the_channel_goes_down_except_those_that_may_wait() -> None:
    channel, meter = FakeChannel(), FakeProtocol("meter", cost_s=0.5)
    async with rig(channel, meter=meter) as r:
        await until(lambda: bool(meter.under_way))
        refused, waiting = r.order("meter", in_s=100.0), r.order("meter", 2, in_s=100.0, patient=True)
        meter.fault = lambda: GONE
        channel.problem = GONE
        meter.write_fault = GONE
        assert (await code_of(refused))[0] == "link-down"  # it was the first one: on its way when the port went
        late = r.order("meter", 3, in_s=100.0)
        assert (await code_of(late))[0] == "command-refused"
        channel.problem = meter.write_fault = None
        meter.fault = lambda: None
        assert (await waiting).verified
        assert [value for _, _, value in meter.writes] == [1, 2]


@virtual
async def test_commands_that_wait_behind_a_read_are_refused_when_it_loses_the_channel() -> None:
    channel, meter = FakeChannel(), FakeProtocol("meter", cost_s=0.5)
    meter.fault = lambda: GONE
    async with rig(channel, meter=meter) as r:
        await until(lambda: bool(meter.under_way))
        assert (await code_of(r.order("meter"))) == ("command-refused", "channel line is down")
        assert meter.writes == []


@virtual
async def test_a_device_that_falls_silent_takes_its_waiting_commands_with_it() -> None:
    meter, neighbour = FakeProtocol("meter", timeout_s=2.0), FakeProtocol("neighbour")
    async with rig(meter=meter, neighbour=neighbour) as r:
        await asyncio.sleep(1.9)
        meter.fault = silence
        await until(lambda: bool(meter.under_way))
        order, other = r.order("meter"), r.order("neighbour")
        assert (await code_of(order))[1] == "meter is offline"
        assert (await other).verified
        assert meter.writes == []


@virtual
async def test_commands_of_a_removed_or_changed_device_answer_device_removed() -> None:
    slow, gone, changed = FakeProtocol("slow", cost_s=3.0, main=60.0), FakeProtocol("gone"), FakeProtocol("changed")
    async with rig(slow=slow, gone=gone, changed=changed) as r:
        await asyncio.sleep(1.0)
        assert slow.under_way == 1
        orders = [r.order("gone"), r.order("changed")]
        again = FakeProtocol("changed")
        r.poller.set_devices({"slow": slow, "changed": again})
        assert (await code_of(r.order("gone")))[1].startswith("device-removed")
        for order in orders:
            assert (await code_of(order))[1].startswith("device-removed")
        assert (gone.writes, changed.writes, again.writes) == ([], [], [])
        assert (await r.order("changed")).verified
        assert len(again.writes) == 1


@virtual
async def test_a_command_for_a_device_that_is_about_to_be_taken_in_waits_for_it() -> None:
    slow, new = FakeProtocol("slow", cost_s=3.0, main=60.0), FakeProtocol("new")
    async with rig(slow=slow) as r:
        await asyncio.sleep(1.0)
        r.poller.set_devices({"slow": slow, "new": new})
        assert (await r.order("new")).verified


@virtual
async def test_a_command_ends_the_wait_for_a_silent_device_but_never_a_live_read() -> None:
    dead, live = FakeProtocol("dead", timeout_s=10.0), FakeProtocol("live", cost_s=0.01, main=60.0)
    async with rig(dead=dead, live=live) as r:
        dead.fault = silence
        await until(lambda: bool(dead.probes))
        assert dead.under_way == 1
        asked_s = now()
        orders = [r.order("live"), r.order("live", 2)]
        await asyncio.gather(*orders)
        assert now() - asked_s < 0.05
        assert r.device("dead").state == "offline"
        await asyncio.sleep(1)
        live.cost_s = 5.0
        await until(lambda: bool(live.under_way))
        begun_s = live.reads[-1]
        await r.order("live")
        assert now() >= begun_s + 10.0  # read to its end, then the write
        assert r.qualities("live")[-1].name == "GOOD"
        probes = len(dead.probes)
        dead.fault = lambda: None
        await asyncio.sleep(30)
        assert len(dead.probes) > probes  # the aborted probe was not the last
        assert r.device("dead").state == "ok"


@virtual
async def test_a_command_that_waits_for_a_silent_device_does_not_keep_it_from_being_asked() -> None:
    dead = FakeProtocol("dead", timeout_s=5.0)
    async with rig(dead=dead) as r:
        dead.fault = silence
        await until(lambda: bool(dead.probes))
        begun_s = dead.probes[0][0]
        waiting = r.order("dead", in_s=100.0, patient=True)
        dead.fault = lambda: None
        await until(lambda: not dead.under_way)
        assert now() >= begun_s + 5.0
        assert (await waiting).verified


@virtual
async def test_many_commands_in_one_instant_end_a_probe_once() -> None:
    dead, live = FakeProtocol("dead", timeout_s=10.0), FakeProtocol("live", main=60.0)
    async with rig(dead=dead, live=live) as r:
        dead.fault = silence
        await until(lambda: bool(dead.probes))
        orders = []
        for _ in range(5):
            orders += [r.order("live") for _ in range(3)]
            await asyncio.sleep(0)
        await asyncio.gather(*orders)
        assert len(live.writes) == 15


@virtual
async def test_what_a_write_raises_is_the_answer() -> None:
    meter = FakeProtocol("meter")
    async with rig(meter=meter) as r:
        await asyncio.sleep(1)
        for problem, code in (
            (DeviceProblem("illegal-value", "too much", alive=True), "illegal-value"),
            (silence(), "no-reply"),
            (KeyError("x"), "bug"),
            (GONE, "link-down"),
        ):
            meter.write_fault = problem
            assert (await code_of(r.order("meter")))[0] == code
            await asyncio.sleep(2)


@virtual
async def test_whoever_gave_up_waiting_does_not_harm_the_poller() -> None:
    meter = FakeProtocol("meter", cost_s=0.5, main=5.0)
    async with rig(meter=meter) as r:
        await asyncio.sleep(3)
        running, waiting = r.order("meter"), r.order("meter", 2)
        await asyncio.sleep(0.1)
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(10)
        assert [value for _, _, value in meter.writes] == [1]
        assert r.qualities("meter")[-1].name == "GOOD"
