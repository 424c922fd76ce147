"""The demo's broker: an installed Mosquitto is preferred, amqtt is the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.cli import broker, demo_broker
from fluxedge.cli.demo_child import Child, free_port, wait_for_port
from fluxedge.mqtt import Incoming, Settings
from tests.fluxedge.cli.sites import until


def test_mosquitto_is_preferred_and_listens_on_the_loopback_only(tmp_path: Path) -> None:
    kind = demo_broker.choose(tmp_path, 4711)
    assert kind is not None
    assert (kind.name, kind.version) == ("Mosquitto", "5")
    assert "listener 4711 127.0.0.1" in (tmp_path / "mosquitto.conf").read_text().splitlines()


def test_amqtt_is_used_where_there_is_no_mosquitto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(demo_broker, "MOSQUITTO_PLACES", str(tmp_path))
    kind = demo_broker.choose(tmp_path, 4711)
    assert kind is not None
    assert (kind.name, kind.version) == ("amqtt", "3.1.1")


def test_a_broker_that_is_not_installed_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_broker.importlib.util, "find_spec", lambda name: None)
    assert demo_broker.choose(tmp_path, 4711, "amqtt") is None


async def test_amqtt_carries_messages_and_ends_at_sigterm(tmp_path: Path) -> None:
    kind = demo_broker.choose(tmp_path, port := free_port(), "amqtt")
    assert kind is not None
    child = Child("broker", kind.command, tmp_path / "log")
    came: list[Incoming] = []
    try:
        await wait_for_port(child, port)
        settings = Settings(host="127.0.0.1", port=port, client_id="a", version=kind.version)
        session = await broker.connect(settings, came.append)
        await session.subscribe("a/#")
        await session.publish("a/b", b"hello")
        await until(lambda: came)
        await session.close()
        child.check()
    finally:
        await child.stop()
    assert [message.payload for message in came] == [b"hello"]
