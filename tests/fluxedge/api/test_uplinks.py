"""How far a running gateway's uplinks are behind; the arithmetic of autonomy is in test_autonomy."""

from __future__ import annotations

from pathlib import Path

from fluxedge.api.uplinks import answers, autonomy_h, behind_records, waiting
from fluxedge.config.structs import UplinkCfg
from fluxedge.model import Lane
from tests.conftest import free_port
from tests.fluxedge.api.running import config, running
from tests.fluxedge.cli.test_queue import Steady


async def test_what_waits_ends_at_the_head_and_is_what_is_counted(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        view = run.gateway
        ((epoch, ranges),) = waiting(view, "cloud", Lane.ROUNDS)
        head = view.log.heads[Lane.ROUNDS]
        assert (epoch, list(ranges)) == (view.log.epoch, [(1, head)])
        assert behind_records(view, "cloud", Lane.ROUNDS) == head
        view.log.cursors.settle("cloud", epoch, Lane.ROUNDS, 1, head)
        assert waiting(view, "cloud", Lane.ROUNDS) == []


async def test_autonomy_is_known_as_soon_as_the_log_grows(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}", lanes=["rounds"])}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        assert autonomy_h(run.gateway, run.api.sampler, "cloud") is None
        run.api.sampler.log_bytes = Steady()
        (found,) = await answers(run.gateway, run.api.sampler)
        assert found.autonomy_h == autonomy_h(run.gateway, run.api.sampler, "cloud")
        assert found.autonomy_h is not None
        assert 0 < found.autonomy_h <= 400 * 24
