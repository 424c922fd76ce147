"""Gathering: a configuration directory, and what may not be read of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fluxedge.config.load import Layout
from fluxedge.doctor import gather as module
from fluxedge.doctor.facts import Daemon, Facts
from fluxedge.doctor.gather import gather
from tests.fluxedge.cli.sites import Folder

ABSENT = Daemon("/nonexistent/api.sock", "absent", "no socket")


def nobody(command: Sequence[str]) -> tuple[int, str]:
    return 2, ""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path)
    found.write(
        "fluxedge.toml",
        """
        [uplinks.cloud]
        url = "mqtts://b.invalid"
        username = "u"
        password = "broker"
        """,
    )
    found.write("credentials/broker", "s3cret-of-the-broker\n")
    (found.etc / "credentials/broker").chmod(0o640)
    return found


@pytest.fixture
def see(folder: Folder, tmp_path: Path) -> Callable[..., Facts]:
    def look(daemon: Daemon = ABSENT) -> Facts:
        return gather(Layout(folder.etc, folder.state), folder.state, daemon, 256, tmp_path / "root", nobody)[0]

    return look


def closed_to_us(monkeypatch: pytest.MonkeyPatch, *closed: Path) -> None:
    """Make folders closed, also to root."""
    listed = os.listdir

    def listdir(path: str | Path) -> list[str]:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(module.os, "listdir", listdir)


def test_everything_is_gathered_from_a_stopped_gateway(see: Callable[..., Facts]) -> None:
    found = see()
    cfg = found.configuration
    assert (cfg.uplinks, cfg.devices, cfg.mistakes, cfg.last_good, cfg.unseen) == (1, 0, (), "none", "")
    assert cfg.free_space_bytes == 256 << 20
    assert [(reach.uplink, reach.failed) for reach in found.reach] == [("cloud", "name")]
    assert (found.unit.systemd, found.files.needed, found.files.limit) == (False, 257, None)


def test_mistakes_are_those_of_check(folder: Folder, see: Callable[..., Facts]) -> None:
    folder.write("devices/a.toml", '[devices.m]\ndriver = "nothing"\n')
    (mistake,) = see().configuration.mistakes
    assert mistake.startswith("devices/a.toml:2: devices.m.driver")


def test_what_a_user_may_not_read_is_no_mistake_of_the_files(
    folder: Folder, see: Callable[..., Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = folder.etc / "credentials"
    (credentials / "broker").unlink()  # as if it could not be read
    assert see().configuration.mistakes
    closed_to_us(monkeypatch, credentials)
    found = see()
    assert found.configuration.mistakes == ()
    assert found.configuration.left_out == {}
    assert str(credentials) in found.configuration.unseen
    assert [(reach.uplink, reach.failed) for reach in found.reach] == [("cloud", "name")]


def test_a_closed_state_directory_is_said_and_the_files_are_checked_all_the_same(
    folder: Folder, see: Callable[..., Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_to_us(monkeypatch, folder.state)
    cfg = see().configuration
    assert (cfg.last_good, cfg.mistakes, cfg.uplinks) == ("unseen", (), 1)
    assert str(folder.state) in cfg.unseen


def test_brokers_that_only_the_gateway_knows_are_tried_too(see: Callable[..., Facts]) -> None:
    uplinks = [{"id": "cloud", "url": ["mqtts://b.invalid"]}, {"id": "old", "url": ["mqtt://c.invalid", "nonsense"]}]
    found = see(Daemon("s", "answers", answers={"uplinks": uplinks}))
    assert [(reach.uplink, reach.url) for reach in found.reach] == [
        ("cloud", "mqtts://b.invalid"),
        ("old", "mqtt://c.invalid"),
    ]


def test_who_asks_has_a_name_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.user()

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(module.getpass, "getuser", nameless)
    assert module.user() == f"uid {os.geteuid()}"
