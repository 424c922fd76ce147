"""The running gateway as the command line sees it: HTTP over its unix socket, and helpful words when it is not there.

http.client and not aiohttp: a verb that asks once must not spend a second of a small machine on imports.
"""

from __future__ import annotations

import codecs
import contextlib
import getpass
import http.client
import json
import os
import socket
import sys
import typing
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.main import FAILED, NOT_PERMITTED, NOT_RUNNING, USAGE

API = "/api/v1"
ANSWER_S = 30.0
PIECE_BYTES = 1 << 16
Data = typing.Any  # JSON
F = typing.TypeVar("F", bound=Callable[..., typing.Any])


class Trouble(click.ClickException):
    """Something the user is told about; the exit code says what kind."""

    def __init__(self, message: str, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it as the class's; it reads the instance's

    def show(self, file: typing.IO[typing.Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)
        if self.hint:
            click.echo(self.hint, file=file, err=True)


class ApiTrouble(Trouble):
    """The gateway answered with an error; `code` is its code, `answer` the whole body."""

    def __init__(self, status: int, answer: Data) -> None:
        fields = answer if isinstance(answer, dict) else {}
        self.status = status
        self.answer = answer
        self.code = str(fields.get("code", ""))
        exit_code = {400: USAGE, 403: NOT_PERMITTED}.get(status, FAILED)
        super().__init__(str(fields.get("message", f"HTTP {status}")), str(fields.get("hint", "")), exit_code)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Daemon:
    """A gateway that should be running at a unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, **query: str) -> Data:
        """Return an answer.

        Raises:
            Trouble: it does not run (exit 3), this user may not (exit 4), it does not understand (exit 2), or what
                else it answered (exit 1).
        """
        with self._ask("GET", _target(path, query), None, ANSWER_S) as response:
            return json.load(response)

    def post(self, path: str, body: Data = None, timeout_s: float = ANSWER_S) -> Data:
        """Ask for something to be done. Raises as `get`."""
        with self._ask("POST", API + path, body, timeout_s) as response:
            return json.load(response)

    @contextlib.contextmanager
    def lines(self, path: str, **query: str) -> Iterator[Iterator[str]]:
        """Give a long answer line by line. Raises as `get`."""
        with self._ask("GET", _target(path, query), None, None) as response:
            yield (line.decode().rstrip("\r\n") for line in response)

    @contextlib.contextmanager
    def text(self, path: str, **query: str) -> Iterator[Iterator[str]]:
        """Give a long answer in pieces, as it is. Raises as `get`."""
        with self._ask("GET", _target(path, query), None, ANSWER_S) as response:
            decode = codecs.getincrementaldecoder("utf-8")().decode
            yield (decode(piece) for piece in iter(lambda: response.read1(PIECE_BYTES), b""))

    @contextlib.contextmanager
    def events(self, path: str, **query: str) -> Iterator[Iterator[tuple[str, Data]]]:
        """Give server-sent events as (event, data). Raises as `get`."""
        with self.lines(path, **query) as lines:
            yield _events(lines)

    @contextlib.contextmanager
    def _ask(self, method: str, target: str, body: Data, timeout_s: float | None) -> Iterator[http.client.HTTPResponse]:
        connection = UnixConnection(self.path, timeout_s)
        try:
            try:
                connection.request(method, target, body=None if body is None else json.dumps(body).encode())
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                raise self._unreachable(exc) from exc
            if response.status >= 400:
                raise ApiTrouble(response.status, _error(response.status, response.read()))
            try:
                yield response
            except (ConnectionError, TimeoutError, http.client.HTTPException) as exc:
                if isinstance(exc, BrokenPipeError):  # our own output's reader went
                    raise
                raise Trouble("the gateway stopped in the middle of its answer") from exc
        finally:
            connection.close()

    def _unreachable(self, exc: Exception) -> Trouble:
        if isinstance(exc, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
            what = "no socket" if isinstance(exc, FileNotFoundError) else "nobody listens"
            return Trouble(
                f"fluxedge does not run ({what} at {self.path}).",
                "Start it: systemctl start fluxedge, or fluxedge run --config DIR. "
                "One that runs elsewhere is named with --state DIR or --socket PATH.",
                NOT_RUNNING,
            )
        if isinstance(exc, PermissionError):
            return Trouble(
                f"{self.path}: {getpass.getuser()} may not talk to fluxedge.",
                f"Members of the group fluxedge may: sudo usermod -aG fluxedge {getpass.getuser()}, then log in again.",
                NOT_PERMITTED,
            )
        if isinstance(exc, ConnectionResetError | BrokenPipeError):  # also http.client's RemoteDisconnected
            hint = "It stops just now, or has as many clients as it takes; its journal says."
            return Trouble(f"fluxedge closed the connection at {self.path}.", hint)
        if isinstance(exc, TimeoutError):
            return Trouble(f"fluxedge did not answer at {self.path} in time.")
        return Trouble(f"{self.path}: {exc}")


def options(verb: F) -> F:
    """Give a verb --socket, --state and --json; it gets `daemon` and `as_json`."""

    def with_daemon(*args: typing.Any, socket_path: Path | None, state: Path | None, **rest: typing.Any) -> typing.Any:
        daemon = Daemon(places.socket_path(socket_path, state))
        with quiet_pipe():
            return verb(*args, daemon=daemon, **rest)

    with_daemon.__name__ = verb.__name__
    with_daemon.__doc__ = verb.__doc__
    with_daemon.__click_params__ = list(getattr(verb, "__click_params__", []))  # type: ignore[attr-defined]
    path = click.Path(path_type=Path)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--state", type=path, help="State directory of the running gateway."),
        click.option("--socket", "socket_path", type=path, help="Unix socket of the running gateway."),
    ):
        option(with_daemon)
    return typing.cast(F, with_daemon)


@contextlib.contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a word when whoever reads our output has enough: `fluxedge watch | head`."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: Data) -> None:
    """Print data for programs."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def _target(path: str, query: dict[str, str]) -> str:
    given = {key: value for key, value in query.items() if value}
    return urllib.parse.quote(API + path) + ("?" + urllib.parse.urlencode(given) if given else "")


def _error(status: int, body: bytes) -> Data:
    try:
        return json.loads(body)
    except ValueError:
        if status == 500:  # the web server's own words, of an exception that nobody expected
            hint = "The traceback is in its journal. Please report it."
            return {"message": "the gateway could not answer: that is a defect of fluxedge.", "hint": hint}
        return {"message": body.decode(errors="replace").strip()}


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Data]]:
    event = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            event = value
        elif field == "data":
            yield event, json.loads(value)
