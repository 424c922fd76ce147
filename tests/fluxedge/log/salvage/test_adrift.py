"""Rows adrift: those of the newest epoch come back with their seq and content, and none of another one is taken."""

from __future__ import annotations

import random
import sqlite3
import zlib
from pathlib import Path

import msgspec
import pytest

from fluxedge.log import Batch, Log
from fluxedge.log.database import read_witness
from fluxedge.log.salvage import adrift, copying
from fluxedge.log.salvage.adrift import Adrift, Leaf, leaf_of
from fluxedge.log.salvage.leaves import Pages
from fluxedge.log.salvage.wreck import Wreck
from fluxedge.log.segments import Segment
from fluxedge.model import Flag, Lane
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, event_of, group_of
from tests.fluxedge.log.salvage.test_salvage import GROUP, WIDE, Run, everything

PAGE = 1024
EPOCH = 1000  # ms
BEGAN_NS = EPOCH * 10**6
Rows = dict[tuple[Lane, int, int], bytes]  # lane, epoch, seq -> body


def leaf(seq: int, mono_ms: int, stamp_ns: int | None, lane: Lane = Lane.ROUNDS, boot: int = 1) -> Leaf:
    return Leaf(seq, (boot, mono_ms), lane, stamp_ns, 100)


def judged(*leaves: Leaf) -> Adrift:
    found = Adrift(EPOCH)
    found.look(leaves)
    found.look_again(leaves)
    return found


def test_rows_are_told_apart_by_the_time_of_their_commit() -> None:
    found = judged(leaf(50, 10, BEGAN_NS - 1), leaf(1, 20, BEGAN_NS), leaf(2, 30, None), leaf(51, 15, None))
    assert [found.is_newest(1, mono_ms) for mono_ms in (10, 15, 20, 30)] == [False, False, True, True]
    assert found.is_newest(2, 0), "a later boot"


def test_a_clock_that_was_ahead_makes_no_row_of_an_older_epoch_a_newer_one() -> None:
    found = judged(leaf(50, 10, BEGAN_NS + 10**15), leaf(1, 20, BEGAN_NS - 1))
    assert not found.is_newest(1, 10)
    assert found.made_up([]) == []


def test_stamps_that_are_not_ours_or_not_trusted_prove_nothing() -> None:
    found = judged(leaf(1, 10, None), leaf(2, 20, None))
    assert not found.is_newest(1, 20)
    assert found.made_up([]) == []


def test_what_is_missing_at_the_beginning_is_not_missed_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adrift, "PIECE_BYTES", 150)
    rows = [leaf(seq, seq, BEGAN_NS) for seq in (5000, 9000, 5001, 13000)]
    made = judged(*rows).made_up([])
    assert [(s.lane, s.epoch, s.first) for s in made] == [(0, EPOCH, 1), (0, EPOCH, 9000)]


def test_only_what_is_before_the_known_segments_is_made_up() -> None:
    known = [Segment(Lane.ROUNDS, 7, EPOCH, 9000, 0, 0), Segment(Lane.ROUNDS, 3, EPOCH - 1, 1, 0, 0)]
    rows = [leaf(seq, seq, BEGAN_NS) for seq in (5000, 5001, 9000, 13000)]
    assert [(s.first, s.number) for s in judged(*rows).made_up(known)] == [(5000, 0)]


async def fill(log: Log, clock: FakeClock, rng: random.Random, count: int) -> None:
    for i in range(count):
        clock.advance(1)
        batch = Batch()
        for group in (GROUP, WIDE) if i % 3 == 0 else (GROUP,):
            raws = [rng.randrange(2**16) for _ in group.points]
            log.add_round(batch, group.round(raws, clock.now_ns, clock.up_ns))
        if i % 2:
            log.add_event(batch, event_of(number=i, at_ns=clock.now_ns, text="x" * rng.randrange(900)))
        await log.commit(batch)


async def two_epochs(open_log: OpenLog, clock: FakeClock, state: Path) -> tuple[int, Rows]:
    """Leave a log of two epochs behind; return the newer one, and every row."""
    rng = random.Random(4)
    for _ in range(2):
        clock.advance(60)
        log = open_log(state, segment_bytes=20_000)
        await fill(log, clock, rng, 120)
        await log.close()
        witness = read_witness(state / "log.witness")
        assert witness is not None
        aside = msgspec.structs.replace(witness, inode=1)  # as if it had been copied: the next start is a new epoch
        whole = (state / "log.witness").read_bytes()
        (state / "log.witness").write_bytes(msgspec.json.encode(aside))
    (state / "log.witness").write_bytes(whole)
    with sqlite3.connect(state / "log.db") as connection:
        rows = {
            (Lane(lane), epoch, seq): body
            for lane, number, epoch in connection.execute("SELECT lane, number, epoch FROM segments").fetchall()
            for seq, body in connection.execute(f"SELECT seq, body FROM {Lane(lane).label}_{number:03d}")
        }
    connection.close()
    assert len({epoch for _, epoch, _ in rows}) == 2
    return log.epoch, rows


