"""Who asks: the unix socket's peer by its credentials, everybody on TCP as a viewer.

The kernel notes user, group and supplementary groups of a peer when it connects (SO_PEERCRED, SO_PEERGROUPS); nothing
is looked up by process id, which could have been given to somebody else in the meantime.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import socket
import struct
import typing
from dataclasses import dataclass

from fluxedge.permissions import Principal

GROUP = "fluxedge"  # its members may do everything
_SO_PEERGROUPS = 59  # <asm-generic/socket.h>; Python has no name for it
_UCRED = struct.Struct("3i")  # pid, uid, gid
_MOST_BYTES = 1024  # of an answer, by Python's getsockopt: 256 groups; with more, only the primary one counts


class Peered(typing.Protocol):
    """What is needed of a socket; uvloop's is no socket.socket."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom the kernel saw connecting."""

    uid: int
    gids: frozenset[int]


def peer_credentials(peer: Peered) -> Credentials:
    """Return the credentials of a unix socket's peer.

    Raises:
        OSError: the connection is gone.
    """
    _, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        groups = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError:  # more than 256 groups, or a kernel before 4.13
        groups = b""
    return Credentials(uid, frozenset({gid, *struct.unpack(f"{len(groups) // 4}I", groups)}))


class Doorkeeper:
    """Name the principal of a connection."""

    def __init__(self, group: str = GROUP) -> None:
        self._own_uid = os.geteuid()
        self._admin_gid: int | None = None
        with contextlib.suppress(KeyError):
            self._admin_gid = grp.getgrnam(group).gr_gid
        self._names: dict[int, str] = {}

    def of_peer(self, peer: Peered) -> Principal:
        """Return who is at the other end of a unix socket.

        Raises:
            OSError: the connection is gone.
        """
        found = peer_credentials(peer)
        trusted = found.uid in (0, self._own_uid) or self._admin_gid in found.gids
        return Principal("peer", f"uid {found.uid}{self._name(found.uid)}", "admin" if trusted else "viewer")

    def of_tcp(self, address: str) -> Principal:
        """Return who asks over TCP: without users there is no way to tell, so nobody may change anything."""
        return Principal("tcp", f"tcp {address}", "viewer")

    def _name(self, uid: int) -> str:
        if uid not in self._names:
            try:
                self._names[uid] = f" ({pwd.getpwuid(uid).pw_name})"
            except KeyError:
                self._names[uid] = ""
        return self._names[uid]
