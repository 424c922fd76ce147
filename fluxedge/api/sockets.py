"""Where the API listens: the unix socket, taken over from a dead gateway but never from a live one; TCP on request."""

from __future__ import annotations

import contextlib
import errno
import grp
import ipaddress
import os
import socket
import stat
from pathlib import Path

from fluxedge.api.principals import GROUP
from fluxedge.problems import ConfigProblem, LinkProblem

MODE = 0o660
_LONGEST_BYTES = 107  # sun_path of <sys/un.h> less its closing zero
RUNTIME_NAME = "api.sock"


def socket_path(wanted: str, state_dir: Path) -> Path:
    """Return where the unix socket goes: `[api] socket`, else systemd's runtime directory, else the state directory."""
    if wanted:
        return Path(wanted)
    runtime = os.environ.get("RUNTIME_DIRECTORY", "")  # systemd.exec(5), RuntimeDirectory=
    return Path(runtime.split(":")[0] or state_dir) / RUNTIME_NAME


def open_unix(path: Path) -> socket.socket:
    """Return a socket bound to `path`, mode 0660; a dead gateway's socket is replaced.

    It is bound under another name and renamed, so that nobody ever sees it with other permissions.

    Raises:
        LinkProblem: "api-unavailable": a gateway runs there, the path is no socket, or it cannot be made.
    """
    fresh = Path(f"{path}~")
    if len(os.fsencode(fresh)) > _LONGEST_BYTES:
        raise _unavailable(f"{path}: the path is longer than {_LONGEST_BYTES - 1} bytes", "Give [api] socket.")
    _refuse_if_taken(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        fresh.chmod(MODE)
        with contextlib.suppress(KeyError, PermissionError):  # no such group, or not ours to give
            os.chown(fresh, -1, grp.getgrnam(GROUP).gr_gid)
        fresh.rename(path)
    except OSError as exc:
        sock.close()
        raise _unavailable(
            f"{path}: {exc.strerror}", "Is the folder writable for the user that runs fluxedge?"
        ) from exc
    sock.setblocking(False)
    return sock


def _refuse_if_taken(path: Path) -> None:
    try:
        status = path.lstat()
    except OSError:
        return  # nothing there; if it is something else, bind tells
    if not stat.S_ISSOCK(status.st_mode):
        raise _unavailable(f"{path} is there and is no socket", "Move it away, or give another [api] socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError as exc:
            if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return
            if exc.errno != errno.EAGAIN:  # unix(7): the listener's queue is full: it lives
                raise _unavailable(f"{path}: {exc.strerror}") from exc
    raise _unavailable(f"{path}: another fluxedge runs there", "Stop it first, or give this one another --state.")


def remove_unix(path: Path, inode: int) -> None:
    """Remove our own socket; one that somebody else has put there in the meantime stays."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of `[api] listen`.

    Raises:
        ConfigProblem: it is not ADDRESS:PORT.
    """
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError(port)
    except ValueError as exc:
        message = f'api.listen: "{text}" is not ADDRESS:PORT'
        raise ConfigProblem("config-invalid", message, 'Write "127.0.0.1:8080" or "[::1]:8080".') from exc
    return str(address), number


def open_tcp(text: str) -> socket.socket:
    """Return a socket bound to `[api] listen`.

    Raises:
        ConfigProblem: it is not ADDRESS:PORT.
        LinkProblem: "api-unavailable": it cannot be bound.
    """
    host, port = parse_listen(text)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise _unavailable(f"{text}: {exc.strerror}", "Another program may use the port; change [api] listen.") from exc
    sock.setblocking(False)
    return sock


def is_loopback_name(host: str) -> bool:
    """Tell whether the name in a Host header means this machine.

    A page of another site can make a browser ask us under a name of its own (DNS rebinding); it cannot choose these.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _unavailable(message: str, hint: str = "") -> LinkProblem:
    return LinkProblem("api-unavailable", message, hint)
