"""Who asks, as the kernel tells."""

from __future__ import annotations

import os
import socket
import struct

from fluxedge.api.principals import Doorkeeper, peer_credentials


def test_the_kernels_word_is_taken() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = peer_credentials(ours)
    assert found.uid == os.geteuid()
    assert found.gids >= {os.getegid(), *os.getgroups()}


class Peer:
    """A socket whose peer is somebody else."""

    def __init__(self, uid: int, gid: int, groups: bytes | None) -> None:
        self._ucred, self._groups = struct.pack("3i", 1, uid, gid), groups

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        if option == socket.SO_PEERCRED:
            return self._ucred
        if self._groups is None:
            raise OSError(34, "Numerical result out of range")
        return self._groups


def test_supplementary_groups_count_and_too_many_of_them_do_not_break() -> None:
    assert peer_credentials(Peer(7, 8, struct.pack("2I", 9, 10))).gids == {8, 9, 10}
    assert peer_credentials(Peer(7, 8, None)).gids == {8}


def test_root_and_members_of_the_group_are_admins_everybody_else_looks_on() -> None:
    keeper = Doorkeeper(group="root")  # gid 0 on every system
    keeper._own_uid = 999
    assert keeper.of_peer(Peer(0, 5, b"")).role == "admin"
    assert keeper.of_peer(Peer(999, 5, b"")).role == "admin"
    assert keeper.of_peer(Peer(7, 5, struct.pack("I", 0))).role == "admin"
    assert keeper.of_peer(Peer(7, 5, b"")).role == "viewer"
    assert keeper.of_tcp("10.0.0.1").role == "viewer"


def test_without_the_group_only_root_and_the_daemons_user_are_admins() -> None:
    keeper = Doorkeeper(group="there-is-no-such-group")
    keeper._own_uid = 999
    assert keeper.of_peer(Peer(7, 5, struct.pack("I", 5))).role == "viewer"


def test_a_principal_is_named_by_number_and_name() -> None:
    assert str(Doorkeeper().of_peer(Peer(0, 0, b""))) == "uid 0 (root)"
    assert str(Doorkeeper().of_peer(Peer(3_999_999, 0, b""))).startswith("uid 3999999")
