"""A verb connects to brokers of either version."""

from __future__ import annotations

import asyncio

import pytest

from fluxedge.cli import broker
from fluxedge.mqtt import Settings
from fluxedge.problems import LinkProblem
from tests.conftest import Mosquitto, free_port


async def test_mqtt_5_is_spoken_where_it_is_known(broker_port: int) -> None:
    session = await broker.connect(Settings(host="127.0.0.1", port=broker_port, client_id="a"))
    assert session.running
    await session.close()


@pytest.mark.parametrize("manner", ["refuses", "hangs up", "says nothing"])
async def test_a_broker_that_knows_3_1_1_only_is_asked_again(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "FIRST_CONNECT_S", 0.3)
    levels: list[int] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(9)  # fixed header 2, protocol name 6, level 1
        levels.append(head[8])
        if head[8] == 4:
            writer.write(b"\x20\x02\x00\x00")
        elif manner == "refuses":
            writer.write(b"\x20\x02\x00\x01")
        elif manner == "hangs up":
            writer.close()
        await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        session = await broker.connect(Settings(host="127.0.0.1", port=port, client_id="a", close_s=0.1))
        assert session.running
        await session.close()
        await done.wait()
    assert levels == [5, 4]


async def test_a_broker_that_is_not_there_is_reported_once() -> None:
    with pytest.raises(LinkProblem, match="refused") as caught:
        await broker.connect(Settings(host="127.0.0.1", port=free_port(), client_id="a"))
    assert caught.value.code == "uplink-down"


@pytest.fixture(name="broker_port")
def _broker_port(broker: Mosquitto) -> int:
    return broker.port
