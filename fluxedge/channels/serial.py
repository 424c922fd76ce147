"""Serial channels: RTU frames on a serial line. The port is ours alone; an unplugged one is noticed at once.

Three things of pyserial's port are replaced (pyserial 3.5, `serialposix.py`):

    read    selects before it reads, which fails for descriptors above 1023
    write   in non-blocking mode spins on EAGAIN: a full output buffer would stop the loop
    errors  of either go to the link at once; the transport tells only after it has closed the port in a thread
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import os
import pwd
import termios
import typing
from collections.abc import Callable
from pathlib import Path

import serial
from serial.rs485 import RS485Settings
from serial_asyncio_fast import SerialTransport

from fluxedge.channels.gap import character_s, silence_s
from fluxedge.channels.link import LineTiming, Link, WireChannel
from fluxedge.clock import Clock
from fluxedge.config.structs import ChannelCfg
from fluxedge.config.urls import ChannelUrl
from fluxedge.problems import LinkProblem

RESYNC_S = 0.02  # silence after an unanswered request: USB adapters pass input on in pieces (FTDI: every 16 ms)
_UNPLUGGED_HINT = "Plug the adapter in again; the channel is reopened when its port is back."
_PTY_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt: Unix98 PTY slaves
_BY_ID = Path("/dev/serial/by-id")


class Port(serial.Serial):
    """A serial port opened for us alone, read and written without ever waiting."""

    on_error: Callable[[OSError], None] | None = None

    def open(self) -> None:
        super().open()
        try:
            fcntl.ioctl(self.fileno(), termios.TIOCEXCL)  # flock, pyserial's own, binds only those who ask for it
        except OSError:
            self.close()
            raise

    def _reconfigure_port(self, force_update: bool = False) -> None:
        # glibc answers EINVAL when none of the changes took effect, and a pty ignores the parity: every further
        # application of the same settings would fail (SerialTransport sets the time-outs, which applies all).
        try:
            super()._reconfigure_port(force_update=force_update)  # type: ignore[misc]  # not in the stubs
        except termios.error as exc:
            if exc.args[0] != errno.EINVAL or os.major(os.stat(str(self.port)).st_rdev) not in _PTY_MAJORS:
                raise

    def close(self) -> None:
        if self.is_open:
            try:
                fcntl.ioctl(self.fileno(), termios.TIOCNXCL)  # on a pty it would outlive us
            except OSError:  # unplugged
                pass
        super().close()

    def read(self, size: int = 1, /) -> bytes:
        try:
            data = os.read(self.fileno(), size)
            if not data:
                raise OSError(errno.EIO, "hang-up")
        except BlockingIOError:
            return b""
        except OSError as exc:
            self._tell(exc)
            return b""
        return data

    def write(self, data: typing.Any, /) -> int:
        """Return how much was taken."""
        try:
            return os.write(self.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            self._tell(exc)
            return 0

    def _tell(self, exc: OSError) -> None:
        # Told, not raised: the transport would close a second time, and log.
        if self.on_error is None:
            raise exc
        self.on_error(exc)


class SerialChannel(WireChannel):
    """One serial line."""

    def __init__(self, channel_id: str, url: ChannelUrl, cfg: ChannelCfg, clock: Clock) -> None:
        super().__init__(channel_id, url.framing)
        self._url = url
        char_s = character_s(url.baud, bits=url.bits, parity=url.parity, stop=url.stop)
        gap_s = silence_s(url.baud, char_s) + cfg.pause_s
        self.timing = LineTiming(gap_s=gap_s, resync_s=max(gap_s, RESYNC_S), char_s=char_s)
        self._clock = clock

    async def _connect(self) -> Link:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, open_port, self._url)  # USB adapters take milliseconds to be set up
        try:
            port = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        except (OSError, ValueError, termios.error) as exc:
            raise open_problem(self._url.path, exc) from exc
        try:
            return await self._attach(port)
        except (OSError, ValueError, termios.error) as exc:
            raise open_problem(self._url.path, exc) from exc

    async def _attach(self, port: Port) -> Link:
        loop = asyncio.get_running_loop()
        link = Link(self._url.path, self._clock, self.tally, self.timing, _UNPLUGGED_HINT)
        try:
            transport = SerialTransport(loop, link, port)
        except (OSError, ValueError, termios.error):
            port.close()
            link.connection_lost(None)
            raise

        def broken(exc: OSError) -> None:
            link.fail("link-down", f"{self._url.path}: the port is gone: {exc.strerror or exc}", _UNPLUGGED_HINT)
            link.abort()

        port.on_error = broken
        try:
            await link.opened
        except asyncio.CancelledError:
            transport.abort()
            raise
        return link


def open_port(url: ChannelUrl) -> Port:
    """Open the device file with the line's settings. Blocks a little: called in a thread."""
    port = Port(
        None,
        baudrate=url.baud,
        bytesize=url.bits,
        parity=url.parity,
        stopbits=url.stop,
        timeout=0,
        write_timeout=0,
        exclusive=True,
    )
    port.port = url.path
    if url.rs485 is not None:
        port.rs485_mode = RS485Settings(
            rts_level_for_tx=url.rs485.rts_on_send,
            rts_level_for_rx=url.rs485.rts_after_send,
            delay_before_tx=url.rs485.delay_before_send_ms / 1000,
            delay_before_rx=url.rs485.delay_after_send_ms / 1000,
        )
    port.open()
    try:
        port.set_low_latency_mode(True)  # an FTDI adapter then waits 1 ms for more input instead of 16
    except (ValueError, OSError):  # the driver has no such mode
        pass
    return port


def open_problem(path: str, exc: Exception) -> LinkProblem:
    """Say what a failed opening means and what to do."""
    code = exc.errno if isinstance(exc, OSError) else None
    if code == errno.ENOENT:
        return LinkProblem("port-missing", f"{path} does not exist", _ports_hint())
    if code in (errno.EACCES, errno.EPERM):
        return LinkProblem("link-permission", f"{path}: permission denied", _permission_hint(path))
    if code in (errno.EBUSY, errno.EAGAIN):
        return LinkProblem(
            "link-down", f"{path}: another program has the port open", f"Find it with: fuser -v {path}; then stop it."
        )
    if code in (errno.ENXIO, errno.ENODEV):
        return LinkProblem("port-missing", f"{path}: no hardware behind this device file", _ports_hint())
    return LinkProblem("link-down", f"{path} cannot be opened: {exc}", "Is it a serial port, and are its settings?")


def _permission_hint(path: str) -> str:
    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        group = "dialout"  # Debian's group of serial ports
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = "fluxedge"
    return f"add {user} to group {group}: usermod -aG {group} {user}"


def _ports_hint() -> str:
    try:
        present = sorted(str(entry) for entry in _BY_ID.iterdir())
    except OSError:
        present = []
    if present:
        return f"Present are: {', '.join(present)}."
    return "No USB serial adapter is plugged in. Look with: ls /dev/serial/by-id /dev/ttyS*."


def _close_unwanted(opening: asyncio.Future[Port]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
