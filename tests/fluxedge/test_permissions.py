"""Who may do what."""

from __future__ import annotations

import pytest

from fluxedge.permissions import (
    ACTIONS,
    COMMAND,
    COMMANDS_BURST,
    COMMANDS_PER_S,
    CONFIGURE,
    PRINCIPALS,
    READ,
    ROLES,
    Allowance,
    Principal,
    authorise,
)
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


def permitted(allowance: Allowance, name: str, now_s: float, asked: int) -> int:
    """Return how many of so many commands in one instant are permitted."""
    principal, refused = Principal("peer", name, "admin"), []
    for _ in range(asked):
        try:
            allowance.spend(principal, now_s)
        except Problem as problem:
            refused.append(problem)
    assert {problem.code for problem in refused} <= {"command-refused"}
    assert all(problem.message.startswith(f"too many commands: {name} ") for problem in refused)
    return asked - len(refused)


def test_a_principal_has_a_burst_of_commands_and_then_so_many_a_second() -> None:
    allowance = Allowance()
    assert permitted(allowance, "anna", 1000.0, 1000) == COMMANDS_BURST
    assert permitted(allowance, "anna", 1001.0, 1000) == COMMANDS_PER_S
    assert permitted(allowance, "bert", 1001.0, 1000) == COMMANDS_BURST
    assert permitted(allowance, "anna", 9000.0, 1000) == COMMANDS_BURST


def test_the_number_of_principals_that_are_counted_is_bounded() -> None:
    allowance = Allowance()
    for i in range(PRINCIPALS + 50):
        assert permitted(allowance, f"p{i}", 1000.0, 1) == 1
    assert len(allowance._buckets) == PRINCIPALS
    assert permitted(allowance, "late", 1010.0, 1) == 1  # those that were idle for long are forgotten
    assert len(allowance._buckets) == 1
