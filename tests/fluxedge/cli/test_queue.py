"""`fluxedge queue`."""

from __future__ import annotations

import json
from pathlib import Path

from fluxedge.api.lag import Rate
from fluxedge.config.structs import UplinkCfg
from tests.conftest import free_port
from tests.fluxedge.api.running import config, running
from tests.fluxedge.cli.conftest import verb


class Steady(Rate):
    """A log that grows by 1000 bytes a second."""

    @property
    def per_s(self) -> float:
        return 1000.0


async def test_it_shows_how_far_an_uplink_without_broker_is_behind(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        run.api.sampler.log_bytes = Steady()
        found = json.loads((await verb("queue", "--json", "--state", str(tmp_path))).stdout)
        lines = (await verb("queue", "--state", str(tmp_path))).stdout.splitlines()
        glance = (await verb("status", "--state", str(tmp_path))).stdout
    lane = {lane["lane"]: lane for lane in found[0]["lanes"]}
    assert found[0]["state"] == "down"
    assert lane["rounds"]["records"] > 0
    assert lane["rounds"]["oldest_us"] > 0
    assert 0 < found[0]["autonomy_h"] < 31 * 24
    assert lines[0].split()[:6] == ["uplink", "state", "for", "lane", "behind", "oldest"]
    assert lines[1].split()[:2] == ["cloud", "down"]
    assert "cloud down" in glance
    assert "the log can wait" in glance


async def test_without_uplinks_it_says_so(say) -> None:
    assert "No uplinks are configured" in (await say("queue")).stdout
