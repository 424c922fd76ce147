"""/metrics is OpenMetrics, read here by a parser that is not ours to please."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

from fluxedge.api.families import FAMILIES
from fluxedge.channels.link import Tally
from fluxedge.config.structs import UplinkCfg
from fluxedge.problems import DeviceProblem
from tests.conftest import free_port
from tests.fluxedge.api.running import Running, config, running

# OpenMetrics 1.0, "ABNF": a sample line of the simple kind
SAMPLE = re.compile(r'([a-z0-9_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?)')


def parse(text: str) -> dict[str, dict[str, float]]:
    """Return sample name -> labels -> value; every line must be one of the format's."""
    assert text.endswith("# EOF\n")
    found: dict[str, dict[str, float]] = {}
    family = ""
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            family = line.split()[2]
            assert family not in {name.removesuffix("_total") for name in found}, "families do not come in pieces"
            continue
        if line.startswith("# HELP "):
            assert line.split()[2] == family
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1].removeprefix(family) in ("", "_total", "_info", "_bucket", "_count", "_sum")
        assert (match[2] or "") not in found.setdefault(match[1], {})
        found[match[1]][match[2] or ""] = float(match[3])
    return found


async def test_every_family_is_exposed_and_the_text_is_valid(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        reply = await run.ask("GET", "/metrics")
    assert reply.kind.startswith("application/openmetrics-text; version=1.0.0")
    text = reply.body.decode()
    found = parse(text)
    assert {f"# TYPE {family.name} {family.kind}" for family in FAMILIES} <= set(text.splitlines())
    assert found["fluxedge_points_total"][""] >= 10
    assert found["fluxedge_device_reads_total"]['channel="boiler-1@gateway",device="boiler-1"'] >= 1
    assert found["fluxedge_uplink_behind_records"]['uplink="cloud",lane="rounds"'] > 0
    assert found["fluxedge_uplink_connected"]['uplink="cloud"'] == 0
    assert found["fluxedge_resident_memory_bytes"][""] > 10_000_000


async def test_a_histogram_has_cumulative_buckets_a_count_and_a_sum(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        delivery = run.gateway.forwarders["cloud"].counters.live.delivery
        for duration_s in (0.003, 0.003, 0.7, 1e6):
            delivery.add(duration_s)
        found = parse((await run.ask("GET", "/metrics")).body.decode())
    name, labels = "fluxedge_uplink_delivery_seconds", 'uplink="cloud",stream="live"'
    buckets = found[f"{name}_bucket"]
    assert [buckets[f'{labels},le="{le}"'] for le in ("0.0025", "0.005", "0.5", "1.0", "86400.0", "+Inf")] == [
        0, 2, 2, 3, 3, 4,
    ]  # fmt: skip
    assert found[f"{name}_count"][labels] == 4
    assert found[f"{name}_sum"][labels] == 1000000.71


async def test_everything_that_was_dropped_is_counted(run: Running) -> None:
    pipeline = run.gateway.pipeline
    pipeline.dropped_events_total, pipeline.dropped_rounds_total = 3, 2
    channel = SimpleNamespace(tally=Tally(timeouts=5, suspects=4, dropped_bytes=7))
    state = SimpleNamespace(opens=1, busy_s=0.0, state="open", since_ns=0)
    run.gateway.pollers["bus"] = SimpleNamespace(channel=channel, state=state, devices={})
    found = parse((await run.ask("GET", "/metrics")).body.decode())
    (bus,) = [one for one in (await run.ask("GET", "/api/v1/channels")).json if one["id"] == "bus"]
    status = (await run.ask("GET", "/api/v1/status")).json
    del run.gateway.pollers["bus"]
    assert found["fluxedge_dropped_events_total"] == {"": 3}
    assert found["fluxedge_dropped_rounds_total"] == {"": 2}
    assert found["fluxedge_channel_timeouts_total"] == {'channel="bus"': 5}
    assert found["fluxedge_channel_suspect_answers_total"] == {'channel="bus"': 4}
    assert found["fluxedge_channel_dropped_bytes_total"] == {'channel="bus"': 7}
    assert (bus["timeouts"], bus["suspects"], bus["dropped_bytes"]) == (5, 4, 7)
    assert status["dropped"] == {"events": 3, "rounds": 2, "bytes": 7}


async def test_problems_are_counted_by_code(run: Running) -> None:
    for name in ("a", "b"):
        run.gateway.problems.report(f"device:{name}", DeviceProblem("no-reply", "silent"))
    found = parse((await run.ask("GET", "/metrics")).body.decode())
    assert found["fluxedge_problems"] == {'code="no-reply"': 2.0}


def test_names_follow_the_convention() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"fluxedge(_[a-z0-9]+)*", family.name)
        assert not family.name.endswith("_total")
        assert family.text.endswith(".")