def spoil(path: Path, pages: set[int], rng: random.Random) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(rng.randbytes(PAGE))


def surviving(path: Path) -> set[tuple[int, bytes]]:
    """Return (seq, body) of every record of nine columns that can still be taken apart and has its checksum."""
    pages = Pages(path, PAGE, with_wal=False)
    try:
        found = [(seq, *record[7:]) for seq, record in pages.records(1, pages.count) if seq and len(record) == 9]
    finally:
        pages.close()
    return {(seq, body) for seq, crc, body in found if isinstance(body, bytes) and zlib.crc32(body) == crc}


@pytest.mark.parametrize("seed", range(12))
async def test_every_row_whose_pages_survived_comes_back_as_it_was(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, seed: int
) -> None:
    epoch, truth = await two_epochs(open_log, clock, tmp_path)
    path, rng = tmp_path / "log.db", random.Random(seed)
    count = path.stat().st_size // PAGE
    spoil(path, {*range(rng.randrange(3, 40)), *rng.sample(range(count), count * (seed % 4) // 8)}, rng)
    wreck = Wreck(tmp_path)
    for _ in wreck.look_around({group.key: group for group in (GROUP, WIDE)}):
        pass
    found = {(f.row.lane, f.row.epoch, f.row.seq): f.row.body for some in wreck.scan(wreck.segments) for f in some}
    wreck.close()
    assert found.items() <= truth.items(), "none is invented"
    there = surviving(path)
    wanted = {key for key, body in truth.items() if key[1] == epoch and (key[2], body) in there}
    assert len(wanted) > 20
    assert wanted <= found.keys()


async def test_a_log_without_its_head_is_salvaged(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    log = open_log()
    log.begin_uplink("up", [Lane.ROUNDS, Lane.EVENTS], "oldest")
    rng = random.Random(6)
    await fill(log, clock, rng, 100)
    before, epoch = await everything(log), log.epoch
    await log.close()
    spoil(tmp_path / "log.db", set(range(24)), rng)
    log = open_log()
    report = await Run(log).to_the_end()
    after = {key: body for key, body in (await everything(log)).items() if key[0] == epoch}
    assert after.items() <= before.items()
    assert len(after) == report["rounds"] + report["events"] > len(before) * 2 / 3
    assert report["lost"] == len(before) - len(after), "each one that is not there is announced"
    assert not report["older"]


async def test_rows_of_an_older_epoch_are_not_guessed_and_the_report_says_so(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAUSE_S", 0)
    epoch, truth = await two_epochs(open_log, clock, tmp_path)
    spoil(tmp_path / "log.db", set(range(24)), random.Random(8))
    log = open_log()
    run = Run(log)
    report = await run.to_the_end()
    assert report["older"]
    assert report["rounds"] > len(truth) / 4
    assert {found for found, _, _ in await everything(log)} <= {epoch, log.epoch}
    assert "records of older epochs were found" in run.said[-1].message


async def test_numbers_of_groups_are_not_believed_of_a_witness_that_is_of_another_file(
    open_log: OpenLog, clock: FakeClock, tmp_path: Path
) -> None:
    await two_epochs(open_log, clock, tmp_path)
    spoil(tmp_path / "log.db", set(range(24)), random.Random(7))
    witness = read_witness(tmp_path / "log.witness")
    assert witness is not None
    assert set(witness.groups.values()) == {GROUP.key, WIDE.key}
    (tmp_path / "log.witness").write_bytes(msgspec.json.encode(msgspec.structs.replace(witness, inode=1)))
    wreck = Wreck(tmp_path)
    for _ in wreck.look_around({group.key: group for group in (GROUP, WIDE)}):
        pass
    wreck.close()
    assert wreck.groups == {}


async def test_a_row_tells_its_lane_and_whether_its_stamp_counts(open_log: OpenLog, tmp_path: Path) -> None:
    log, group = open_log(), group_of("HH")
    for flags in (0, Flag.CLOCK_UNSYNCED, Flag.SOURCE_TIME):
        batch = Batch()
        log.add_round(batch, group.round([1, 2], 5, 6, flags=int(flags)))
        log.add_event(batch, msgspec.structs.replace(event_of(at_ns=7), flags=int(flags)))
        await log.commit(batch)
    await log.close()
    pages = Pages(tmp_path / "log.db", PAGE, with_wal=False)
    try:
        found = [told for record in pages.records(1, pages.count) if (told := leaf_of(record)) is not None]
    finally:
        pages.close()
    by_lane = {lane: [told.stamp_ns for told in found if told.lane is lane] for lane in Lane}
    assert by_lane == {Lane.ROUNDS: [5, None, None], Lane.EVENTS: [7, None, None]}
