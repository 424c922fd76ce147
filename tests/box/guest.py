"""A small Debian with systemd as PID 1, booted by systemd-nspawn on a tree of its own.

Five things make that work on a machine whose own PID 1 is not systemd: no machined (`--register=no --keep-unit`), a
cgroup of its own (two guests started from one would share their payload's), the unified hierarchy, a tmpfs on
/run/systemd/nspawn (nspawn fails at the end where /run is on a disk), and a private network.

The guest is no child of the tests: what a test must not leave behind is looked at after each one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import typing
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}
CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup")
BOOT_S = 60.0
START = f"""
for h in {" ".join(CGROUPS)}; do
    [ -f $h/cgroup.procs ] || continue
    mkdir -p $h/$NAME; echo $$ > $h/$NAME/cgroup.procs
done
mkdir -p /run/systemd/nspawn; mount -t tmpfs tmpfs /run/systemd/nspawn
exec systemd-nspawn -q -D "$ROOT" -M $NAME --boot --register=no --keep-unit --console=pipe --private-network \
    --resolv-conf=off --timezone=off --link-journal=no
"""


class Failed(AssertionError):
    """A command in the guest did not end with 0."""


class Guest:
    """One booted tree."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.root = folder / "root"
        self._name = f"fluxedge-box-{os.getpid()}"
        self._console = folder / "console"
        self._pid = 0
        self.root.mkdir()
        subprocess.run(["tar", "-C", self.root, "-xf", tree], check=True)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")

    def put(self, source: Path, target: str) -> None:
        """Copy a file into the guest."""
        shutil.copy(source, self.root / target.lstrip("/"))

    def boot(self) -> None:
        """Start it, and wait until its services run."""
        shell = f'unshare --mount --propagation private sh -c "$START" </dev/null >>{self._console} 2>&1 & echo $!'
        variables = {"START": START, "NAME": self._name, "ROOT": str(self.root)}
        environment = {**os.environ, **variables, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        done = subprocess.run(["setsid", "sh", "-c", shell], env=environment, stdout=subprocess.PIPE, check=True)
        self._pid = int(done.stdout)
        end_s = time.monotonic() + BOOT_S
        while time.monotonic() < end_s:
            if self._leader() and self.ask("systemctl is-system-running").strip() in ("running", "degraded"):
                return
            time.sleep(0.05)
        raise TimeoutError(f"the guest did not boot: {self._console.read_text(errors='replace')[-800:]}")

    def _leader(self) -> str:
        """Return the process that is PID 1 inside; empty when there is none."""
        try:
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
            return children[0] if children else ""
        except OSError:
            return ""

    def _run(self, command: str, timeout_s: float) -> tuple[int, str]:
        words = ["nsenter", "-t", self._leader(), "-a", "env", "-i"]
        words += [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        done = subprocess.run(
            [*words, "bash", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def sh(self, command: str, timeout_s: float = 100) -> str:
        """Run a command that must end with 0; return what it printed."""
        status, text = self._run(command, timeout_s)
        if status:
            raise Failed(f"status {status}: {command}\n{text[-3000:]}")
        return text

    def ask(self, command: str, timeout_s: float = 100) -> str:
        """Run a command whose status does not matter."""
        return self._run(command, timeout_s)[1]

    def refused(self, command: str, timeout_s: float = 100) -> str:
        """Run a command that must not end with 0; return what it printed."""
        status, text = self._run(command, timeout_s)
        assert status, f"it ended with 0: {command}\n{text}"
        return text

    def show(self, *names: str) -> list[str]:
        """Return properties of fluxedge.service, asked for at once."""
        lines = self.sh(f"systemctl show fluxedge {' '.join('-p ' + name for name in names)}").splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[name] for name in names]

    def states(self) -> list[str]:
        """Return whether the service runs, and whether it starts at boot."""
        return self.ask("systemctl is-active fluxedge; systemctl is-enabled fluxedge").split()

    def json(self, command: str) -> typing.Any:
        """Return what `fluxedge COMMAND --json` says."""
        return json.loads(self.sh(f"fluxedge {command} --json"))

    def back_after(self, pid: str, timeout_s: float = 40) -> None:
        """Wait until another process than `pid` is the service."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            state, now = self.show("ActiveState", "MainPID")
            if state == "active" and now not in (pid, "0"):
                return
            time.sleep(0.1)
        raise TimeoutError("the service did not come back")

    def reboot(self) -> None:
        """Reboot: nspawn ends with that (`--keep-unit`) and is started again."""
        self.ask("systemctl reboot")
        self._wait_for_end()
        self.boot()

    def _wait_for_end(self) -> None:
        end_s = time.monotonic() + 30
        while Path(f"/proc/{self._pid}/root").exists() and time.monotonic() < end_s:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Power off and clean up."""
        if self._leader():
            self.ask("systemctl poweroff")
        if self._pid:
            self._wait_for_end()
        for hierarchy in CGROUPS:
            for path, _, _ in os.walk(f"{hierarchy}/{self._name}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
