"""Columns of samples: cut, put in order, put together."""

from __future__ import annotations

from fluxedge.log.history.samples import Samples, engineering, is_number, merged, ordered
from fluxedge.model import Point

TEMP = Point("temp", "h", scale=0.1)


def of(*at_ns: int, epoch: int = 1, seqs: tuple[int, ...] = (), marks: bytes = b"") -> Samples:
    return Samples(TEMP, list(at_ns), [float(at) for at in at_ns], marks, [epoch] * len(at_ns), seqs or at_ns)


def keys(parts: list[Samples]) -> list[tuple[int, int, int]]:
    return [part.key(i) for part in parts for i in range(len(part))]


def test_a_range_takes_its_beginning_and_not_its_end() -> None:
    part = of(1, 3, 5, 7, marks=b"\0\1\2\3")
    cut = part.between(3, 7)
    assert (list(cut.at_ns), cut.marks, list(cut.seqs)) == ([3, 5], b"\1\2", [3, 5])
    assert part.between(0, 99) is part
    assert len(part.between(8, 99)) == 0


def test_late_samples_are_put_in_order_and_equal_stamps_go_by_seq() -> None:
    part = ordered(of(5, 3, 5, 4, seqs=(1, 2, 3, 4)))
    assert keys([part]) == [(3, 1, 2), (4, 1, 4), (5, 1, 1), (5, 1, 3)]
    assert part.values == [3.0, 4.0, 5.0, 5.0]


def test_parts_that_follow_each_other_stay_as_they_are() -> None:
    a, b = of(1, 2), of(3, 4)
    assert merged([b, of(), a]) == [a, b]


def test_parts_that_lie_in_each_other_alternate() -> None:
    parts = merged([of(1, 4, 5, 9), of(2, 3, 5, epoch=2)])
    assert keys(parts) == [(1, 1, 1), (2, 2, 2), (3, 2, 3), (4, 1, 4), (5, 1, 5), (5, 2, 5), (9, 1, 9)]


def test_bad_raws_have_no_value_and_are_not_scaled() -> None:
    point = Point("p", "f", scale=0.1, precision=1)
    assert engineering(point, [12.0, float("inf"), 7.0], b"\0\2\1") == [1.2, None, 0.7]
    assert engineering(Point("s", "s"), ["a", ""], b"\0\3") == ["a", None]


def test_what_has_names_or_is_no_number_has_no_mean() -> None:
    assert is_number(TEMP)
    assert is_number(Point("p", "d"))
    for point in (Point("p", "?"), Point("p", "s"), Point("p", "y"), Point("p", "B", enum={0: "off"})):
        assert not is_number(point)
    assert not is_number(Point("p", "H", bits={0: "alarm"}))
