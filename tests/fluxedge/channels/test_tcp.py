"""TCP channels: opening, what its failures mean, socket options."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest
import uvloop

from fluxedge.channels import open_channel, tcp
from fluxedge.channels.tcp import connect_problem
from fluxedge.clock import SystemClock
from fluxedge.config.structs import ChannelCfg
from fluxedge.config.urls import ChannelUrl
from fluxedge.problems import LinkProblem


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_closed_port_is_refused_with_a_hint() -> None:
    port = unused_port()
    channel = open_channel("c1", ChannelCfg(url=f"tcp://127.0.0.1:{port}"), SystemClock())
    with pytest.raises(LinkProblem) as caught:
        await channel.open()
    assert caught.value.code == "link-refused"
    assert caught.value.message == f"nothing listens on 127.0.0.1:{port}"
    assert "port number" in caught.value.hint
    await channel.close()


async def test_a_peer_that_does_not_answer_a_connect_is_unreachable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with contextlib.ExitStack() as fillers:  # a full backlog: the kernel drops further connects silently
            for _ in range(4):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            cfg = ChannelCfg(url=f"tcp://127.0.0.1:{port}", connect_timeout_s=0.1)
            channel = open_channel("c1", cfg, SystemClock())
            with pytest.raises(LinkProblem) as caught:
                await channel.open()
    assert caught.value.code == "link-unreachable"
    assert "within 0.1 s" in caught.value.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "link-refused"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "link-unreachable"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "link-unreachable"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "link-unreachable"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "link-unreachable"),
        (OSError(errno.EACCES, "Permission denied"), "link-down"),
    ],
)
def test_errors_of_connect_become_problems(error: OSError, code: str) -> None:
    problem = connect_problem("192.0.2.1:502", error)
    assert problem.code == code
    assert "192.0.2.1:502" in problem.message


async def test_the_socket_notices_a_peer_that_is_gone() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        cfg = ChannelCfg(url=f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        channel = open_channel("c1", cfg, SystemClock())
        link = await channel.open()
        assert link._transport is not None
        sock = link._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        await channel.close()


async def test_a_name_that_cannot_be_resolved_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    channel = open_channel("c1", ChannelCfg(url="tcp://meter.invalid"), SystemClock())
    with pytest.raises(LinkProblem, match="cannot be resolved") as caught:
        await channel.open()
    assert caught.value.code == "link-unreachable"


async def test_the_second_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        async def two(*_: object, **__: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", unused_port())),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo
        monkeypatch.setattr(
            loop, "getaddrinfo", lambda host, *a, **k: two() if host == "meter" else resolve(host, *a, **k)
        )
        channel = open_channel("c1", ChannelCfg(url=f"tcp://meter:{port}"), SystemClock())
        link = await channel.open()
        assert link._transport is not None
        assert link._transport.get_extra_info("peername")[1] == port
        await channel.close()


def test_refusal_is_told_the_same_on_uvloop() -> None:
    async def refused() -> None:
        channel = open_channel("c1", ChannelCfg(url=f"tcp://127.0.0.1:{unused_port()}"), SystemClock())
        with pytest.raises(LinkProblem, match="link-refused"):
            await channel.open()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(refused())


async def test_a_name_that_the_resolver_cannot_even_encode_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_args: object, **_kwargs: object) -> list[object]:
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse, raising=False)
    url = ChannelUrl("tcp", "plc..local", 502)
    channel = tcp.TcpChannel("c", url, ChannelCfg(url="tcp://127.0.0.1"), SystemClock())
    with pytest.raises(LinkProblem, match="label empty or too long") as caught:
        await channel.open()
    assert caught.value.code == "link-unreachable"
