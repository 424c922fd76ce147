"""Faults at the device, with real wires, a real log and a real broker: what arrives upstream is right or marked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fluxedge.app import Gateway
from fluxedge.clock import SystemClock
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import (
    ChannelCfg,
    Config,
    DeviceCfg,
    DriverCfg,
    GatewayCfg,
    LogCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    TopicsCfg,
    UplinkCfg,
)
from tests.conftest import Mosquitto
from tests.system.arrivals import Arrival, arrivals
from tests.system.consumer import Consumer
from tests.system.peers import Peer, PtyPeer, TcpPeer

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

TRANSPORTS = ["tcp", "rtu", "rtu+tcp"]
TOPICS = {"json": "gw/json", "json-columns": "gw/columns"}
FLOAT_AT = 10
VALUES: dict[str, object] = {"level": 7, "flow": 2.5}  # as the device holds them
OFFSETS = {"tcp": "tcp", "rtu": "rtu", "rtu+tcp": "rtu-tcp"}


class SteppingClock(SystemClock):
    step_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.step_ns

    def trusted(self) -> bool:
        return True


@pytest.fixture(params=TRANSPORTS)
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    kind = request.param
    made: Peer = PtyPeer(str(tmp_path / "tty")) if kind == "rtu" else TcpPeer(OFFSETS[kind])
    made.registers.set_float(FLOAT_AT, 2.5)
    yield made
    made.stop()


@pytest.fixture
def consumer(broker: Mosquitto) -> Iterator[Consumer]:
    made = Consumer(broker.port, tuple(TOPICS.values()))
    yield made
    made.close()


def config(url: str, broker: Mosquitto, points: dict[str, ModbusPointCfg] | None = None) -> Config:
    points = points or {
        "level": ModbusPointCfg(at="ir:7", type="uint16", high=1000.0),
        "flow": ModbusPointCfg(at=f"ir:{FLOAT_AT}", type="float32"),
    }
    driver = DriverCfg(id="d", name="d", protocol="modbus", source="s", points=points, options=ModbusOptionsCfg())
    uplinks = {
        form: UplinkCfg(
            url=f"mqtt://127.0.0.1:{broker.port}", format=form,
            topics=TopicsCfg(rounds=topic, events=f"{topic}/events", status=f"{topic}/status"),
        )
        for form, topic in TOPICS.items()
    }  # fmt: skip
    return Config(
        gateway=GatewayCfg(id="gw"),
        log=LogCfg(commit_s=Seconds(0.05), free_space_bytes=Bytes(0)),
        channels={"line": ChannelCfg(url=url, timeout_s=Seconds(0.25), connect_timeout_s=Seconds(1.0))},
        devices={"m1": DeviceCfg(driver="d", channel="line", every_s=Seconds(0.1))},
        drivers={"d": driver},
        uplinks=uplinks,
    )


class Site:
    """A running gateway, its device and what arrived upstream."""

    def __init__(self, gateway: Gateway, peer: Peer, consumer: Consumer) -> None:
        self.gateway, self.peer, self.consumer = gateway, peer, consumer
        self.seen = 0

    def mark(self) -> None:
        """Look only at what arrives from now on."""
        self.seen = len(self.consumer.payloads)

    def of(self, form: str, point: str = "") -> list[Arrival]:
        found = arrivals(self.consumer, TOPICS[form], self.seen)
        return [arrival for arrival in found if not point or arrival.point == point]

    async def until(self, reached: Callable[[], object], timeout_s: float = 10.0) -> None:
        for _ in range(int(timeout_s / 0.01)):
            if reached():
                return
            await asyncio.sleep(0.01)
        last = {form: self.of(form)[-2:] for form in TOPICS}
        raise AssertionError(f"not reached: {last}, {[str(s.code) for s in self.gateway.problems]}")

    async def arrived(self, quality: str, point: str = "level", value: object = ...) -> None:
        """Wait until a point has this quality upstream, in both formats, and holds a value exactly if it may."""

        def there(form: str) -> bool:
            found = self.of(form, point)
            return bool(found) and found[-1].quality == quality and (value is ... or found[-1].value == value)

        await self.until(lambda: all(there(form) for form in TOPICS))
        for form in TOPICS:
            assert (self.of(form, point)[-1].value is None) == (quality in ("BAD", "OFFLINE"))

    def codes(self, item: str) -> list[str]:
        return [standing.code for standing in self.gateway.problems.of(item)]

    def every_good_value_is_true(self, **also: object) -> None:
        for form in TOPICS:
            for arrival in arrivals(self.consumer, TOPICS[form]):
                if arrival.quality == "GOOD":
                    assert arrival.value in (VALUES[arrival.point], also.get(arrival.point)), arrival


@contextlib.asynccontextmanager
async def site(
    peer: Peer, broker: Mosquitto, consumer: Consumer, state: Path, cfg: Config | None = None, **kwargs: typing.Any
) -> AsyncIterator[Site]:
    gateway = Gateway(cfg or config(peer.url, broker), state / "state", **kwargs)
    await gateway.start()
    try:
        yield Site(gateway, peer, consumer)
        assert gateway.failed is not None
        assert not gateway.failed.done()
    finally:
        await gateway.stop()


async def test_every_quality_arrives_over_every_transport_in_every_format(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        device = peer.registers
        await s.arrived("GOOD", value=7)
        await s.arrived("GOOD", "flow", 2.5)
        device.words[7] = 5000  # outside its validity limits
        await s.arrived("UNCERTAIN", value=5000)
        await s.arrived("GOOD", "flow", 2.5)
        device.words[7] = 7
        device.set_float(FLOAT_AT, float("nan"))
        await s.arrived("BAD", "flow")
        await s.arrived("GOOD", value=7)
        device.set_float(FLOAT_AT, 2.5)
        device.mode = "exception"
        await s.arrived("BAD")
        assert s.codes("device:m1") == ["device-failure"]
        device.mode = "silent"
        await s.arrived("OFFLINE")
        assert s.codes("device:m1") == ["no-reply"]
        device.mode = "good"
        await s.arrived("GOOD", value=7)
        assert s.codes("device:m1") == []
        s.every_good_value_is_true()


@pytest.mark.parametrize("peer", ["rtu", "rtu+tcp"], indirect=True)
async def test_a_late_reply_makes_values_uncertain_where_the_protocol_cannot_tell(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    # One register: the answer to the probe is as long as the late one, so that nothing settles the suspicion.
    points = {"level": ModbusPointCfg(at="ir:7", type="uint16")}
    cfg = config(peer.url, broker, points)
    async with site(peer, broker, consumer, tmp_path, cfg) as s:
        await s.arrived("GOOD", value=7)
        s.mark()
        peer.registers.mode = "late"
        await s.arrived("OFFLINE")
        peer.registers.mode = "good"
        await s.until(lambda: all(any(a.quality == "UNCERTAIN" for a in s.of(form)) for form in TOPICS))
        await s.arrived("GOOD", value=7)
        s.every_good_value_is_true()


@pytest.mark.parametrize("peer", ["tcp"], indirect=True)
async def test_a_late_reply_on_tcp_is_dropped_and_never_taken(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("GOOD")
        s.mark()
        peer.registers.mode = "late"
        await s.arrived("OFFLINE")
        peer.registers.words[7] = 8  # a late answer with 7 must not be taken for this one
        peer.registers.mode = "good"
        await s.arrived("GOOD", value=8)
        found = {(a.value, a.quality) for a in s.of("json", "level")}
        assert found <= {(7, "GOOD"), (None, "OFFLINE"), (8, "GOOD")}


@pytest.mark.parametrize("mode", ["garbage", "half"])
async def test_bytes_that_are_no_answer_cost_the_device_and_nothing_else(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path, mode: str
) -> None:
    await no_answer(peer, broker, consumer, tmp_path, mode, {"no-reply", "bad-reply"})


@pytest.mark.parametrize("peer", ["rtu", "rtu+tcp"], indirect=True)
async def test_a_frame_with_a_wrong_checksum_is_never_taken(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    await no_answer(peer, broker, consumer, tmp_path, "damaged", {"crc-error"})


async def no_answer(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path, mode: str, codes: set[str]
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("GOOD")
        peer.registers.mode = mode
        await s.arrived("OFFLINE")
        found = s.codes("device:m1")
        assert len(found) == 1
        assert set(found) <= codes
        assert s.codes("channel:line") == []
        peer.registers.mode = "good"
        await s.arrived("GOOD", value=7)
        s.every_good_value_is_true()


async def test_a_foreign_answer_before_the_right_one_is_passed_over(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        peer.registers.mode = "foreign"
        await s.arrived("GOOD", value=7)
        await asyncio.sleep(0.5)
        assert {a.quality for a in s.of("json")} == {"GOOD"}
        s.every_good_value_is_true()


@pytest.mark.parametrize("exception", [1, 2, 3, 4, 6, 8, 0x0A, 0x0B, 0x63])
@pytest.mark.parametrize("peer", ["tcp"], indirect=True)
async def test_every_exception_is_bad_or_offline_and_goes_away_again(
    peer: Peer, broker: Mosquitto, consumer: Consumer, tmp_path: Path, exception: int
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("GOOD")
        peer.registers.exception, peer.registers.mode = exception, "exception"
        await s.arrived("OFFLINE" if exception in (0x0A, 0x0B) else "BAD")
        assert len(s.codes("device:m1")) == 1
        peer.registers.mode = "good"
        await s.arrived("GOOD", value=7)
        assert s.codes("device:m1") == []


@pytest.mark.parametrize("peer", ["tcp", "rtu+tcp"], indirect=True)
async def test_a_port_that_is_closed_at_the_start_and_in_mid_stream_is_reopened(
    peer: TcpPeer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    peer.stop()
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("OFFLINE")
        assert s.codes("channel:line") == ["link-refused"]
        peer.start()
        await s.arrived("GOOD", value=7)
        assert s.codes("channel:line") == []
        peer.stop()
        await s.arrived("OFFLINE")
        await s.until(lambda: s.codes("channel:line") == ["link-refused"])
        peer.start()
        await s.arrived("GOOD", value=7)
        s.every_good_value_is_true()


@pytest.mark.parametrize("peer", ["tcp"], indirect=True)
async def test_a_device_that_hangs_up_instead_of_answering_is_not_called_in_a_hurry(
    peer: TcpPeer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("GOOD")
        peer.registers.mode = "close"
        before = len(peer.accepts)
        await asyncio.sleep(2)
        assert 1 <= len(peer.accepts) - before <= 4
        await s.arrived("OFFLINE")
        assert s.codes("channel:line") == ["link-down"]
        peer.registers.mode = "good"
        await s.arrived("GOOD", value=7)


async def test_an_address_that_leads_nowhere_is_a_problem_of_its_channel_only(
    broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    healthy = TcpPeer()
    healthy.registers.set_float(FLOAT_AT, 2.5)
    base = config(healthy.url, broker)
    channels = base.channels | {"lost": ChannelCfg(url="tcp://nowhere.invalid", connect_timeout_s=Seconds(0.5))}
    devices = base.devices | {"m2": DeviceCfg(driver="d", channel="lost", every_s=Seconds(0.1))}
    cfg = Config(
        gateway=base.gateway, log=base.log, channels=channels, devices=devices, drivers=base.drivers,
        uplinks=base.uplinks,
    )  # fmt: skip
    try:
        async with site(healthy, broker, consumer, tmp_path, cfg) as s:
            await s.until(lambda: any(a.device == "m2" and a.quality == "OFFLINE" for a in s.of("json")))
            assert s.codes("channel:lost") == ["link-unreachable"]
            s.mark()
            await asyncio.sleep(1)
            good = [a for a in s.of("json", "level") if a.device == "m1"]
            assert len(good) >= 8
            assert {a.quality for a in good} == {"GOOD"}
    finally:
        healthy.stop()


def take_number(name: str, directory: Path, others: contextlib.ExitStack) -> None:
    """Plug in other adapters until one has this name."""
    while not os.path.exists(name):
        other = PtyPeer(str(directory / f"other-{time.monotonic_ns()}"))
        others.callback(other.stop)


@pytest.mark.parametrize("peer", ["rtu"], indirect=True)
async def test_an_adapter_may_be_pulled_out_and_come_back_under_another_number(
    peer: PtyPeer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    async with site(peer, broker, consumer, tmp_path) as s:
        await s.arrived("GOOD", value=7)
        first = os.readlink(peer.link)
        peer.stop()
        await s.arrived("OFFLINE")
        await s.until(lambda: s.codes("channel:line") == ["port-missing"])
        with contextlib.ExitStack() as others:  # they take the old number
            take_number(first, tmp_path, others)
            peer.start()
            assert os.readlink(peer.link) != first
            await s.arrived("GOOD", value=7)
            assert s.codes("channel:line") == []
        s.every_good_value_is_true()


@pytest.mark.parametrize("peer", ["tcp"], indirect=True)
async def test_steps_of_the_clock_move_stamps_and_not_polls(
    peer: TcpPeer, broker: Mosquitto, consumer: Consumer, tmp_path: Path
) -> None:
    clock = SteppingClock()
    hour_us = 3600 * 10**6
    async with site(peer, broker, consumer, tmp_path, clock=clock) as s:
        await s.arrived("GOOD")
        for step_ns in (3600 * 10**9, -3600 * 10**9, 0):
            clock.step_ns = step_ns
            await asyncio.sleep(0.8)
        await s.until(lambda: len(s.of("json", "level")) >= 20)
        asked = peer.registers.asked[1]
        gaps = [b - a for a, b in itertools.pairwise(asked)]
        assert max(gaps) < 0.2
        assert sum(gaps) / len(gaps) == pytest.approx(0.1, abs=0.02)
        stamps = [a.at_us for a in s.of("json", "level")]
        steps = [b - a for a, b in itertools.pairwise(stamps)]
        assert sorted(round(step / hour_us) for step in steps if abs(step) > 10**6) == [-2, 1, 1]
        assert s.consumer.verifier.missing == 0
