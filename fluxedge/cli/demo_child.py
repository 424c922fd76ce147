"""Processes of the demo: each in a session of its own, so that Ctrl-C reaches only the demo, which ends them in order.

The kernel ends them when the demo itself is killed (prctl PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STOP_S = 10.0
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_TAIL_LINES = 15


class ChildDied(Exception):
    """A child ended although nobody asked it to."""


class Child:
    """One process and its output."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        parent = os.getpid()

        def bind_to_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:  # it died in between
                    os._exit(1)

        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=bind_to_parent,
            )  # fmt: skip

    def check(self) -> None:
        """Raises ChildDied, with the end of its output."""
        code = self._process.poll()
        if code is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ChildDied(f"The {self.name} ended by itself ({how}).\n{self.tail()}".rstrip())

    def tail(self) -> str:
        """Return the end of its output."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)

    async def stop(self) -> None:
        """Ask it to end, wait, and end it after a while."""
        if self._process.poll() is None:
            self._process.terminate()
            for _ in range(int(STOP_S / 0.05)):
                if self._process.poll() is not None:
                    return
                await asyncio.sleep(0.05)
            self._process.kill()
            self._process.wait()


def free_port(wanted: int = 0) -> int:
    """Return a TCP port of the loopback that is free now; `wanted` itself when it is not 0.

    Raises:
        OSError: `wanted` is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: an earlier one may linger
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as exc:
            raise OSError(f"port {wanted} of 127.0.0.1 is taken ({exc.strerror}); name another one") from exc
        return int(probe.getsockname()[1])


async def wait_for_port(child: Child, port: int, timeout_s: float = 10.0) -> None:
    """Return when the child listens.

    Raises:
        ChildDied: it ended, or does not listen in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        child.check()
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise ChildDied(f"The {child.name} does not listen on port {port}.\n{child.tail()}".rstrip())
