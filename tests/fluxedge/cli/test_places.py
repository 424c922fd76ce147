"""Where a verb looks: what was said, then the environment, then what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.cli import places


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FLUXEDGE_CONFIG", "FLUXEDGE_STATE", "FLUXEDGE_SOCKET", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(places, "SOCKET", tmp_path / "run" / "api.sock")


def test_what_is_said_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUXEDGE_CONFIG", "FLUXEDGE_STATE", "FLUXEDGE_SOCKET"):
        monkeypatch.setenv(name, "/environment")
    said = Path("/said")
    assert {places.config_dir(said), places.state_dir(said), places.socket_path(said, None)} == {said}
    environment = Path("/environment")
    assert {places.config_dir(None), places.state_dir(None), places.socket_path(None, said)} == {environment}


def test_systemd_names_the_state_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/fluxedge")
    assert places.state_dir(None) == Path("/var/lib/fluxedge")


@pytest.mark.parametrize(("user", "state"), [(0, "/var/lib/fluxedge"), (1000, "/home/me/.local/state/fluxedge")])
def test_everybody_but_root_keeps_the_state_at_home(monkeypatch: pytest.MonkeyPatch, user: int, state: str) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/me")
    assert places.state_dir(None) == Path(state)


def test_the_services_socket_is_taken_unless_a_state_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    assert places.socket_path(None, state) == state / "api.sock"
    places.SOCKET.parent.mkdir()
    places.SOCKET.touch()
    assert places.socket_path(None, None) == places.SOCKET
    assert places.socket_path(None, state) == state / "api.sock"
    monkeypatch.setenv("FLUXEDGE_STATE", str(state))
    assert places.socket_path(None, None) == state / "api.sock"
