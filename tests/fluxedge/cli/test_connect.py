"""Trying a configuration: concurrent, bounded, and in words that say what to do."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from fluxedge.cli import connect
from fluxedge.config.structs import ChannelCfg, Config, DeviceCfg, DriverCfg
from fluxedge.problems import DeviceProblem
from tests.fluxedge.cli.sites import served, shipped


def config(ports: list[int], driver: DriverCfg, *units: int, timeout: float = 0.1) -> Config:
    return Config(
        channels={
            f"c{i}": ChannelCfg(url=f"tcp://127.0.0.1:{port}", timeout_s=timeout) for i, port in enumerate(ports)
        },  # type: ignore[arg-type]
        devices={
            f"d{i}-{unit}": DeviceCfg(driver=driver.id, channel=f"c{i}", unit=unit)
            for i in range(len(ports))
            for unit in units
        },
        drivers={driver.id: driver},
    )


def outcome(trials: list[connect.Trial]) -> dict[str, str]:
    return {trial.item: trial.problem.code if trial.problem else "ok" for trial in trials}


async def test_each_device_has_a_trial_of_its_own() -> None:
    told: list[connect.Trial] = []
    async with served(u1="xy-md02", u3="xy-md02") as server:
        trials = await connect.try_all(config([server.port], shipped("xy-md02"), 1, 2, 3), told.append)
    assert outcome(trials) == {"channel c0": "ok", "device d0-1": "ok", "device d0-2": "no-reply", "device d0-3": "ok"}
    assert told == trials


async def test_channels_are_tried_at_once() -> None:
    async with served(u1="xy-md02") as server:
        begun_s = time.monotonic()
        trials = await connect.try_all(
            config([server.port] * 8, shipped("xy-md02"), 2, timeout=0.3), lambda trial: None
        )
        assert time.monotonic() - begun_s < 1.2  # eight times 0.3 s one after the other are 2.4 s
    assert sum(code == "no-reply" for code in outcome(trials).values()) == 8


async def test_a_channel_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CHANNEL_S", 0.25)
    async with served(u1="xy-md02") as server:
        found = config([server.port], shipped("xy-md02"), *range(2, 20))
        trials = await connect.try_all(found, lambda trial: None)
    assert trials[-1].problem is not None
    assert "of its devices were not asked yet" in trials[-1].problem.message


async def test_a_connection_that_breaks_is_opened_again_for_the_next_device() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trials = await connect.try_all(config([port], shipped("xy-md02"), 1, 2), lambda trial: None)
    assert outcome(trials) == {"channel c0": "ok", "device d0-1": "link-down", "device d0-2": "link-down"}


def test_a_silent_device_is_explained_by_what_can_be_wrong_on_its_wire() -> None:
    silence = DeviceProblem("no-reply", "no answer within 1 s")
    assert "A and B" in connect.with_advice(silence, "rtu").hint
    assert "A and B" not in connect.with_advice(silence, "tcp").hint
    named = DeviceProblem("no-reply", "no answer", "Look here.")
    assert connect.with_advice(named, "rtu") is named


def status(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "may"),
    [
        (0o20660, 500, [20], True),  # by group dialout
        (0o20660, 500, [500], False),
        (0o20640, 500, [20], False),  # reading alone is not enough
        (0o20600, 0, [], True),
        (0o20666, 500, [], True),
    ],
)
def test_permission_bits_decide_for_owner_group_and_others(mode: int, uid: int, groups: list[int], may: bool) -> None:
    assert connect.may_read_and_write(status(mode, 0, 20), uid, groups) is may
