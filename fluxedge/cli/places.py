"""Where things are: one rule for every verb.

configuration   --config, $FLUXEDGE_CONFIG, else /etc/fluxedge
state           --state, $FLUXEDGE_STATE, $STATE_DIRECTORY (systemd), else /var/lib/fluxedge for root,
                ~/.local/state/fluxedge for everybody else
socket          --socket, $FLUXEDGE_SOCKET, api.sock below a state that was named, else /run/fluxedge/api.sock
                where it exists, else api.sock below the state
"""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = Path("/etc/fluxedge")
STATE = Path("/var/lib/fluxedge")
SOCKET = Path("/run/fluxedge/api.sock")


def config_dir(given: Path | None) -> Path:
    """Return the configuration directory."""
    return given or Path(os.environ.get("FLUXEDGE_CONFIG") or CONFIG)


def state_dir(given: Path | None) -> Path:
    """Return the state directory."""
    named = given or os.environ.get("FLUXEDGE_STATE") or os.environ.get("STATE_DIRECTORY")
    if named:
        return Path(named)
    return STATE if os.geteuid() == 0 else Path.home() / ".local/state/fluxedge"


def socket_path(given: Path | None, state: Path | None) -> Path:
    """Return the unix socket of the running gateway."""
    named = given or os.environ.get("FLUXEDGE_SOCKET")
    if named:
        return Path(named)
    if state is None and "FLUXEDGE_STATE" not in os.environ and SOCKET.exists():
        return SOCKET
    return state_dir(state) / "api.sock"
