"""Who may do what."""

from __future__ import annotations

import pytest

from fluxedge.permissions import ACTIONS, COMMAND, CONFIGURE, READ, ROLES, Principal, authorise
from fluxedge.problems import Problem

MAY = {
    "admin": {READ, COMMAND, CONFIGURE},
    "viewer": {READ},
    "uplink": {COMMAND},
    "nobody": set(),
    "made-up": set(),
}


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_role_may_do_what_the_table_says_and_nothing_else(role: str, action: str) -> None:
    principal = Principal("peer", "anna", role)
    if action in MAY[role]:
        authorise(principal, action, "pump.speed")
        return
    with pytest.raises(Problem, match=f"anna may not {action}") as caught:
        authorise(principal, action, "pump.speed")
    assert caught.value.code == "command-refused"


def test_every_role_is_in_this_table() -> None:
    assert set(ROLES) <= set(MAY)


@pytest.mark.parametrize(
    ("targets", "target", "permitted"),
    [
        ((), "pump.speed", False),
        (("*",), "pump.speed", True),
        (("pump.speed",), "pump.speed", True),
        (("pump.speed",), "pump.speed2", False),
        (("pump.*",), "pump.speed", True),
        (("pump.*",), "pump2.speed", False),
        (("pump.*",), "PUMP.speed", False),
        (("boiler.*", "*.speed"), "pump.speed", True),
        (("pump.[a-m]*",), "pump.speed", False),
        (("pump.*",), "", False),
    ],
)
def test_an_uplink_may_command_what_its_patterns_name(targets: tuple[str, ...], target: str, permitted: bool) -> None:
    principal = Principal("uplink", "uplink cloud", "uplink", targets)
    if permitted:
        authorise(principal, COMMAND, target)
        return
    with pytest.raises(Problem, match="uplink cloud may not command"):
        authorise(principal, COMMAND, target)
