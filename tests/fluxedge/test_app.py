"""The gateway without its service: its name, its state directory, and going from one configuration to another."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import msgspec
import pytest

from fluxedge import app
from fluxedge.app import Gateway, gateway_id, make_state_dir
from fluxedge.commands import decode
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import (
    ChannelCfg,
    Config,
    DeviceCfg,
    DriverCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    UplinkCfg,
)
from fluxedge.log import Batch
from fluxedge.log.query import Query, query
from fluxedge.model import Lane
from fluxedge.permissions import Principal
from fluxedge.problems import LinkProblem
from tests.fluxedge.api.running import TrustedClock, config

UNUSABLE = {
    "empty, as a power cut leaves it": b"",
    "zeros": b"\0" * 12,
    "not text": b"\xff\xfe\x01",
    "not an id": b"Gateway One\n",
    "too long": b"g" * 65,
    "two lines": b"gw-1\ngw-2\n",
}

LOCAL = Principal("socket", "root", "admin")

# --- the gateway's name -----------------------------------------------------------------------------------------------


def test_a_name_is_made_up_once_and_kept(tmp_path: Path) -> None:
    name, why = gateway_id(tmp_path, None)
    assert re.fullmatch("gw-[0-9a-f]{8}", name)
    assert why == ""
    assert gateway_id(tmp_path, None) == (name, "")
    assert [path.name for path in tmp_path.iterdir()] == ["gateway-id"]


def test_a_given_name_is_used_and_the_made_up_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gateway-id").write_text("gw-1\n")
    assert gateway_id(tmp_path, "roof") == ("roof", "")
    assert gateway_id(tmp_path, None) == ("gw-1", "")


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_name_is_never_used_and_replaced_for_good(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway-id"
    path.write_bytes(content)
    name, why = gateway_id(tmp_path, None)
    assert re.fullmatch("gw-[0-9a-f]{8}", name)
    assert why.startswith(f"{path} ")
    assert gateway_id(tmp_path, None) == (name, "")


def test_the_name_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, bytes]] = []
    monkeypatch.setattr(app, "replace_file", lambda path, content: written.append((path, content)))
    name, _ = gateway_id(tmp_path, None)
    assert written == [(tmp_path / "gateway-id", f"{name}\n".encode())]  # by temporary file, fsync and rename


def test_a_name_that_cannot_be_read_or_kept_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "gateway-id").mkdir()
    with pytest.raises(LinkProblem, match="gateway-id: Is a directory"):
        gateway_id(tmp_path, None)
    with pytest.raises(LinkProblem, match="gateway-id: No such file or directory"):
        gateway_id(tmp_path / "none", None)


async def test_a_name_that_is_lost_is_the_one_under_which_the_log_was_sent(tmp_path: Path) -> None:
    nameless = msgspec.structs.replace(config(), gateway=msgspec.structs.replace(config().gateway, id=None))
    first = Gateway(nameless, tmp_path, TrustedClock())
    try:
        await first.start()
    finally:
        await first.stop()
    for content in (None, b"", b"no id!"):
        (tmp_path / "gateway-id").unlink()
        if content is not None:
            (tmp_path / "gateway-id").write_bytes(content)
        assert gateway_id(tmp_path, None) == (first.id, "")
        assert (tmp_path / "gateway-id").read_text() == f"{first.id}\n"
    (tmp_path / "log.db").write_bytes(b"garbage" * 1000)
    (tmp_path / "gateway-id").unlink()
    name, _ = gateway_id(tmp_path, None)
    assert name != first.id


async def test_a_damaged_log_is_salvaged_beside_the_running_gateway(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url="mqtt://127.0.0.1:1")}  # nobody listens there
    first = Gateway(config(uplinks=uplinks), tmp_path, TrustedClock())
    try:
        await first.start()
        batch = Batch()
        batch.intents.append(("open", first.log.now_ms(), b'{"device": "boiler-1", "point": "setpoint", "value": 1}'))
        await first.log.commit(batch)
        while first.log.committed_records < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    finally:
        await first.stop()
    (tmp_path / "log.broken").touch()
    second = Gateway(config(uplinks=uplinks), tmp_path, TrustedClock())
    try:
        await second.start()
        assert second.problems.stands("log", "log-damaged")
        found = await second.log.command_result("open")
        again = b'{"device": "boiler-1", "point": "setpoint", "value": 1, "key": "open"}'
        result = await second.commander.run(LOCAL, decode(again))
        assert found is not None
        assert (result.state, result.code) == ("unknown", "command-unknown"), "it is never repeated"
        async with asyncio.timeout(10):
            while "were saved" not in second.problems.of("log")[0].message:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [standing.code for standing in second.problems.of("log")] == ["log-damaged"]
        owed = dict(second.log.cursors.of("cloud", Lane.ROUNDS))
        assert list(owed[first.log.epoch]) == [(1, first.log.heads[Lane.ROUNDS])]
        assert owed[second.log.epoch]
    finally:
        await second.stop()


async def test_a_new_name_stands_as_a_problem_and_the_gateway_runs_under_it(tmp_path: Path) -> None:
    (tmp_path / "gateway-id").write_bytes(b"")
    nameless = msgspec.structs.replace(config(), gateway=msgspec.structs.replace(config().gateway, id=None))
    gateway = Gateway(nameless, tmp_path, TrustedClock())
    try:
        await gateway.start()
        (standing,) = gateway.problems.of("gateway")
        assert standing.code == "id-replaced"
        assert standing.message == f"{tmp_path}/gateway-id is empty; this gateway is now {gateway.id}"
    finally:
        await gateway.stop()
    assert (tmp_path / "gateway-id").read_text() == f"{gateway.id}\n"


# --- the state directory ----------------------------------------------------------------------------------------------


def test_a_state_directory_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nope")):
        with pytest.raises(LinkProblem, match=f"the state directory cannot be used: {path}: ") as caught:
            make_state_dir(path)
        assert "--state" in caught.value.hint
        with pytest.raises(LinkProblem):
            Gateway(Config(), path, TrustedClock())


# --- apply ------------------------------------------------------------------------------------------------------------


def modbus(port: int, every_s: float) -> Config:
    """Return one meter on a TCP channel."""
    driver = DriverCfg(
        id="meter", name="Meter", protocol="modbus", source="none", options=ModbusOptionsCfg(),
        points={"level": ModbusPointCfg(at="ir:7", type="uint16")},
    )  # fmt: skip
    return Config(
        channels={"line": ChannelCfg(url=f"tcp://127.0.0.1:{port}")},
        devices={"m1": DeviceCfg(driver="meter", channel="line", every_s=Seconds(every_s))},
        drivers={"meter": driver},
    )


async def test_what_cannot_be_made_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        gateway = Gateway(modbus(port, 0.1), tmp_path, TrustedClock())
        try:
            await gateway.start()
            before = gateway.config, dict(gateway.protocols), dict(gateway.pollers)

            def refuse(*_: object) -> None:
                raise OSError(24, "Too many open files")

            with monkeypatch.context() as broken:
                broken.setattr(app, "open_channel", refuse)
                other = msgspec.structs.replace(
                    modbus(port, 0.2), channels={"line": ChannelCfg(url=f"tcp://127.0.0.1:{port}", label="new")}
                )
                with pytest.raises(OSError, match="Too many open files"):
                    await gateway.apply(other)
            assert (gateway.config, gateway.protocols, gateway.pollers) == before
            steps = await gateway.apply(other)
            assert (steps.started, steps.stopped) == (["channel:line", "device:m1"], ["channel:line", "device:m1"])
        finally:
            await gateway.stop()


# --- stop -------------------------------------------------------------------------------------------------------------


async def test_a_stop_commits_every_round_that_was_taken(tmp_path: Path) -> None:
    cfg = msgspec.structs.replace(config(), log=msgspec.structs.replace(config().log, commit_s=Seconds(60)))
    gateway = Gateway(cfg, tmp_path, TrustedClock())
    await gateway.start()
    async with asyncio.timeout(10):
        while gateway.pipeline.rounds_total < 10:  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)
    await gateway.stop()
    assert gateway.pipeline.rounds_total >= 10
    assert len([r async for r in query(tmp_path / "log.db", Query())]) == gateway.pipeline.rounds_total


async def test_a_stop_says_what_was_in_memory_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(config(), tmp_path, TrustedClock())
    await gateway.start()
    close = gateway.log.close

    async def close_without_a_disk() -> None:
        await close()
        monkeypatch.setattr(gateway.log, "memory", object())

    monkeypatch.setattr(gateway.log, "close", close_without_a_disk)
    await gateway.stop()
    assert "records were in memory only: they are lost" in caplog.text
