"""Addresses of the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.api.sockets import is_loopback_name, open_unix, parse_listen, remove_unix, socket_path
from fluxedge.problems import ConfigProblem, LinkProblem


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)), ("0.0.0.0:0", ("0.0.0.0", 0))],
)
def test_an_address_with_port_is_understood(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["8080", "localhost:8080", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", ":80"])
def test_anything_else_is_a_mistake_with_a_remedy(text: str) -> None:
    with pytest.raises(ConfigProblem) as problem:
        parse_listen(text)
    assert "127.0.0.1:8080" in problem.value.hint


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True), ("localhost:8080", True), ("127.0.0.1:8080", True), ("127.9.9.9", True),
        ("[::1]", True), ("[::1]:80", True), ("evil.example", False),
        ("evil.example:8080", False), ("127.0.0.1.evil.example", False),
        ("192.168.1.5:8080", False), ("", False),
    ],
)  # fmt: skip
def test_names_that_mean_this_machine(host: str, ours: bool) -> None:
    assert is_loopback_name(host) is ours


def test_the_socket_goes_where_systemd_or_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert socket_path("", tmp_path) == tmp_path / "api.sock"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/fluxedge")
    assert socket_path("", tmp_path) == Path("/run/fluxedge/api.sock")
    assert socket_path("/tmp/own.sock", tmp_path) == Path("/tmp/own.sock")


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(LinkProblem, match="longer than"):
        open_unix(tmp_path / ("x" * 120))


def test_a_socket_that_somebody_else_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    first = open_unix(path)
    inode = path.lstat().st_ino
    first.close()
    second = open_unix(path)
    remove_unix(path, inode)
    assert path.exists()
    remove_unix(path, path.lstat().st_ino)
    second.close()
    assert not path.exists()
