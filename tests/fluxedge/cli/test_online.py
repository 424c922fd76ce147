"""The client of the running gateway: what it says when there is none."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from fluxedge.cli.main import NOT_PERMITTED, NOT_RUNNING
from fluxedge.permissions import Principal
from tests.fluxedge.api.running import Running
from tests.fluxedge.cli.conftest import verb

ONLINE = (
    ("status",), ("points",), ("watch",), ("queue",), ("reload",), ("write", "boiler-1.pump", "on"),
)  # fmt: skip


@pytest.mark.parametrize("words", ONLINE, ids=lambda words: words[0])
async def test_every_verb_says_how_to_start_a_gateway_that_does_not_run(words: tuple[str, ...], tmp_path: Path) -> None:
    done = await verb(words[0], "--state", str(tmp_path), *words[1:])
    assert done.exit_code == NOT_RUNNING
    assert f"fluxedge does not run (no socket at {tmp_path}/api.sock)." in done.stderr
    assert "systemctl start fluxedge" in done.stderr
    assert done.stdout == ""


async def test_a_socket_that_a_dead_gateway_left_is_no_gateway(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    done = await verb("status", "--state", str(tmp_path))
    assert done.exit_code == NOT_RUNNING
    assert "nobody listens" in done.stderr


async def test_a_gateway_that_hangs_up_is_told_in_words(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "api.sock"):
        done = await verb("status", "--state", str(tmp_path))
    assert done.exit_code == 1
    assert f"fluxedge closed the connection at {tmp_path}/api.sock." in done.stderr
    assert "as many clients as it takes" in done.stderr


async def test_a_defect_of_the_gateway_is_told_in_words(run: Running, say, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NameError("a defect")

    monkeypatch.setattr("fluxedge.api.standing.log", fail)
    done = await say("status")
    assert done.exit_code == 1
    assert done.stderr == (
        "the gateway could not answer: that is a defect of fluxedge.\n"
        "The traceback is in its journal. Please report it.\n"
    )


@pytest.mark.parametrize("words", [("reload",), ("write", "boiler-1.pump", "on")], ids=lambda words: words[0])
async def test_a_viewer_is_told_how_to_become_more(run: Running, say, monkeypatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr(run.api, "identify", lambda http: Principal("peer", "uid 7 (anna)", "viewer"))
    done = await say(*words)
    assert done.exit_code == NOT_PERMITTED
    assert "uid 7 (anna) may not" in done.stderr
    assert "usermod -aG fluxedge" in done.stderr


async def test_the_socket_may_be_named_by_the_environment(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXEDGE_SOCKET", str(run.socket))
    done = await verb("status", "--json")
    assert json.loads(done.stdout)["gateway"]["id"] == "gw-test"


async def test_the_state_directory_leads_to_the_socket(run: Running) -> None:
    done = await verb("points", "boiler-1.*", "--state", str(run.socket.parent), "--json")
    assert {point["device"] for point in json.loads(done.stdout)} == {"boiler-1"}
