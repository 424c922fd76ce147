"""TCP channels: Modbus TCP, and RTU frames over TCP (serial device servers, transparent gateways)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import typing

from fluxedge.channels.link import LineTiming, Link, WireChannel
from fluxedge.clock import Clock
from fluxedge.config.structs import ChannelCfg
from fluxedge.config.urls import ChannelUrl
from fluxedge.problems import LinkProblem

RESYNC_S = 0.05  # of silence after an unanswered RTU request over TCP; a guess: several segments of one reply
USER_TIMEOUT_MS = 20_000  # sent data unacknowledged for longer: the peer is gone (TCP_USER_TIMEOUT)
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 30, 10, 3  # an idle half-open connection ends in a minute

_CLOSED_HINT = "The device may permit few connections; close other programs that are connected to it."
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT})
Address = tuple[socket.AddressFamily, str, int]


class TcpChannel(WireChannel):
    """One TCP connection, opened by us."""

    def __init__(self, channel_id: str, url: ChannelUrl, cfg: ChannelCfg, clock: Clock) -> None:
        super().__init__(channel_id, url.framing)
        self._host = url.host
        self._port = url.port
        self._peer = url.endpoint
        self._connect_timeout_s = float(cfg.connect_timeout_s)
        self._timing = LineTiming(gap_s=float(cfg.pause_s), resync_s=0.0 if url.framing == "tcp" else RESYNC_S)
        self._clock = clock

    async def _connect(self) -> Link:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect_any(await self._resolve())
        except TimeoutError as exc:
            if exc.errno is not None:  # ETIMEDOUT: the kernel gave up before us
                raise connect_problem(self._peer, exc) from exc
            raise LinkProblem(
                "link-unreachable",
                f"{self._peer} did not answer within {self._connect_timeout_s:g} s",
                "Check power, cabling, the address and firewalls on the way.",
            ) from exc
        except OSError as exc:
            raise connect_problem(self._peer, exc) from exc

    async def _resolve(self) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as exc:  # the codec "idna" refuses the name before anybody is asked
            raise LinkProblem(
                "link-unreachable", f"the name in {self._peer} cannot be one: {exc}", "Correct the channel's URL."
            ) from exc
        return list(dict.fromkeys((info[0], str(info[4][0]), int(info[4][1])) for info in found))

    async def _connect_any(self, addresses: list[Address]) -> Link:
        """Try one address after the other: the error of the first one is the one that tells most."""
        loop = asyncio.get_running_loop()
        first: OSError | None = None
        for family, host, port in addresses:
            try:
                transport, link = await loop.create_connection(self._link_of, host, port, family=family)
            except OSError as exc:
                first = first or exc
            else:
                try:
                    tune(typing.cast(socket.socket, transport.get_extra_info("socket")))
                except OSError:  # reset in the instant after it was opened
                    transport.abort()
                    raise
                return link
        raise first or OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    def _link_of(self) -> Link:
        return Link(self._peer, self._clock, self.tally, self._timing, _CLOSED_HINT)


def tune(sock: socket.socket) -> None:
    """Send small requests at once and notice a peer that is gone. (asyncio sets TCP_NODELAY only on some loops.)"""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def connect_problem(peer: str, exc: OSError) -> LinkProblem:
    """Say what a failed connect means and what to do."""
    if isinstance(exc, socket.gaierror):
        return LinkProblem(
            "link-unreachable",
            f"the name in {peer} cannot be resolved: {exc.strerror}",
            "Check the spelling and the machine's DNS settings, or write the address.",
        )
    if exc.errno == errno.ECONNREFUSED:
        return LinkProblem(
            "link-refused",
            f"nothing listens on {peer}",
            "The machine is there but the port is closed: check the port number and that the device's server is on.",
        )
    if exc.errno in _UNREACHABLE:
        return LinkProblem(
            "link-unreachable",
            f"{peer} cannot be reached: {exc.strerror or exc}",
            "Check power, cabling, the address, the subnet mask and the gateway in between.",
        )
    return LinkProblem("link-down", f"{peer} cannot be connected: {exc.strerror or exc}")
