"""Rounds for the history's tests: any wire type, quality and stamp, and what the log makes of them."""

from __future__ import annotations

from hypothesis import strategies as st

from fluxedge.columns import Value
from fluxedge.log.body import Row, close_body, pack_round, records
from fluxedge.model import Group, Lane, Point, Quality, Record, Round

INT64 = st.integers(-(2**63), 2**63 - 1)
RAWS: dict[str, st.SearchStrategy[Value]] = {
    "?": st.booleans(),
    **{
        letter: st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)
        for letter, size in (("b", 1), ("h", 2), ("i", 4), ("q", 8))
    },
    **{letter: st.integers(0, 2 ** (8 * size) - 1) for letter, size in (("B", 1), ("H", 2), ("I", 4), ("Q", 8))},
    "f": st.one_of(st.floats(width=32), st.just(-0.0)),
    "d": st.one_of(st.floats(), st.just(-0.0)),
    "s": st.text(st.characters(exclude_categories=["Cs"])),
    "y": st.binary(max_size=40),
}


@st.composite
def groups(draw: st.DrawFn, wires: str = "".join(RAWS)) -> Group:
    letters = draw(st.lists(st.sampled_from(wires), min_size=1, max_size=6))
    scaled = [0.1, 1.0, -2.5]
    points = [
        Point(f"p{i}", wire, scale=draw(st.sampled_from(scaled)) if wire not in "?sy" else 1.0)
        for i, wire in enumerate(letters)
    ]
    return Group("m1", "main", tuple(points))


@st.composite
def rounds_of(draw: st.DrawFn, group: Group, stamps: st.SearchStrategy[int] = INT64) -> Round:
    marks = draw(st.lists(st.sampled_from(Quality), min_size=len(group.points), max_size=len(group.points)))
    quality = bytes(marks) if any(marks) or draw(st.booleans()) else b""
    raws = tuple(
        None if quality and mark >= Quality.BAD and draw(st.booleans()) else draw(RAWS[point.wire])
        for point, mark in zip(group.points, marks, strict=True)
    )
    mono_ns = draw(st.integers(0, 2**64 - 1))
    return group.round(raws, draw(stamps), mono_ns, quality=quality, flags=draw(st.integers(0, 7)))


@st.composite
def recorded(draw: st.DrawFn, group: Group, stamps: st.SearchStrategy[int] = INT64, epoch: int = 7) -> list[Record]:
    """Records of a group as the log gives them back: with holes in their seqs, stamps in any order."""
    rounds = draw(st.lists(rounds_of(group, stamps), min_size=1, max_size=25))
    seq = draw(st.integers(1, 2**40))
    found = []
    for round_ in rounds:
        found.append(as_logged(Record(epoch, Lane.ROUNDS, seq, draw(st.integers(0, 2)), round_)))
        seq += draw(st.sampled_from([1, 1, 1, 20, 2**33]))
    return found


def as_logged(record: Record) -> Record:
    """Return what the log gives back of a record: zero or empty where a raw was None."""
    assert isinstance(record.body, Round)
    codec, crc, body = close_body([pack_round(1, record.body)])
    row = Row(record.epoch, record.lane, record.seq, 1, record.boot, codec, crc, body)
    return next(records(row, {1: record.body.group}))


def bits(record: Record) -> tuple[object, ...]:
    """Return everything of a record in a form that compares NaN and -0.0 by their bits."""
    body = record.body
    assert isinstance(body, Round)
    columns = body.group.codec.pack(body.raws, body.quality)
    head = (record.epoch, record.lane, record.seq, record.boot, body.group.key)
    types = tuple(type(raw) for raw in body.raws)
    return (*head, columns, types, repr(body.values), body.quality, body.at_ns, body.arrived_mono_ns, body.flags)
