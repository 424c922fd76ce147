"""Looking at serial ports, without opening them."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.config.structs import ChannelCfg
from fluxedge.doctor import wires


@pytest.fixture
def port() -> Iterator[str]:
    """A tty that this process holds open."""
    ours, theirs = pty.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def channels(path: str) -> dict[str, ChannelCfg]:
    return {"bus": ChannelCfg(url=f"serial://{path}?baud=9600"), "net": ChannelCfg(url="tcp://192.0.2.1:502")}


def test_a_port_in_use_names_who_has_it_open(port: str) -> None:
    (found,) = wires.ports(channels(port))
    assert (found.channel, found.path, found.exists, found.is_tty) == ("bus", port, True, True)
    assert any(f"(pid {os.getpid()})" in holder for holder in found.holders)


def test_the_gateway_itself_is_no_stranger_at_its_port(port: str) -> None:
    (found,) = wires.ports(channels(port), daemon_pid=os.getpid())
    assert not any(f"(pid {os.getpid()})" in holder for holder in found.holders)


def test_a_link_to_a_port_is_followed(port: str, tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to(port)
    (found,) = wires.ports(channels(str(tmp_path / "by-id")))
    assert found.holders


def test_a_port_that_is_missing_or_a_file_is_said(tmp_path: Path) -> None:
    (missing,) = wires.ports(channels(str(tmp_path / "ttyUSB9")))
    assert missing.exists is False
    (tmp_path / "file").write_text("")
    (file,) = wires.ports(channels(str(tmp_path / "file")))
    assert file.is_tty is False


def test_processes_of_others_are_unseen_not_absent(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "812/fd").mkdir(parents=True)

    def forbidden(path: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(wires.os, "scandir", forbidden)
    (found,) = wires.ports(channels(port), proc=tmp_path)
    assert (found.holders, found.holders_unseen) == ((), True)


def test_a_process_that_ends_meanwhile_is_no_matter(port: str, tmp_path: Path) -> None:
    (tmp_path / "812").mkdir()
    (found,) = wires.ports(channels(port), proc=tmp_path)
    assert (found.holders, found.holders_unseen) == ((), False)


def test_the_permission_bits_keep_a_user_out(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "SERVICE_USER", "nobody")
    os.chmod(port, 0o600)
    (found,) = wires.ports(channels(port))
    assert found.blocked == "nobody"
    os.chmod(port, 0o666)
    assert wires.ports(channels(port))[0].blocked == ""


def test_without_the_service_user_root_may_everything(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "SERVICE_USER", "no-such-user")
    os.chmod(port, 0)
    (found,) = wires.ports(channels(port))
    assert found.blocked == ("" if os.geteuid() == 0 else f"uid {os.geteuid()}")
