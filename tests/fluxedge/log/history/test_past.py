"""The past side: day files of a few days open at a time, damage noted by name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fluxedge.log.history import past as past_module
from fluxedge.log.history import seam
from fluxedge.log.history.days import path_of
from fluxedge.log.history.past import Past
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import BASE_NS, HOUR, compact, fill, rounds, samples

DAY = 24 * HOUR
EVER = 2**62


async def filed(open_log: OpenLog, upto: int = 200) -> tuple[Path, int, list[int]]:
    """Return the folder, the epoch and the seqs of b.temp."""
    rng = random.Random(6)
    made = rounds(rng, 200)
    log = open_log()
    await fill(log, made, rng)
    compact(log.path.parent, log.epoch, upto)
    return log.path.parent / "history", log.epoch, [s.seq for s in samples(made, log.epoch, "b.temp")]


def seqs(past: Past) -> list[int]:
    found = []
    for day in past.days(-EVER, EVER):
        numbers = past.point(day, "b.temp")
        for head in past.heads(day, numbers, -EVER, EVER):
            part = past.samples(day, head, numbers[head.grp][1])
            found += list(part.seqs) if part is not None else []
    return found


async def test_every_sample_up_to_the_seam_and_none_behind_it(open_log: OpenLog) -> None:
    folder, epoch, wanted = await filed(open_log)
    past = Past(folder)
    past.refresh({epoch: 200})
    assert sorted(seqs(past)) == sorted(wanted)
    past.refresh({epoch: 90})
    assert sorted(seqs(past)) == sorted(seq for seq in wanted if seq <= 90)
    past.close()


async def test_few_files_are_open_at_a_time(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, epoch, wanted = await filed(open_log)
    monkeypatch.setattr(past_module, "OPEN_FILES", 1)
    past = Past(folder)
    past.refresh({epoch: 200})
    assert len(past.days(-EVER, EVER)) == 2
    assert sorted(seqs(past)) == sorted(wanted)
    assert len(past._readers) == 1
    past.close()


async def test_a_file_that_was_made_anew_is_opened_anew(open_log: OpenLog) -> None:
    folder, epoch, wanted = await filed(open_log)
    past = Past(folder)
    past.refresh({epoch: 200})
    seqs(past)
    day = BASE_NS // DAY
    path = path_of(folder, day)
    copy = path.read_bytes()
    path.unlink()
    past.refresh({epoch: 200})
    assert set(seqs(past)) < set(wanted)
    path.write_bytes(copy)
    past.refresh({epoch: 200})
    assert sorted(seqs(past)) == sorted(wanted)
    past.close()


async def test_a_damaged_chunk_is_named_with_its_file(open_log: OpenLog) -> None:
    folder, epoch, _ = await filed(open_log)
    path = path_of(folder, BASE_NS // DAY)
    path.write_bytes(path.read_bytes().replace(b"fxc1", b"nope"))
    past = Past(folder)
    past.refresh({epoch: 200})
    for day in past.days(-EVER, EVER):
        for number, group in (past.groups(day, ())).items():
            for head in past.heads(day, (number,), -EVER, EVER):
                past.samples(day, head, group.names.index("temp"))
    assert past.damaged
    assert all(path.name in text for text in past.damaged)
    past.close()


async def test_a_day_that_is_being_made_anew_is_named_as_unfinished(open_log: OpenLog) -> None:
    folder, epoch, _ = await filed(open_log)
    past = Past(folder)
    day = path_of(folder, BASE_NS // DAY)
    seam.save(folder, seam.Seam(rebuild=[day.stem, "no day"]))
    past.refresh({epoch: 200})
    past.note_unfinished(BASE_NS + 2 * DAY, BASE_NS + 3 * DAY)
    assert past.damaged == set()
    past.note_unfinished(BASE_NS, BASE_NS + 1)
    assert past.damaged == {f"{day.name}: it is being made anew after damage"}
    past.close()
