"""The flash ledger: bytes per point and per day, the life of the card, and what keeping the book costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxedge.log import Batch, Log
from fluxedge.log.flash import FlashLedger
from fluxedge.problems import ProblemBook
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, event_of

TB = 10**12
DAY_S = 86_400


class Card:
    """A card in a tree as sysfs makes it, a process that writes, and points that are stored."""

    def __init__(self, folder: Path, held: Path, cid: str = "15") -> None:
        self.sys = folder
        self.device = folder / "devices" / "mmcblk0"
        (self.device / "device").mkdir(parents=True)
        (self.device / "device" / "cid").write_text(cid)
        links = folder / "dev" / "block"
        links.mkdir(parents=True)
        number = held.stat().st_dev
        (links / f"{os.major(number)}:{os.minor(number)}").symlink_to(self.device)
        self.io = folder / "io"
        self.points = self.gateway_bytes = self.device_bytes = 0
        self.write(0, 0, 0)

    def write(self, gateway_bytes: int, device_bytes: int, points: int) -> None:
        self.gateway_bytes += gateway_bytes
        self.device_bytes += device_bytes
        self.points += points
        self.io.write_text(f"rchar: 1\nwrite_bytes: {self.gateway_bytes}\ncancelled_write_bytes: 0\n")
        (self.device / "stat").write_text(f"1 2 3 4 5 6 {self.device_bytes // 512} 8 9 10 11\n")

    def says(self, life_time: str, pre_eol_info: str) -> None:
        (self.device / "device" / "life_time").write_text(life_time)
        (self.device / "device" / "pre_eol_info").write_text(pre_eol_info)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path / "sys", tmp_path)


@pytest.fixture
def problems(clock: FakeClock) -> ProblemBook:
    return ProblemBook(clock.wall_ns)


async def ledger_of(
    log: Log, clock: FakeClock, card: Card, problems: ProblemBook, endurance_bytes: int = 0, boot: str = "b1"
) -> FlashLedger:
    made = FlashLedger(
        log, clock, problems, lambda: card.points, endurance_bytes, sys=card.sys, io=card.io, boot=boot
    )  # fmt: skip
    await made.load()
    made.sample()
    return made


async def test_bytes_per_point_and_day_are_of_what_was_written(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    card.write(10**9, 10**9, 0)  # before the start: it is no part of the rates
    ledger = await ledger_of(open_log(), clock, card, problems)
    assert (ledger.bytes_per_point, ledger.bytes_per_day, ledger.device_bytes_per_day) == (None, None, None)
    for _ in range(60):
        card.write(60_000 * 7, 60_000 * 8, 60_000)
        clock.advance(60)
        ledger.sample()
    assert ledger.bytes_per_point == 7
    assert ledger.bytes_per_day == pytest.approx(1000 * DAY_S * 7)
    assert ledger.device_bytes_per_day == pytest.approx(1000 * DAY_S * 8, rel=1e-5)
    assert ledger.gateway_bytes == 10**9 + 3_600_000 * 7
    assert ledger.device_bytes == pytest.approx(10**9 + 3_600_000 * 8, abs=512)


async def test_the_window_forgets_what_is_older_than_a_day(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    ledger = await ledger_of(open_log(), clock, card, problems)
    for rate in (100, 10):
        for _ in range(24 * 6 + 1):
            card.write(rate * 1000, 0, 1000)
            clock.advance(600)
            ledger.sample()
    assert ledger.bytes_per_point == 10


async def test_without_points_there_is_no_figure_per_point(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    ledger = await ledger_of(open_log(), clock, card, problems)
    card.write(1000, 1000, 0)
    clock.advance(120)
    ledger.sample()
    assert ledger.bytes_per_point is None
    assert ledger.bytes_per_day == 1000 * DAY_S / 120


async def test_a_life_is_what_the_endurance_leaves_at_this_pace(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    card.write(0, 10 * TB, 0)
    ledger = await ledger_of(open_log(), clock, card, problems, 30 * TB)
    assert ledger.life_days is None  # there is no pace yet
    clock.advance(DAY_S / 24)
    card.write(0, TB // 1000, 0)
    ledger.sample()
    assert ledger.device_bytes_per_day == pytest.approx(24 * TB / 1000)
    assert ledger.life_days == pytest.approx((20 * TB - TB / 1000) / (24 * TB / 1000))
    assert ledger.used_percent == pytest.approx(100 * 10.001 / 30)


async def test_without_an_endurance_there_is_no_projection(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    ledger = await ledger_of(open_log(), clock, card, problems)
    clock.advance(3600)
    card.write(0, TB, 0)
    ledger.sample()
    assert ledger.device_bytes_per_day == pytest.approx(24 * TB)
    assert (ledger.life_days, ledger.used_percent) == (None, None)


async def test_a_life_that_is_over_is_no_days_long(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    card.write(0, TB, 0)
    ledger = await ledger_of(open_log(), clock, card, problems, TB)
    clock.advance(3600)
    card.write(0, TB, 0)
    ledger.sample()
    assert ledger.life_days == 0


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_the_total_goes_on_over_restarts_and_boots(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    log = open_log()
    card.write(0, 4096, 0)
    first = await ledger_of(log, clock, card, problems)
    assert first.lifetime_bytes == 4096  # of the boot, also before the start
    await first.save()
    card.write(0, 4096, 0)  # while no gateway ran
    second = await ledger_of(log, clock, card, problems)
    assert second.lifetime_bytes == 8192
    await second.save()
    card.device_bytes = 0
    card.write(0, 1024, 0)
    third = await ledger_of(log, clock, card, problems, boot="b2")
    assert third.lifetime_bytes == 8192 + 1024
    await third.save()
    assert (await ledger_of(log, clock, card, problems, boot="b2")).lifetime_bytes == 8192 + 1024


async def test_a_log_that_was_copied_to_another_card_begins_its_life_anew(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook, tmp_path: Path
) -> None:
    log = open_log()
    card.write(0, 10 * TB, 0)
    await (await ledger_of(log, clock, card, problems)).save()
    other = Card(tmp_path / "sys2", tmp_path, cid="16")
    other.write(0, 1024, 0)
    assert (await ledger_of(log, clock, other, problems, boot="b2")).lifetime_bytes == 1024


@pytest.mark.parametrize("kept", [b"", b"\xff\x00 no total", b"\x81\xa1a\x01"])
async def test_a_row_that_cannot_be_read_costs_the_history_only(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook, kept: bytes
) -> None:
    log = open_log()
    await log.write(lambda c: c.execute("INSERT INTO state VALUES ('flash', ?)", (kept,)))
    card.write(0, 1024, 0)
    assert (await ledger_of(log, clock, card, problems)).lifetime_bytes == 1024


async def test_sampling_writes_nothing(open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook) -> None:
    log = open_log()
    batch = Batch()
    log.add_event(batch, event_of())
    await log.commit(batch)
    ledger = await ledger_of(log, clock, card, problems)
    wal = log.path.with_name("log.db-wal")
    before = wal.stat().st_mtime_ns, wal.stat().st_size
    for _ in range(59):
        clock.advance(60)
        ledger.sample()
    assert (wal.stat().st_mtime_ns, wal.stat().st_size) == before
    await ledger.save()
    assert wal.stat().st_size - before[1] < 8192  # once an hour


# --- where there is nothing to count ----------------------------------------------------------------------------------


async def test_without_a_device_the_process_still_counts(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    for link in (card.sys / "dev" / "block").iterdir():
        link.unlink()
    ledger = await ledger_of(open_log(), clock, card, problems, TB)
    card.write(700, 900, 100)
    clock.advance(3600)
    ledger.sample()
    assert ledger.bytes_per_point == 7
    figures = (ledger.device_bytes, ledger.lifetime_bytes, ledger.device_bytes_per_day)
    assert (*figures, ledger.used_percent, ledger.life_days) == (None,) * 5


async def test_counters_that_cannot_be_read_end_nothing(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    ledger = await ledger_of(open_log(), clock, card, problems, TB)
    (card.device / "stat").write_text("")
    card.io.unlink()
    clock.advance(3600)
    ledger.sample()
    assert ledger.gateway_bytes == 0
    (card.device / "stat").unlink()
    ledger.sample()


# --- a card that is worn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life_time", "pre_eol_info", "stands"),
    [
        ("0x08 0x01", "0x01", False),
        ("0x09 0x01", "0x01", True),
        ("0x02 0x01", "0x02", True),
        ("0x0b 0x01", "0x00", True),
    ],
)
async def test_an_emmc_that_is_worn_is_a_problem(
    open_log: OpenLog,
    clock: FakeClock,
    card: Card,
    problems: ProblemBook,
    life_time: str,
    pre_eol_info: str,
    stands: bool,
) -> None:
    card.says(life_time, pre_eol_info)
    await ledger_of(open_log(), clock, card, problems)
    assert problems.stands("flash", "flash-worn") is stands


async def test_an_endurance_that_is_used_up_is_a_problem(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    card.write(0, 9 * TB, 0)
    await ledger_of(open_log(), clock, card, problems, 10 * TB)
    (standing,) = problems.of("flash")
    assert standing.message == "mmcblk0: 90 % of its life are used"


async def test_the_wear_that_a_device_admits_shortens_the_projection(
    open_log: OpenLog, clock: FakeClock, card: Card, problems: ProblemBook
) -> None:
    card.says("0x05 0x01", "0x01")
    ledger = await ledger_of(open_log(), clock, card, problems, 10 * TB)
    clock.advance(DAY_S)
    card.write(0, TB, 0)
    ledger.sample()
    assert ledger.used_percent == 50
    assert ledger.life_days == 5  # not the nine days that its own count leaves
