"""The guard, the sockets and the principals of the API."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from fluxedge.api import ApiServer
from fluxedge.api.principals import Credentials
from fluxedge.api.table import ROUTES
from fluxedge.commands import Request, Result
from fluxedge.permissions import Principal
from fluxedge.problems import LinkProblem
from tests.fluxedge.api.running import Running, config, running


async def test_every_route_that_is_served_is_a_row_of_the_table(run: Running) -> None:
    assert run.api._runner is not None
    routes = run.api._runner.app.router.routes()
    served = {(route.method, route.resource.canonical) for route in routes if route.resource}
    assert served == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_every_route_refuses_somebody_without_rights(run: Running, route, monkeypatch) -> None:
    monkeypatch.setattr(run.api, "identify", lambda http: Principal("peer", "uid 7", "nobody"))
    body = {"device": "boiler-1", "point": "pump", "value": True} if route.method == "POST" else None
    reply = await run.ask(route.method, route.path.replace("{id}", "boiler-1.pump"), body)
    assert reply.status == 403
    assert reply.json["code"] == "not-permitted"
    assert "uid 7 may not" in reply.json["message"]


@pytest.mark.parametrize(
    ("uid", "gids", "role"),
    [
        (0, {0}, "admin"),
        (4242, {4242}, "viewer"),
        (4242, {4242, 990}, "admin"),
    ],
)
async def test_the_kernel_says_who_asks(run: Running, monkeypatch, uid: int, gids: set[int], role: str) -> None:
    monkeypatch.setattr("fluxedge.api.principals.peer_credentials", lambda peer: Credentials(uid, frozenset(gids)))
    monkeypatch.setattr(run.api.doorkeeper, "_own_uid", 1)
    monkeypatch.setattr(run.api.doorkeeper, "_admin_gid", 990)
    assert (await run.ask("GET", "/api/v1/version")).status == 200
    reply = await run.ask("POST", "/api/v1/commands", {"device": "boiler-1", "point": "pump", "value": True})
    assert reply.status == (200 if role == "admin" else 403)
    if role == "viewer":
        assert "usermod -aG fluxedge" in reply.json["hint"]


async def test_the_daemons_own_user_is_an_admin(run: Running) -> None:
    reply = await run.ask("POST", "/api/v1/commands", {"device": "boiler-1", "point": "pump", "value": True})
    assert reply.json["state"] == "done"


async def test_nobody_over_tcp_may_change_anything(tmp_path: Path) -> None:
    async with running(tmp_path, config(listen="127.0.0.1:0")) as run, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{run.api.tcp_port}"
        async with http.get(f"{base}/api/v1/status") as reply:
            assert reply.status == 200
        for path in ("commands", "reload"):
            async with http.post(f"{base}/api/v1/{path}", json={}) as reply:
                assert reply.status == 403
                assert (await reply.json())["message"].startswith("tcp 127.0.0.1 may not")


async def test_a_browser_that_was_led_here_under_another_name_gets_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, config(listen="127.0.0.1:0")) as run, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{run.api.tcp_port}/api/v1/status"
        async with http.get(url, headers={"Host": f"evil.example:{run.api.tcp_port}"}) as reply:
            assert reply.status == 403


async def test_a_tcp_address_in_use_is_a_problem_and_the_socket_goes_on(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with running(tmp_path, config(listen=listen)) as run:
            assert (await run.ask("GET", "/api/v1/version")).status == 200
            assert [standing.code for standing in run.gateway.problems.of("api")] == ["api-unavailable"]


async def test_the_socket_is_for_owner_and_group_only_and_goes_with_the_gateway(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert stat.S_IMODE(run.socket.stat().st_mode) == 0o660
    assert not [name for name in os.listdir(tmp_path) if name.startswith("api")]


async def test_a_dead_gateways_socket_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    async with running(tmp_path) as run:
        assert (await run.ask("GET", "/api/v1/version")).status == 200


async def test_a_live_gateways_socket_is_left_alone(run: Running) -> None:
    second = ApiServer(run.gateway, run.socket, "", run.gateway.owner.spawn, Request, Result)
    with pytest.raises(LinkProblem, match="another fluxedge runs there"):
        await second.start()
    await second.stop()
    assert (await run.ask("GET", "/api/v1/version")).status == 200


async def test_a_file_in_the_sockets_place_is_not_removed(run: Running, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(LinkProblem, match="is no socket"):
        await ApiServer(run.gateway, path, "", run.gateway.owner.spawn, Request, Result).start()
    assert path.read_text() == "data"


async def test_an_unknown_path_and_a_wrong_method_are_explained(run: Running) -> None:
    missing = await run.ask("GET", "/api/v1/pionts")
    assert (missing.status, missing.json["code"]) == (404, "not-found")
    assert "openapi.json" in missing.json["hint"]
    wrong = await run.ask("DELETE", "/api/v1/points")
    assert (wrong.status, wrong.json["code"]) == (405, "wrong-method")


async def test_a_huge_body_is_refused(run: Running) -> None:
    reply = await run.ask("POST", "/api/v1/commands", b"x" * 100_000)
    assert (reply.status, reply.json["code"]) == (400, "bad-request")


async def test_stopping_ends_live_streams_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.first_round()
        connector = aiohttp.UnixConnector(str(run.socket))
        async with aiohttp.ClientSession(connector=connector) as http, http.get("http://x/api/v1/live") as reply:
            await reply.content.readline()
            async with asyncio.timeout(5):
                await run.api.stop()
                while await reply.content.readline():
                    pass
