"""Values are shown with the digits and names that their points have."""

from __future__ import annotations

import pytest

from fluxedge.cli.shown import shown
from fluxedge.columns import Value
from fluxedge.model import Point


@pytest.mark.parametrize(
    ("point", "value", "text"),
    [
        (Point("p", "f"), 230.42001342773438, "230.42"),  # a float32 has seven digits
        (Point("p", "d"), 7511.14301699, "7511.143017"),
        (Point("p", "h", scale=0.1), -20.5, "-20.5"),
        (Point("p", "H"), 65535, "65535"),
        (Point("p", "d", precision=2), 3.0, "3.00"),
        (Point("p", "?"), False, "false"),
        (Point("p", "s"), "一号", "一号"),
        (Point("p", "y"), b"\x01\xff", "01 ff"),
        (Point("p", "H", enum={1: "linkage"}), 1, "1 linkage"),
        (Point("p", "H", enum={1: "linkage"}), 9, "9 ?"),
        (Point("p", "H", bits={0: "ready", 3: "fault"}), 9, "9 ready fault"),
        (Point("p", "H", bits={0: "ready"}), 0, "0"),
        (Point("p", "f"), None, "—"),
    ],
)
def test_a_value_has_the_digits_and_names_of_its_point(point: Point, value: Value | None, text: str) -> None:
    assert shown(point, value) == text


def test_long_bytes_are_cut() -> None:
    assert shown(Point("p", "y"), bytes(40)) == "00 " * 16 + "…"
