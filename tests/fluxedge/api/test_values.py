"""How points and rounds become JSON."""

from __future__ import annotations

import pytest

from fluxedge.api.values import live_round, point_answer, points, text_of, type_of
from fluxedge.clock import SystemClock
from fluxedge.columns import Value
from fluxedge.config.structs import DeviceCfg
from fluxedge.latest import Latest
from fluxedge.model import Group, Point, Quality
from fluxedge.protocols.simulator import SimulatorProtocol
from tests.fluxedge.api.running import DRIVER

MODE = Point("mode", "H", enum={0: "off", 2: "自动"})
FAULTS = Point("faults", "H", bits={3: "overload", 0: "open"})
GROUP = Group("m1", "main", (Point("u", "f", unit="V"), MODE, FAULTS, Point("raw", "y")), "一号")


@pytest.mark.parametrize(
    ("point", "value", "text"),
    [
        (MODE, 2, "自动"),
        (MODE, 7, ""),  # a number that the driver file does not name
        (MODE, None, ""),
        (FAULTS, 0b1001, "open overload"),
        (FAULTS, 0b0100, ""),
        (Point("u", "f"), 1.0, ""),
        (Point("n", "s"), "on", ""),
    ],
)
def test_enums_and_bits_are_told_by_name(point: Point, value: Value | None, text: str) -> None:
    assert text_of(point, value) == text


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        (Point("x", "?"), "bool"),
        (Point("x", "s"), "text"),
        (Point("x", "y"), "bytes"),
        (Point("x", "d"), "float"),
        (Point("x", "h"), "int"),
        (Point("x", "h", scale=0.1), "float"),
        (Point("x", "Q", offset=-40.0), "float"),
    ],
)
def test_a_points_type_is_that_of_its_scaled_value(point: Point, kind: str) -> None:
    assert type_of(point) == kind


def test_a_point_that_was_never_read_has_neither_value_nor_stamp() -> None:
    answer = point_answer(GROUP, MODE, None)
    assert (answer.id, answer.value, answer.quality, answer.at_us, answer.good_at_us) == ("m1.mode", None, "", 0, 0)
    assert answer.enum == {"0": "off", "2": "自动"}


def test_a_round_of_the_live_stream_has_the_chosen_columns_and_names_what_is_not_good() -> None:
    quality = bytes([Quality.GOOD, Quality.GOOD, Quality.UNCERTAIN, Quality.BAD])
    found = live_round(GROUP.round((230.5, 2, 1, None), 5_000_000, 0, quality=quality), (0, 1, 3))
    assert (found.device, found.group, found.at_us) == ("m1", "main", 5_000)
    assert found.values == {"u": 230.5, "mode": 2, "raw": None}
    assert found.quality == {"raw": "BAD"}
    assert found.text == {"mode": "自动"}
    good = live_round(GROUP.round((230.5, 0, 0, b"\xff"), 0, 0), (3,))
    assert (good.values, good.quality, good.text) == ({"raw": "/w=="}, {}, {})


def test_points_come_device_by_device_and_only_those_that_match() -> None:
    build = SimulatorProtocol.build
    protocols = {name: build(name, DeviceCfg(driver="boiler"), DRIVER, clock=SystemClock()) for name in ("b", "a")}

    def ids(device: str, pattern: str) -> list[list[str]]:
        return [[point.id for point in found] for found in points(protocols, Latest(), device, pattern)]

    assert [found[0].partition(".")[0] for found in ids("", "")] == ["a", "b"]
    assert ids("b", "*.pump") == [["b.pump"]]
    assert ids("", "a.p*") == [["a.pump"]]
    assert ids("c", "") == []
