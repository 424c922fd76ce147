"""Queries: the same answer wherever the rounds are, and that of the slow and obvious way."""

from __future__ import annotations

import random
import typing
from collections.abc import Sequence
from pathlib import Path

import pytest

from fluxedge.columns import json_value
from fluxedge.log import Log
from fluxedge.log.history import hot
from fluxedge.log.history import query as query_module
from fluxedge.log.history.buckets import edges
from fluxedge.log.history.query import Question, Reading, Refused
from fluxedge.model import Quality, Round
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import (
    BASE_NS,
    HOUR,
    POINTS,
    S,
    Stretch,
    asked,
    bucket,
    compact,
    drop_compacted,
    fill,
    rounds,
    samples,
)

FROM, TO = BASE_NS - 4 * HOUR, BASE_NS + 5 * HOUR
NUMBERS = {"a.temp", "a.count", "a.flow", "b.temp"}


async def filled(open_log: OpenLog, seed: int, count: int = 400) -> tuple[Log, list[Round], random.Random]:
    rng = random.Random(seed)
    made = rounds(rng, count)
    log = open_log(segment_bytes=3000)
    await fill(log, made, rng)
    return log, made, rng


def same(found: float | None, wanted: Stretch) -> bool:
    """Compare means: rollups keep them to 1/131070 of the distance between minimum and maximum."""
    if found is None or wanted.mean is None or wanted.min is None or wanted.max is None:
        return found is wanted.mean
    return abs(found - wanted.mean) <= (wanted.max - wanted.min) / 131_070 + 1e-9 * abs(wanted.mean)


