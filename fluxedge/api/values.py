"""Points and rounds as JSON carries them."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from fluxedge.api.answers import LiveRound, PointAnswer
from fluxedge.columns import Value, json_value
from fluxedge.latest import Latest, Reading
from fluxedge.model import Group, Point, Quality, Round
from fluxedge.spi import Protocol

_QUALITY = [quality.name for quality in Quality]


def text_of(point: Point, value: Value | None) -> str:
    """Return the name of an enum's value or the names of the bits that are set; empty where there are none."""
    if not isinstance(value, int):
        return ""
    if point.enum:
        return point.enum.get(int(value), "")
    return " ".join(name for bit, name in sorted(point.bits.items()) if value >> bit & 1)


def type_of(point: Point) -> typing.Literal["bool", "int", "float", "text", "bytes"]:
    """Return what kind of value a point has, scaling considered."""
    if point.wire == "?":
        return "bool"
    if point.wire == "s":
        return "text"
    if point.wire == "y":
        return "bytes"
    if point.wire in "fd" or point.scale != 1.0 or point.offset != 0.0:
        return "float"
    return "int"


def point_answer(group: Group, point: Point, reading: Reading | None) -> PointAnswer:
    """Return one point; `reading` is None when it has not been read yet."""
    value = reading.value if reading else None
    return PointAnswer(
        id=f"{group.device}.{point.name}",
        device=group.device,
        group=group.name,
        label=point.label,
        unit=point.unit,
        type=type_of(point),
        value=json_value(value),
        text=text_of(point, value),
        quality=reading.quality.name if reading else "",
        at_us=reading.at_ns // 1000 if reading else 0,
        good_at_us=reading.good_at_ns // 1000 if reading else 0,
        enum={str(number): name for number, name in point.enum.items()},
        bits={str(number): name for number, name in point.bits.items()},
    )


def points(
    protocols: typing.Mapping[str, Protocol], latest: Latest, device: str, pattern: str
) -> Iterator[list[PointAnswer]]:
    """Iterate over devices, each as a list of its points whose id matches the pattern; unread ones included."""
    for name in sorted(protocols):
        if device and name != device:
            continue
        groups = protocols[name].groups
        if pattern and not any(fnmatchcase(f"{name}.{point}", pattern) for g in groups for point in g.names):
            continue
        readings = {reading.point.name: reading for reading in latest.readings(name)}
        yield [
            point_answer(group, point, readings.get(point.name))
            for group in groups
            for point in group.points
            if not pattern or fnmatchcase(f"{name}.{point.name}", pattern)
        ]


def live_round(round_: Round, columns: Sequence[int]) -> LiveRound:
    """Return the chosen columns of a round."""
    group = round_.group
    quality = round_.quality
    texts = ((group.names[i], text_of(group.points[i], round_.values[i])) for i in columns)
    return LiveRound(
        device=group.device,
        group=group.name,
        at_us=round_.at_ns // 1000,
        values={group.names[i]: json_value(round_.values[i]) for i in columns},
        quality={group.names[i]: _QUALITY[quality[i]] for i in columns if quality[i]} if quality else {},
        text={name: text for name, text in texts if text},
    )
