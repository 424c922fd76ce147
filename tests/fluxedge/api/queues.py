"""A running gateway with an uplink whose broker is away, for the tests of the queue."""

from __future__ import annotations

import asyncio
import contextlib
import typing
from collections.abc import AsyncIterator
from pathlib import Path

from fluxedge.config.structs import UplinkCfg
from fluxedge.log import quarantine
from fluxedge.log.query import Query, query
from fluxedge.model import Event, Lane
from tests.conftest import free_port
from tests.fluxedge.api.running import Running, config, running

R, E = Lane.ROUNDS, Lane.EVENTS


@contextlib.asynccontextmanager
async def waiting(state: Path) -> AsyncIterator[Running]:
    """Run a gateway whose uplink "cloud" has everything to do, and of whose rounds 2-4 and 7 were refused."""
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(state, config(uplinks=uplinks)) as run:
        await run.until(lambda: run.gateway.log.heads[R] >= 10)
        await refuse(run, 2, 4)
        await refuse(run, 7, 7, payload=b"\xff\xfe")
        yield run


async def refuse(run: Running, lo: int, hi: int, payload: bytes = b'{"n": 3}') -> None:
    """Let the peer have refused rounds."""
    log = run.gateway.log
    row = ("cloud", log.epoch, R, lo, hi, "payload format invalid", 5000, "application/json", payload)
    await log.write(lambda c: quarantine.add(c, [typing.cast(typing.Any, row)], 5000))
    log.cursors.settle("cloud", log.epoch, R, lo, hi)


async def rows(run: Running) -> list[int]:
    """Return the ids of the quarantine."""
    return [kept.id for kept in await run.gateway.log.look(quarantine.page)]


async def gaps(run: Running) -> list[tuple[str, int, int, str, bool]]:
    """Return (lane, lo, hi, why, announced) of every gap."""
    sql = "SELECT lane, lo, hi, why, said_seq > 0 FROM gap ORDER BY id"
    found = await run.gateway.log.look(lambda c: c.execute(sql).fetchall())
    return [(Lane(lane).label, lo, hi, why, bool(said)) for lane, lo, hi, why, said in found]


async def events(run: Running, kind: str) -> list[Event]:
    """Return the events of a kind that are durable."""

    return [typing.cast(Event, record.body) async for record in query(run.gateway.log.path, Query(E, kinds=[kind]))]


async def announced(run: Running) -> list[tuple[str, int, int, str, bool]]:
    """Return every gap as soon as there are some, and all of them are announced."""
    for _ in range(500):
        found = await gaps(run)
        if found and all(gap[4] for gap in found):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("not announced within 10 s")


async def audited(run: Running) -> Event:
    """Return the audit event as soon as it is durable."""
    for _ in range(500):
        if found := await events(run, "audit"):
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError("not durable within 10 s")
