"""Who may do what: `authorise` stands in front of every route, uplink command, rule and scene.

Roles are rows of a table; a later version with users changes the table, not the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from fluxedge.problems import Problem

READ = "read"  # look at values, status, log
COMMAND = "command"  # write to a device
CONFIGURE = "configure"  # reload, queue operations
ACTIONS = (READ, COMMAND, CONFIGURE)

ROLES: dict[str, frozenset[str]] = {
    "admin": frozenset(ACTIONS),
    "viewer": frozenset({READ}),
    "uplink": frozenset({COMMAND}),  # further narrowed to the uplink's `commands`
    "nobody": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    kind: str  # "peer" (unix socket) | "tcp" | "uplink" | "rule"
    name: str  # "uid 1000 (anna)", "uplink cloud"
    role: str  # of ROLES
    targets: tuple[str, ...] = ("*",)  # patterns of device.point that may be commanded

    def __str__(self) -> str:
        return self.name


def authorise(principal: Principal, action: str, target: str = "") -> None:
    """Return when `principal` may do `action` on `target` ("device.point" for commands).

    Raises:
        Problem: "command-refused", naming who may not do what.
    """
    if action not in ROLES.get(principal.role, frozenset()):
        raise Problem(
            "command-refused",
            f"{principal} may not {action}",
            "Members of the group fluxedge may do everything: usermod -aG fluxedge USER",
        )
    if action == COMMAND and not any(fnmatchcase(target, pattern) for pattern in principal.targets):
        raise Problem(
            "command-refused",
            f"{principal} may not command {target}",
            "List it under `commands` of the uplink.",
        )
