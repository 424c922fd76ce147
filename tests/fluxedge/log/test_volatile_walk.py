"""Random walks between disk and memory: promised = delivered + announced gap, and nothing acknowledged comes again."""

from __future__ import annotations

import random
import sqlite3
import typing

import pytest

from fluxedge.log import Batch, Log, LogFault, media, move
from fluxedge.log.body import records
from fluxedge.model import Lane, Round
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.fake_clock import FakeClock, group_of, round_of
from tests.fluxedge.log.sick_disk import Sickness, io_error

R = Lane.ROUNDS
GROUP = group_of("Iy")
UPLINKS = ["one", "two"]


class Walk:
    """A log, two uplinks, and a disk that fails in the middle of anything."""

    def __init__(self, open_log: OpenLog, sick: Sickness, clock: FakeClock, seed: int) -> None:
        self.rng = random.Random(seed)
        self._open_log = open_log
        self._sick, self._clock = sick, clock
        self.promised: dict[tuple[int, int], int] = {}  # epoch, seq -> value
        self.delivered: dict[str, set[tuple[int, int]]] = {uplink: set() for uplink in UPLINKS}
        self._value = 0
        self.homecomings = 0
        self.log = self._open()

    def _open(self) -> Log:
        log = self._open_log(segment_bytes=3000)
        for uplink in UPLINKS:
            log.begin_uplink(uplink, [R], "oldest")
        return log

    async def commit(self) -> None:
        batch, values = Batch(), []
        for _ in range(self.rng.randrange(1, 4)):
            self._value += 1
            values.append(self._value)
            self.log.add_round(batch, round_of(GROUP, self._value, self.rng.randbytes(200)))
        for _ in range(self.rng.randrange(1, 4)):  # as often as the pipeline would try
            try:
                await self.log.commit(batch)
            except LogFault:
                await self.housekeep()
                continue
            head = self.log.heads[R]
            for seq, value in zip(range(head - len(values) + 1, head + 1), values, strict=True):
                assert (self.log.epoch, seq) not in self.promised, "a seq is used twice"
                self.promised[self.log.epoch, seq] = value
            return

    async def deliver(self, uplink: str = "", limit_bytes: int = 600) -> bool:
        uplink = uplink or self.rng.choice(UPLINKS)
        for epoch, ranges in self.log.cursors.of(uplink, R):
            head = self.log.heads[R] if epoch == self.log.epoch else self.log.last_of(epoch, R)
            stretch = ranges.first_from(1)
            if stretch is None or stretch[0] > head:
                continue
            rows = await self.log.read(epoch, R, stretch[0], limit_bytes, lambda rows, groups: (rows, groups))
            for record in [record for row in rows[0] for record in records(row, rows[1])]:
                if record.seq in ranges and record.seq <= stretch[1]:
                    key = (epoch, record.seq)
                    assert key not in self.delivered[uplink], "acknowledged before"
                    assert typing.cast(Round, record.body).values[0] == self.promised[key]
                    self.delivered[uplink].add(key)
                    self.log.cursors.settle(uplink, epoch, R, record.seq, record.seq)
            return True
        return False

    async def housekeep(self) -> None:
        in_memory = self.log.memory is not None
        try:
            await self.log.housekeep(UPLINKS)
        except LogFault:
            pass
        self.homecomings += in_memory and self.log.memory is None

    async def pass_time(self) -> None:
        self._clock.advance(self.rng.choice([1, 5, 20]))
        await self.housekeep()

    async def fall_ill(self) -> None:
        if self.rng.random() < 0.5:
            self._sick.error = io_error(self.rng.choice(["SQLITE_IOERR_WRITE", "SQLITE_FULL", "SQLITE_READONLY"]))
        else:
            self._sick.takes = self.rng.randrange(6)

    async def get_well(self) -> None:
        self._sick.error, self._sick.takes = None, -1

    async def restart(self) -> None:
        await self.get_well()
        await self.log.close()
        self.log = self._open()
        assert self.log.memory is None
        assert self.log.new_epoch_because == ""

    async def announced(self, uplink: str) -> set[tuple[int, int]]:
        def read(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
            return connection.execute("SELECT epoch, lo, hi FROM gap WHERE uplink = ?", (uplink,)).fetchall()

        gaps = await self.log.look(read)
        return {(epoch, seq) for epoch, lo, hi in gaps for seq in range(lo, hi + 1)}


@pytest.mark.parametrize("seed", range(8))
async def test_between_disk_and_memory_nothing_is_lost_doubled_or_forgotten(
    open_log: OpenLog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(media, "MEMORY_BYTES", 90 << 10)
    monkeypatch.setattr(media, "_MEMORY_SEGMENT_BYTES", 2000)
    monkeypatch.setattr(move, "PAGE_BYTES", 1500)
    sick = Sickness(monkeypatch)
    honest = media.Writer

    class Weak(honest):  # type: ignore[valid-type, misc]
        def _transact(self, job: typing.Any) -> typing.Any:
            on_disk = self._connection.execute("PRAGMA database_list").fetchone()[2]
            if on_disk and sick.error is not None:
                raise sick.error
            if on_disk and sick.takes == 0:
                raise io_error()
            sick.takes -= bool(on_disk)
            return super()._transact(job)

    monkeypatch.setattr(media, "Writer", Weak)
    walk = Walk(open_log, sick, clock, seed)
    steps = {
        walk.commit: 30, walk.deliver: 8, walk.pass_time: 6, walk.fall_ill: 3, walk.get_well: 3, walk.restart: 0.5,
    }  # fmt: skip
    for step in walk.rng.choices(list(steps), list(steps.values()), k=500):
        await step()
    await walk.get_well()
    while walk.log.memory is not None:
        await walk.pass_time()
    await walk.commit()
    await walk.restart()
    assert walk.homecomings > 0
    for uplink in UPLINKS:
        while await walk.deliver(uplink, 1 << 20):
            pass
        gaps = await walk.announced(uplink)
        assert not gaps & walk.delivered[uplink]
        assert gaps | walk.delivered[uplink] >= set(walk.promised)
    assert len(walk.promised) > 300
