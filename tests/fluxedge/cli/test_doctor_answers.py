"""Asking a gateway in any condition."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.cli import doctor_answers
from fluxedge.cli.doctor_answers import WANTED, ask_daemon, metrics
from tests.fluxedge.api.running import Running


async def test_a_gateway_that_runs_answers_everything_and_is_known_by_its_pid(run: Running) -> None:
    found = await asyncio.to_thread(ask_daemon, run.socket, ("config", "queue"))
    assert (found.state, found.pid, found.missing) == ("answers", os.getpid(), {})
    assert set(found.answers) == {*WANTED, "config", "queue"}
    assert "fluxedge_" in await asyncio.to_thread(metrics, run.socket)


async def test_what_it_refuses_is_missing_and_the_rest_is_there(run: Running) -> None:
    found = await asyncio.to_thread(ask_daemon, run.socket, ("no-such-route",))
    assert (found.state, found.missing) == ("answers", {"no-such-route": "HTTP 404"})
    assert set(found.answers) == set(WANTED)


def test_no_socket_is_a_gateway_that_does_not_run(tmp_path: Path) -> None:
    assert ask_daemon(tmp_path / "api.sock").why == f"no socket at {tmp_path / 'api.sock'}"
    (tmp_path / "file").write_text("")
    assert ask_daemon(tmp_path / "file" / "api.sock").state == "absent"
    with pytest.raises(OSError):
        metrics(tmp_path / "api.sock")


def test_a_socket_that_a_dead_gateway_left_is_one_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "api.sock"))
    assert ask_daemon(tmp_path / "api.sock").why.startswith("nobody listens")


@contextlib.contextmanager
def peer(path: Path, words: bytes, close: bool) -> Iterator[None]:
    """Serve one client with `words`; then close, or hold it until it goes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(words)
                while not close and client.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: "


@pytest.mark.parametrize(
    ("words", "close", "state"),
    [
        (b"", False, "silent"),
        (b"", True, "broken"),
        (b"SSH-2.0-OpenSSH\r\n", True, "broken"),
        (OK + b"8\r\n\r\nnot json", True, "broken"),
        (OK + b"100\r\n\r\n{", True, "broken"),
        (OK + b"100\r\n\r\n{", False, "silent"),
    ],
)
def test_a_gateway_that_hangs_or_talks_nonsense_does_not_hold_the_doctor_up(
    tmp_path: Path, words: bytes, close: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_answers, "ASK_S", 0.5)
    with peer(tmp_path / "api.sock", words, close):
        found = ask_daemon(tmp_path / "api.sock")
    assert (found.state, found.answers) == (state, {})
    assert found.why


def test_a_socket_of_others_is_forbidden_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_answers.UnixConnection, "connect", refuse)
    assert ask_daemon(tmp_path / "api.sock").state == "forbidden"
