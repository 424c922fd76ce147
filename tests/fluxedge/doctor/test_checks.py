"""The table of checks."""

from __future__ import annotations

from fluxedge.doctor.checks import CHECKS, judge
from tests.fluxedge.doctor.healthy import HEALTHY, answering, wrong


def test_nothing_is_wrong_with_a_healthy_gateway() -> None:
    assert wrong(HEALTHY) == []


def test_every_heading_has_something_to_say_of_a_healthy_gateway() -> None:
    found = judge(HEALTHY)
    assert list(found) == [heading for heading, _ in CHECKS]
    assert all(finding.text for findings in found.values() for finding in findings)


def test_a_gateway_of_another_version_may_answer_in_another_shape() -> None:
    (found,) = wrong(answering(devices=[{"name": "meter-1"}], problems=[]))[:1]
    assert (found.verdict, found.subject) == ("note", "buses")
    assert "not understood" in found.text
    assert "restart" in found.remedy


def test_what_is_not_understood_takes_no_other_finding_away() -> None:
    found = judge(answering(devices=[{"name": "meter-1"}]))
    assert [finding.verdict for finding in found["Disk"]] == ["ok"] * len(judge(HEALTHY)["Disk"])
