import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.protocols.modbus.address import Area
from fluxedge.protocols.modbus.plan import Limits, Request, Span, halves, plan, without_holes

HR, IR, CO = Area.HOLDING_REGISTERS, Area.INPUT_REGISTERS, Area.COILS


def edges(requests: tuple[Request, ...]) -> list[tuple[int, int]]:
    return [(request.start, request.count) for request in requests]


def test_126_neighbouring_registers_take_two_requests() -> None:
    assert edges(plan([Span(HR, i, 1) for i in range(125)], Limits())) == [(0, 125)]
    assert edges(plan([Span(HR, i, 1) for i in range(126)], Limits())) == [(0, 125), (125, 1)]


def test_2001_neighbouring_coils_take_two_requests() -> None:
    assert edges(plan([Span(CO, i, 1) for i in range(2001)], Limits())) == [(0, 2000), (2000, 1)]


def test_a_hole_at_the_limit_is_read_and_one_above_is_not() -> None:
    assert edges(plan([Span(HR, 0, 2), Span(HR, 9, 2)], Limits(max_gap=7))) == [(0, 11)]
    assert edges(plan([Span(HR, 0, 2), Span(HR, 10, 2)], Limits(max_gap=7))) == [(0, 2), (10, 2)]


def test_bits_have_a_hole_limit_of_their_own() -> None:
    limits = Limits(max_gap=0, max_bit_gap=3)
    assert edges(plan([Span(CO, 0, 1), Span(CO, 4, 1), Span(CO, 9, 1)], limits)) == [(0, 5), (9, 1)]


@pytest.mark.parametrize("barrier", [2, 3, 5])
def test_a_barrier_in_a_hole_or_at_its_edges_is_not_spanned(barrier: int) -> None:
    limits = Limits(barriers=frozenset({(HR, barrier)}))
    assert edges(plan([Span(HR, 0, 2), Span(HR, 5, 2)], limits)) == [(0, 2), (5, 2)]


def test_a_barrier_of_another_area_is_no_barrier() -> None:
    limits = Limits(barriers=frozenset({(IR, 3)}))
    assert edges(plan([Span(HR, 0, 2), Span(HR, 5, 2)], limits)) == [(0, 7)]


def test_areas_never_merge() -> None:
    requests = plan([Span(HR, 0, 1), Span(IR, 1, 1), Span(CO, 2, 1)], Limits())
    assert {(request.area, request.members) for request in requests} == {(HR, (0,)), (IR, (1,)), (CO, (2,))}


def test_a_device_maximum_cuts_requests() -> None:
    assert edges(plan([Span(HR, i, 2) for i in range(0, 20, 2)], Limits(max_registers=7))) == [
        (0, 6), (6, 6), (12, 6), (18, 2),
    ]  # fmt: skip


def test_limits_above_the_specification_are_clamped() -> None:
    assert len(plan([Span(HR, i, 1) for i in range(200)], Limits(max_registers=1000))) == 2


def test_single_requests_gives_every_point_its_own() -> None:
    spans = [Span(HR, 0, 1), Span(HR, 0, 1), Span(HR, 1, 1)]
    assert edges(plan(spans, Limits(single_requests=True))) == [(0, 1), (0, 1), (1, 1)]


def test_a_request_says_its_place_in_words() -> None:
    assert Request(IR, 0, 80, ()).place() == "registers 0–79 (30001–30080)"
    assert Request(CO, 3, 1, ()).place() == "coil 3 (00004)"


def test_cutting_at_holes_and_in_halves_keeps_every_point() -> None:
    spans = [Span(HR, 10, 1), Span(HR, 0, 2), Span(HR, 2, 2), Span(HR, 8, 2)]
    (whole,) = plan(spans, Limits())
    assert [(p.start, p.count, p.members) for p in without_holes(whole, spans)] == [(0, 4, (1, 2)), (8, 3, (0, 3))]
    assert [(p.start, p.count, p.members) for p in halves(whole, spans)] == [(0, 4, (1, 2)), (8, 3, (0, 3))]


points = st.builds(Span, st.sampled_from(list(Area)), st.integers(0, 400), st.integers(1, 8)).map(
    lambda span: Span(span.area, span.start, 1) if span.area.one_bit else span
)
limits = st.builds(
    Limits,
    max_registers=st.integers(8, 200),
    max_bits=st.integers(1, 3000),
    max_gap=st.integers(0, 124),
    max_bit_gap=st.integers(0, 100),
    barriers=st.frozensets(st.tuples(st.sampled_from(list(Area)), st.integers(0, 400)), max_size=5),
    single_requests=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(points, max_size=60), limits)
def test_every_plan_covers_each_point_once_within_every_limit(spans: list[Span], limits: Limits) -> None:
    requests = plan(spans, limits)
    assert sorted(i for request in requests for i in request.members) == list(range(len(spans)))
    for request in requests:
        inside = [spans[i] for i in request.members]
        assert all(s.area is request.area and request.start <= s.start and s.end <= request.end for s in inside)
        assert request.start == min(s.start for s in inside)
        assert request.end == max(s.end for s in inside)
        assert request.count <= min(limits.batch(request.area), 2000 if request.area.one_bit else 125)
        covered = {number for s in inside for number in range(s.start, s.end)}
        hole = 0
        for number in range(request.start, request.end):
            hole = 0 if number in covered else hole + 1
            assert hole <= limits.gap(request.area)
        for area, barrier in limits.barriers:
            if area is request.area and request.start < barrier < request.end:
                assert any(s.start < barrier < s.end for s in inside)  # a single value cannot be cut
