"""The poller and its channel: outages, back-off, idle connections."""

from __future__ import annotations

import asyncio
import random

import pytest

from fluxedge.model import Quality
from fluxedge.poller import REOPEN_MOST_S
from fluxedge.problems import LinkProblem, Problem
from tests.fluxedge.poller_rig import FakeChannel, FakeProtocol, gaps, now, rig, silence
from tests.fluxedge.virtual import virtual

GOOD, OFFLINE = Quality.GOOD, Quality.OFFLINE
GONE = LinkProblem("link-down", "the port is gone")


@virtual
async def test_a_lost_channel_makes_every_device_offline_once_and_comes_back_by_itself() -> None:
    channel = FakeChannel()
    m1, m2 = FakeProtocol("m1"), FakeProtocol("m2", slow=60.0)
    async with rig(channel, m1=m1, m2=m2) as r:
        await asyncio.sleep(5)
        channel.problem = GONE
        m1.fault = lambda: GONE
        await asyncio.sleep(300)
        assert r.states("channel:line") == ["closed"]
        assert (r.states("device:m1"), r.states("device:m2")) == (["offline"], ["offline"])
        assert r.qualities("m1")[-2:] == [GOOD, OFFLINE]
        assert r.qualities("m2") == [GOOD, OFFLINE]
        assert r.changes == [("raised", "channel:line", "link-down")]
        assert r.poller.state.state == "closed"
        closed_ns = r.poller.state.since_ns
        channel.problem = None
        m1.fault = lambda: None
        await asyncio.sleep(REOPEN_MOST_S + 1)
        assert r.poller.state.since_ns > closed_ns
        assert r.states("channel:line") == ["closed", "open"]
        assert (r.states("device:m1"), r.states("device:m2")) == (["offline", "ok"], ["offline", "ok"])
        assert r.codes("channel:line") == []
        back_s = channel.opens[-1]
        assert any(at_s < back_s + 0.1 and q.group.device == "m2" for at_s, q in r.rounds if at_s > back_s)
        assert r.device("m1").overruns == r.device("m2").overruns == 0


@virtual
async def test_the_pause_before_reopening_grows_to_a_bound_with_jitter() -> None:
    channel = FakeChannel()
    channel.problem = GONE
    async with rig(channel, m1=FakeProtocol("m1")):
        await asyncio.sleep(600)
    pauses = gaps(channel.opens)
    for pause_s, most_s in zip(pauses, [0.5, 1, 2, 4, 8, 16, *[30] * 100], strict=False):
        assert most_s / 2 <= pause_s <= most_s
    assert len(set(pauses)) == len(pauses)
    expected = random.Random(1)
    expected.uniform(0, 0.5)  # the first read of m1
    assert pauses[0] == pytest.approx(0.5 * expected.uniform(0.5, 1.0), abs=1e-6)


@virtual
async def test_a_defect_while_opening_costs_the_channel_a_problem_and_is_tried_again() -> None:
    channel = FakeChannel()
    channel.problem = UnicodeError("label too long")
    async with rig(channel, m1=FakeProtocol("m1")) as r:
        await asyncio.sleep(10)
        assert r.codes("channel:line") == ["bug"]
        assert r.states("device:m1") == ["offline"]
        channel.problem = None
        await asyncio.sleep(REOPEN_MOST_S + 1)
        assert r.codes("channel:line") == []
        assert r.states("device:m1") == ["offline", "ok"]


@virtual
async def test_the_reason_that_stands_is_the_latest_one() -> None:
    channel = FakeChannel()
    channel.problem = LinkProblem("link-refused", "nothing listens")
    async with rig(channel, m1=FakeProtocol("m1")) as r:
        await asyncio.sleep(3)
        channel.problem = LinkProblem("link-unreachable", "no route")
        await asyncio.sleep(30)
        assert r.codes("channel:line") == ["link-unreachable"]
        assert r.states("channel:line") == ["closed"]
        channel.problem = None
        await asyncio.sleep(31)
        assert r.codes("channel:line") == []


@virtual
async def test_a_peer_that_accepts_and_hangs_up_is_not_called_in_a_hurry() -> None:
    channel, m1 = FakeChannel(), FakeProtocol("m1")
    m1.fault = lambda: GONE
    async with rig(channel, m1=m1) as r:
        await asyncio.sleep(600)
        assert len(channel.opens) < 40
        assert r.states("device:m1") == ["offline"]

        def hang_up() -> None:
            channel.link = None

        m1.fault = hang_up  # type: ignore[assignment]  # answers, then closes
        channel.opens.clear()
        await asyncio.sleep(100)
        assert len(channel.opens) >= 60
        assert r.states("device:m1") == ["offline", "ok"]  # an idle connection that was ended is no outage


@virtual
async def test_a_connection_that_is_ended_without_any_answer_in_between_is_an_outage() -> None:
    channel, m1 = FakeChannel(), FakeProtocol("m1")
    m1.fault = silence

    async with rig(channel, m1=m1) as r:

        async def cut() -> None:
            while True:
                await asyncio.sleep(0.05)
                channel.link = None

        cutting = asyncio.get_running_loop().create_task(cut())
        await asyncio.sleep(300)
        cutting.cancel()
        await asyncio.wait([cutting])
        assert len(channel.opens) < 40
        assert r.codes("channel:line") == ["link-down"]


@virtual
async def test_a_demoted_device_is_asked_as_soon_as_its_channel_is_back() -> None:
    channel, dead, live = FakeChannel(), FakeProtocol("dead", timeout_s=0.1, main=60.0), FakeProtocol("live")
    dead.fault = silence
    async with rig(channel, dead=dead, live=live):
        await asyncio.sleep(1000)
        channel.problem = GONE
        live.fault = lambda: GONE
        await asyncio.sleep(100)
        channel.problem = None
        live.fault = lambda: None
        dead.fault = lambda: None
        await asyncio.sleep(REOPEN_MOST_S + 3)
        assert channel.opens[-1] <= dead.reads[-1] < channel.opens[-1] + 3


@virtual
async def test_a_channel_of_its_own_for_each_poller_and_none_for_protocols_without() -> None:
    m1 = FakeProtocol("m1")
    async with rig(None, m1=m1) as r:
        await asyncio.sleep(10)
        assert len(m1.reads) >= 9
        assert r.poller.state.opens == 0


@virtual
async def test_new_devices_do_not_hurry_a_channel_that_is_down() -> None:
    channel = FakeChannel()
    channel.problem = GONE
    async with rig(channel, m1=FakeProtocol("m1")) as r:
        await asyncio.sleep(200)
        opens = len(channel.opens)
        for i in range(50):
            r.poller.set_devices({f"m{i}": FakeProtocol(f"m{i}")})  # type: ignore[dict-item]
            await asyncio.sleep(0.1)
        assert len(channel.opens) <= opens + 1
        await asyncio.sleep(REOPEN_MOST_S)
        assert r.qualities("m49") == [OFFLINE]


@virtual
async def test_an_interrupted_write_is_unknown_and_a_waiting_one_is_refused() -> None:
    channel, m1 = FakeChannel(), FakeProtocol("m1", cost_s=0.3)
    async with rig(channel, m1=m1) as r:
        await asyncio.sleep(1.5)
        orders = [r.order("m1"), r.order("m1", 2)]
        await asyncio.sleep(0.2)
        assert len(m1.writes) == 1
        opened_s = now()
    assert now() == opened_s
    codes = []
    for order in orders:
        with pytest.raises(Problem) as caught:
            await order
        codes.append(caught.value.code)
    assert codes == ["command-unknown", "command-refused"]
