"""Gathering: what is not a round of the group is refused, large and small rounds are counted in bytes."""

from __future__ import annotations

import pytest

from fluxedge.log.history.chunks import unpack
from fluxedge.log.history.gathering import Gathered, pack, pack_gathered, shape_of
from fluxedge.model import Group, Lane, Point, Record, Round
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of


def test_rounds_that_were_gathered_one_by_one_make_a_chunk() -> None:
    group = group_of("H?sdy")
    rounds = [group.round((i, i % 2 == 0, "x" * i, i / 3, b"\0" * (9 - i)), i, i, flags=i % 8) for i in range(9)]
    gathered = Gathered(group)
    for seq, r in enumerate(rounds, 40):
        gathered.add(seq, 2, r.at_ns, r.arrived_mono_ns, r.flags, r.quality, group.codec.pack(r.raws))
    found = unpack(group, 5, pack_gathered(gathered))
    assert found == [Record(5, Lane.ROUNDS, seq, 2, r) for seq, r in enumerate(rounds, 40)]
    assert gathered.size_bytes > 9 * 34


def test_columns_of_another_group_are_refused_and_leave_nothing() -> None:
    group = group_of("HHs")
    gathered = Gathered(group)
    for columns, quality in ((b"\0\0", b""), (b"\0" * 4 + b"\5\0\0\0ab", b""), (b"\0" * 9, b""), (b"\0" * 8, b"\0")):
        with pytest.raises(ValueError, match=r"points|columns end"):
            gathered.add(1, 1, 0, 0, 0, quality, columns)
    gathered.add(1, 1, 0, 0, 0, b"", b"\0" * 8)
    assert len(unpack(group, 1, pack_gathered(gathered))) == 1


def test_where_columns_stand() -> None:
    shape = shape_of(group_of("?sdHy"))
    assert shape.fixed == {0: (0, 1), 2: (1, 8), 3: (9, 2)}
    assert shape.variable == {1: 0, 4: 1}
    assert (shape.count, shape.fixed_bytes) == (5, 11)


def test_a_chunk_is_of_one_group_and_of_rounds() -> None:
    one, other = group_of("H"), group_of("I")
    first = Record(1, Lane.ROUNDS, 1, 1, round_of(one, 1))
    for records in (
        [],
        [first, Record(1, Lane.ROUNDS, 2, 1, round_of(other, 1))],
        [Record(1, Lane.EVENTS, 1, 1, event_of())],
    ):
        with pytest.raises(ValueError, match="round"):
            pack(records)


def test_more_points_than_a_chunk_can_count_are_refused() -> None:
    group = Group("m1", "main", tuple(Point(f"p{i}", "?") for i in range(65_536)))
    record = Record(1, Lane.ROUNDS, 1, 1, Round(group, (False,) * 65_536, (False,) * 65_536, b"", 0, 0))
    with pytest.raises(ValueError, match="65536 points"):
        pack([record])