def check_buckets(
    reading: Reading, made: Sequence[Round], epoch: int, name: str, span: tuple[int, int], count: int, now_ns: int = TO
) -> None:
    """Hold one answer against the reference; everything but the mean to the last bit."""
    rows = asked(reading, "buckets", [name], *span, count=count, now_ns=now_ns)
    bounds = edges(*span, count)
    assert len(rows) == len(bounds) - 1
    all_ = samples(made, epoch, name)
    for row, from_ns, to_ns in zip(rows, bounds, bounds[1:], strict=False):
        wanted = bucket(all_, from_ns, to_ns, now_ns, number=name in NUMBERS)
        assert (row["from_us"], row["to_us"]) == (from_ns // 1000, to_ns // 1000)
        exact = [row[key] for key in ("count", "last", "min", "max")]
        assert exact == [json_value(v) for v in (wanted.count, wanted.last, wanted.min, wanted.max)], (name, from_ns)
        assert same(row["mean"], wanted), (name, from_ns, row, wanted)


def check(state: Path, made: Sequence[Round], epoch: int, rng: random.Random) -> None:
    """Ask in many ways, and hold each answer against the reference."""
    reading = Reading(state)
    try:
        for name in POINTS:
            all_ = samples(made, epoch, name)
            spans = [(FROM, TO), (BASE_NS + rng.randrange(HOUR), BASE_NS + 2 * HOUR + rng.randrange(HOUR))]
            for span in spans:
                rows = asked(reading, "raw", [name], *span)
                wanted = [sample for sample in all_ if span[0] <= sample.at_ns < span[1]]
                assert [(row["at_us"], row["epoch"], row["seq"]) for row in rows] == [
                    (sample.at_ns // 1000, sample.epoch, sample.seq) for sample in wanted
                ]
                assert [(row["value"], row["quality"]) for row in rows] == [
                    (json_value(sample.value), Quality(sample.quality).name) for sample in wanted
                ]
                for count in (1, 3, 40):
                    check_buckets(reading, made, epoch, name, span, count)
            check_buckets(reading, made, epoch, name, (FROM, TO), 24, now_ns=BASE_NS + 2 * HOUR + 7 * S)
            check_buckets(reading, made, epoch, name, (FROM, FROM + 6 * HOUR), 6)
            for at_ns in (FROM, BASE_NS + rng.randrange(4 * HOUR), all_[len(all_) // 2].at_ns, TO):
                earlier = [sample for sample in all_ if sample.at_ns <= at_ns]
                rows = asked(reading, "at", [name], at_ns, at_ns)
                assert [row["seq"] for row in rows] == [sample.seq for sample in earlier[-1:]]
    finally:
        reading.close()


@pytest.mark.parametrize("seed", range(3))
async def test_all_in_the_log(open_log: OpenLog, seed: int) -> None:
    log, made, rng = await filled(open_log, seed)
    check(log.path.parent, made, log.epoch, rng)


@pytest.mark.parametrize("seed", range(3, 6))
async def test_all_in_the_history(open_log: OpenLog, seed: int) -> None:
    log, made, rng = await filled(open_log, seed)
    state = log.path.parent
    compact(state, log.epoch, len(made))
    await log.close()
    assert drop_compacted(state)
    check(state, made, log.epoch, rng)


@pytest.mark.parametrize("seed", range(6, 12))
async def test_cut_anywhere(open_log: OpenLog, seed: int) -> None:
    log, made, rng = await filled(open_log, seed)
    state = log.path.parent
    for upto in sorted(rng.randrange(1, len(made)) for _ in range(3)):
        compact(state, log.epoch, upto)
    await log.close()
    if seed % 2:
        drop_compacted(state)
    check(state, made, log.epoch, rng)


@pytest.mark.parametrize("seed", range(12, 15))
async def test_a_run_of_the_compactor_that_did_not_end_counts_nothing_twice(open_log: OpenLog, seed: int) -> None:
    log, made, rng = await filled(open_log, seed)
    state = log.path.parent
    compact(state, log.epoch, 150)
    compact(state, log.epoch, 300, noted=False)
    check(state, made, log.epoch, rng)


@pytest.mark.parametrize("seed", range(15, 19))
async def test_the_seam_may_move_while_a_query_runs(
    open_log: OpenLog, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, made, rng = await filled(open_log, seed)
    state, epoch = log.path.parent, log.epoch
    await log.close()
    reading = Reading(state)
    monkeypatch.setattr(query_module, "LINES", 7)
    monkeypatch.setattr(hot, "KEPT_SAMPLES", 1)  # what was read is read again for each point and hour
    question = Question("raw", POINTS, FROM, TO, TO)
    dropped = 0
    seen: list[bytes] = []
    for count, piece in enumerate(reading.answer(question), 1):
        seen += piece.splitlines()
        if count % 20 == 0 and count < 200:
            compact(state, epoch, min(len(made), count * 2))
            dropped += drop_compacted(state)
    reading.close()
    assert dropped > 3
    wanted = [(name, sample.seq) for name in POINTS for sample in samples(made, epoch, name)]
    rows = [query_module.msgspec.json.decode(line) for line in seen[1:-1]]
    assert [(row["point"], row["seq"]) for row in rows] == wanted
    check(state, made, epoch, rng)


async def test_a_point_that_nobody_recorded_is_refused(open_log: OpenLog) -> None:
    log, _, _ = await filled(open_log, 1, 20)
    reading = Reading(log.path.parent)
    with pytest.raises(Refused, match=r'the point "a\.tmp"') as caught:
        asked(reading, "raw", ["a.tmp"], FROM, TO)
    reading.close()
    assert caught.value.code == "not-found"


async def test_a_point_that_only_the_history_knows_is_answered(open_log: OpenLog, tmp_path: Path) -> None:
    log, made, _ = await filled(open_log, 2, 100)
    compact(log.path.parent, log.epoch, len(made))
    await log.close()
    other = open_log(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    assert other is not None
    (log.path.parent / "history").rename(tmp_path / "other" / "history")
    reading = Reading(tmp_path / "other")
    rows = asked(reading, "raw", ["b.temp"], FROM, TO)
    reading.close()
    assert [row["seq"] for row in rows] == [sample.seq for sample in samples(made, log.epoch, "b.temp")]


def test_there_must_be_a_log(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no log"):
        Reading(tmp_path)


async def test_a_damaged_day_is_named_and_the_others_are_answered(open_log: OpenLog) -> None:
    log, made, _ = await filled(open_log, 3)
    state = log.path.parent
    compact(state, log.epoch, len(made))
    first, second = sorted((state / "history").glob("*.db"))
    second.write_bytes(b"\0" * 8192)
    reading = Reading(state)
    question = Question("raw", ("b.temp",), FROM, TO, TO)
    lines: list[typing.Any] = [
        query_module.msgspec.json.decode(line) for piece in reading.answer(question) for line in piece.splitlines()
    ]
    reading.close()
    end_ns = (BASE_NS // (24 * HOUR) + 1) * 24 * HOUR
    wanted = [sample.seq for sample in samples(made, log.epoch, "b.temp") if sample.at_ns < end_ns]
    assert [row["seq"] for row in lines[1:-1]] == wanted
    assert len(lines[-1]["end"]["damaged"]) == 1
    assert second.name in lines[-1]["end"]["damaged"][0]
    assert first.exists()
