"""`fluxedge points` and the reading of what the gateway reads."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fluxedge.cli import points
from fluxedge.cli.online import Daemon, Trouble
from tests.fluxedge.api.running import Running


async def test_all_points_with_value_quality_and_label(say) -> None:
    lines = (await say("points")).stdout.splitlines()
    assert lines[0].split() == ["point", "value", "quality", "age", "label"]
    assert len(lines) == 11
    row = next(line for line in lines if line.startswith("boiler-1.flow_temp"))
    assert "61.5 Cel" in row
    assert "GOOD" in row
    assert row.endswith("供水温度")


async def test_a_pattern_chooses(say) -> None:
    found = json.loads((await say("points", "*.pump", "--json")).stdout)
    assert [point["id"] for point in found] == ["boiler-1.pump", "boiler-2.pump"]
    assert found[0]["value"] is True


async def test_a_pattern_without_points_is_a_failure(say) -> None:
    done = await say("points", "nobody.*")
    assert done.exit_code == 1
    assert "no point matches nobody.*" in done.stderr


async def test_one_point_or_one_device_can_be_read(run: Running) -> None:
    import asyncio

    import click

    @click.command()
    @click.argument("target")
    def ask(target: str) -> None:
        points.now(Daemon(run.socket), target, (), False)

    one = await asyncio.to_thread(lambda: CliRunner().invoke(ask, ["boiler-1.setpoint"]))
    assert one.stdout.splitlines()[1].split()[:3] == ["boiler-1.setpoint", "55", "Cel"]
    device = await asyncio.to_thread(lambda: CliRunner().invoke(ask, ["boiler-2"]))
    assert len(device.stdout.splitlines()) == 6
    with pytest.raises(Trouble) as trouble:
        await asyncio.to_thread(points.now, Daemon(run.socket), "boiler-1.setpiont", (), False)
    assert trouble.value.hint == "Did you mean boiler-1.setpoint?"
