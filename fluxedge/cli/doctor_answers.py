"""Ask a gateway that may be stopped, closed to this user, hanging or broken; every question has a bound in time."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from fluxedge.cli.online import API, UnixConnection
from fluxedge.doctor.facts import Daemon, Data

ASK_S = 5.0
MOST_BYTES = 32 << 20
WANTED = ("version", "status", "problems", "devices", "channels", "uplinks")
_UCRED = struct.Struct("iII")  # unix(7), SO_PEERCRED: pid, uid, gid


def ask_daemon(path: Path, more: Iterable[str] = ()) -> Daemon:
    """Return what the gateway says of itself; `more` are further routes below /api/v1."""
    answers: dict[str, Data] = {}
    missing: dict[str, str] = {}
    pid = 0
    for what in (*WANTED, *more):
        try:
            body, pid = _get(path, f"{API}/{what}")
            answers[what] = json.loads(body)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
            why = "no socket" if isinstance(exc, FileNotFoundError) else "nobody listens"
            return Daemon(str(path), "absent", f"{why} at {path}")
        except PermissionError:
            return Daemon(str(path), "forbidden")
        except TimeoutError:
            return Daemon(str(path), "silent", f"no answer within {ASK_S:g} s", pid, answers)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if not answers and not isinstance(exc, _Refused):
                return Daemon(str(path), "broken", f"no usable answer: {exc or type(exc).__name__}", pid)
            missing[what] = str(exc)
    return Daemon(str(path), "answers", "", pid, answers, missing)


def metrics(path: Path) -> str:
    """Return the gateway's metrics.

    Raises:
        OSError: it does not give them.
    """
    try:
        return _get(path, "/metrics")[0].decode(errors="replace")
    except (http.client.HTTPException, ValueError) as exc:
        raise OSError(str(exc)) from exc


class _Refused(ValueError):
    """It answered, but with an error."""


def _get(path: Path, target: str) -> tuple[bytes, int]:
    """Return an answer's body and the gateway's pid."""
    connection = UnixConnection(path, ASK_S)
    try:
        connection.connect()
        pid, _, _ = _UCRED.unpack(connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        connection.request("GET", urllib.parse.quote(target))
        response = connection.getresponse()
        body = response.read(MOST_BYTES)
        if response.status >= 400:
            raise _Refused(f"HTTP {response.status}")
        return body, int(pid)
    finally:
        connection.close()
