"""Units: where one ends, when its rows arrived, and which hour a round is filed under."""

from __future__ import annotations

import pytest

from fluxedge.log.body import RawRound, Row, close_body, pack_round
from fluxedge.log.history.units import DAY_NS, MOST_HOURS, Now, Placer, RowHead, UnitScan, hour_end_ns
from fluxedge.log.placing import Places
from fluxedge.model import Flag, Lane
from tests.fluxedge.log.fake_clock import group_of

H = 3600 * 10**9
DAYS = 20_600  # 2026-05-27
NOW = Now(wall_ns=1000 * H + 600 * 10**9, mono_ns=50 * H, boot=3, oldest_ns=100 * H)
GROUP = group_of("H")


def raw(at_ns: int = 999 * H, mono_ns: int = 0, flags: int = 0) -> RawRound:
    return RawRound(1, at_ns, mono_ns, flags, b"", b"\0\0")


def head(mono_ns: int, boot: int = 3, to_ns: int = 0) -> RowHead:
    return RowHead(1, 1, boot, mono_ns // 10**6, 0, to_ns)


def row_of(stamps: list[int], seq: int, flags: int = 0, mono_ns: int = 0) -> Row:
    rounds = [GROUP.round((1,), at_ns, mono_ns, flags=flags) for at_ns in stamps]
    codec, crc, body = close_body([pack_round(1, r) for r in rounds])
    return Row(7, Lane.ROUNDS, seq, len(stamps), 3, codec, crc, body, min(stamps), max(stamps))


def scan_of(now: Now = NOW, places: Places | None = None, after: int = 0) -> UnitScan:
    return UnitScan(7, after, now, Placer(now, places or Places()), {1: GROUP})


def test_when_a_row_arrived_is_told_by_the_clock_of_its_boot() -> None:
    placer = Placer(NOW, Places([(2, 0, 5 * 3600_000, "ntp")]))
    assert placer.arrived_ns(head(49 * H)) == NOW.wall_ns - H
    assert placer.arrived_ns(head(H, boot=2, to_ns=2**62)) == 6 * H  # by its clock row
    assert placer.arrived_ns(head(H, boot=1, to_ns=700 * H)) == 700 * H
    assert (
        placer.arrived_ns(head(H, boot=1, to_ns=2**62)) == NOW.wall_ns - 50 * H
    )  # before the running boot at the latest


def test_a_unit_is_one_hour_of_arrivals() -> None:
    scan = scan_of()
    first_ns = NOW.mono_ns - 600 * 10**9 - 2 * H  # of the hour that closed two hours ago
    assert scan.take(head(first_ns + 1), row_of([998 * H + 1], 1))
    assert scan.take(head(first_ns + H - 1), row_of([999 * H - 1], 2))
    assert not scan.take(head(first_ns + H), row_of([999 * H - 1, 999 * H, 999 * H - 1], 3))
    assert (scan.unit.after, scan.unit.upto) == (0, 3)


def test_the_open_hour_is_not_taken() -> None:
    scan = scan_of()
    assert not scan.take(head(NOW.mono_ns - 1), row_of([NOW.wall_ns], 1))
    assert scan.unit.upto == 0


def test_after_a_step_of_the_clock_the_end_of_its_hour_is_still_one_unit() -> None:
    scan = scan_of()
    closed_mono_ns = NOW.mono_ns - 600 * 10**9  # by the clock as it is now; the rows were stamped ten minutes earlier
    for i in range(5):
        late = head(closed_mono_ns + i * 10**9)
        assert scan.take(late, row_of([1000 * H - 600 * 10**9 + i * 10**9], 1 + i))
    assert scan.unit.upto == 5


def test_a_stamp_of_the_devices_own_does_not_end_a_unit_inside_a_row() -> None:
    scan = scan_of()
    assert scan.take(head(NOW.mono_ns - H), row_of([5], 1, flags=Flag.SOURCE_TIME))
    assert not scan.take(head(NOW.mono_ns - 1), row_of([5], 2, flags=Flag.SOURCE_TIME))
    assert scan.unit.upto == 1


@pytest.mark.parametrize(("boot", "age_ns", "places", "waits"), [
    (3, H, Places(), True),
    (3, DAY_NS, Places(), False),
    (2, H, Places(), False),
    (3, H, Places([(3, 0, 1, "ntp")]), False),
])  # fmt: skip
def test_who_waits_for_the_clock(boot: int, age_ns: int, places: Places, waits: bool) -> None:
    placer = Placer(NOW, places)
    unsynced = raw(mono_ns=NOW.mono_ns - age_ns, flags=Flag.CLOCK_UNSYNCED)
    assert placer.must_wait(boot, unsynced) is waits
    assert not placer.must_wait(boot, unsynced._replace(flags=Flag.CLOCK_UNSYNCED | Flag.SOURCE_TIME))


def test_a_unit_ends_before_a_round_that_waits() -> None:
    scan = scan_of()
    assert scan.take(head(NOW.mono_ns - H), row_of([999 * H], 1))
    assert not scan.take(head(NOW.mono_ns - H), row_of([0], 2, Flag.CLOCK_UNSYNCED, NOW.mono_ns - H))
    assert (scan.unit.upto, scan.unit.waiting) == (1, True)


def test_what_was_copied_of_a_row_is_not_copied_again() -> None:
    scan = scan_of(after=2)
    assert scan.take(head(NOW.mono_ns - H), row_of([999 * H] * 4, 1))
    assert (scan.unit.upto, scan.unit.sizes[1]) == (4, 2 * raw().size_bytes)


def test_a_damaged_row_is_passed_where_its_hour_is_over() -> None:
    damaged = Row(7, Lane.ROUNDS, 1, 5, 3, 0, 99, b"")
    scan = scan_of()
    assert scan.take(head(NOW.mono_ns - H), damaged)
    assert (scan.unit.upto, scan.unit.skipped_rows) == (5, 1)
    scan = scan_of()
    assert not scan.take(head(NOW.mono_ns - 1), damaged)
    assert (scan.unit.upto, scan.unit.skipped_rows) == (0, 0)


def test_a_round_is_filed_under_the_hour_of_its_stamp_where_that_can_be() -> None:
    placer = Placer(NOW, Places())
    arrived_ns, arrived = DAYS * DAY_NS, DAYS * 24
    assert placer.hour(1, 500 * H + 1, arrived_ns) == 500
    assert placer.hour(1, arrived_ns + DAY_NS - 1, arrived_ns) == arrived + 23
    for impossible in (arrived_ns + DAY_NS, 99 * H, -(2**63), 2**63 - 1):
        assert placer.hour(1, impossible, arrived_ns) == arrived


def test_a_clock_that_was_never_set_does_not_judge_the_devices() -> None:
    assert Placer(NOW, Places()).hour(1, DAYS * DAY_NS, 999 * H) == DAYS * 24


def test_a_device_with_random_stamps_does_not_fill_the_folder() -> None:
    placer = Placer(Now(10**6 * H, 0, 1, 0), Places())
    hours = {placer.hour(1, i * 7 * H, 900_000 * H) for i in range(5 * MOST_HOURS)}
    assert len(hours) == MOST_HOURS + 1
    assert placer.hour(2, 7 * H, 900_000 * H) == 7
    placer.begin_unit()
    assert placer.hour(1, 4 * MOST_HOURS * 7 * H, 900_000 * H) == 4 * MOST_HOURS * 7


def test_a_placed_stamp_stays_within_64_bits() -> None:
    places = Places([(3, 0, 2**62, "ntp")])
    assert Placer(NOW, places).stamp_ns(3, raw(at_ns=5, mono_ns=1, flags=Flag.CLOCK_UNSYNCED)) == 5
    assert hour_end_ns(5 * H) == 6 * H
