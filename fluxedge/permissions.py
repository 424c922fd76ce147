"""Who may do what, and how often: `authorise` stands in front of every route, uplink command, rule and scene.

Roles are rows of a table; a later version with users changes the table, not the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from fluxedge.intake import Bucket
from fluxedge.problems import Problem

COMMANDS_PER_S = 50.0  # of one principal: each is two events and two rows in the log
COMMANDS_BURST = 100
PRINCIPALS = 256  # whose commands are counted at the same time

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


class Allowance:
    """How many commands each principal may give."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def spend(self, principal: Principal, now_s: float) -> None:
        """Count a command that is about to be carried out.

        Raises:
            Problem: "command-refused": there were too many.
        """
        name = str(principal)
        if name not in self._buckets:
            if len(self._buckets) >= PRINCIPALS:
                self._buckets = {who: bucket for who, bucket in self._buckets.items() if not bucket.full(now_s)}
            if len(self._buckets) >= PRINCIPALS:
                del self._buckets[next(iter(self._buckets))]  # the one that has been here longest begins anew
            self._buckets[name] = Bucket(COMMANDS_BURST, COMMANDS_PER_S)
        if not self._buckets[name].take(now_s):
            text = f"too many commands: {principal} may give {COMMANDS_PER_S:g} a second"
            raise Problem("command-refused", text, "Repeat it a little later, with the same key.")
