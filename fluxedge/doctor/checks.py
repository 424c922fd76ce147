"""CHECKS: everything that is judged, in the order in which it is told. A check is a pure function over facts."""

from __future__ import annotations

from collections.abc import Callable

from fluxedge.doctor import machine_checks, site_checks
from fluxedge.doctor.facts import Facts
from fluxedge.doctor.findings import Finding, Found, note

Check = Callable[[Facts], Found]

CHECKS: tuple[tuple[str, tuple[Check, ...]], ...] = (  # heading -> its checks
    ("Software", (machine_checks.versions, machine_checks.unit, site_checks.daemon, machine_checks.journal)),
    ("Configuration", (site_checks.configuration, site_checks.listening, site_checks.open_files)),
    (
        "Disk",
        (
            machine_checks.file_system,
            machine_checks.state,
            machine_checks.room,
            machine_checks.wear,
            site_checks.sizes,
        ),
    ),
    ("Machine", (machine_checks.clock, machine_checks.board)),
    ("Buses", (site_checks.serial_ports, site_checks.buses)),
    ("Uplinks", (site_checks.brokers,)),
    ("Problems", (site_checks.problems,)),
)


def judge(facts: Facts) -> dict[str, list[Finding]]:
    """Return heading -> findings; headings without any are left out."""
    found = {heading: [finding for check in checks for finding in _run(check, facts)] for heading, checks in CHECKS}
    return {heading: findings for heading, findings in found.items() if findings}


def _run(check: Check, facts: Facts) -> list[Finding]:
    """Return what a check finds; a gateway of another version may answer in another shape."""
    found: list[Finding] = []
    try:
        found.extend(check(facts))
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        name = check.__name__.replace("_", " ")
        remedy = "systemctl restart fluxedge, so that the installed version runs."
        found.append(note(name, f"the gateway's answer is not understood ({type(exc).__name__}: {exc})", remedy))
    return found
