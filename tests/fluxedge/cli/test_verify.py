"""`fluxedge verify` proves what came from sequence numbers alone."""

from __future__ import annotations

import asyncio
import json
import signal

import click
import msgspec
import paho.mqtt.client as paho
import paho.mqtt.publish as once
import pytest
from click.testing import CliRunner

from fluxedge.cli import verify
from fluxedge.cli.main import main
from fluxedge.verify import Verifier
from tests.conftest import Mosquitto, free_port
from tests.fluxedge.cli.sites import process


def message(seq: int, n: int, *, lane: str = "rounds", gateway: str = "gw", records: object = ()) -> bytes:
    body = {"gateway": gateway, "epoch": 7, "lane": lane, "seq": seq, "n": n, "records": records or [{}] * n}
    return msgspec.json.encode(body)


def gap(lo: int, hi: int, uplink: str = "cloud") -> bytes:
    data = {"uplink": uplink, "epoch": 7, "lane": "rounds", "lo": lo, "hi": hi, "why": "age"}
    return message(1, 1, lane="events", records=[{"kind": "gap", "item": f"uplink:{uplink}", "data": data}])


def watch(*payloads: bytes, since: int | None = None) -> verify.Watch:
    found = verify.Watch(Verifier(), since)
    for payload in payloads:
        found.verifier.take(payload)
    return found


async def verifying(
    broker: Mosquitto, payloads: list[bytes], *words: str, topic: str = "fluxedge/gw/rounds"
) -> tuple[int, str]:
    """Publish while it listens; return exit code and output."""
    child = await process("verify", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--duration", "1.5", *words)
    try:
        heads = child.stderr if "--json" in words else child.stdout
        assert heads is not None
        async with asyncio.timeout(20):
            assert (await heads.readline()).startswith(b"Subscribed at")
        for payload in payloads:
            await asyncio.to_thread(publish, broker.port, topic, payload)
        async with asyncio.timeout(20):
            out, errors = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode is not None
    return child.returncode, out.decode() + errors.decode()


def publish(port: int, topic: str, payload: bytes) -> None:
    once.single(topic, payload, qos=1, hostname="127.0.0.1", port=port, protocol=paho.MQTTv5)


def test_what_is_missing_is_told_as_ranges() -> None:
    found = watch(message(1, 3), message(6, 1), message(8, 3))
    assert found.missing == 3
    assert "  missing: 3 records: 4–5, 7" in [click.unstyle(line) for line in verify.conclusion(found)]


def test_an_announced_gap_is_not_missing() -> None:
    found = watch(message(1, 3), message(6, 1), gap(4, 5))
    assert found.missing == 0
    assert any("given up by the uplink cloud: 2: 4–5" in line for line in verify.conclusion(found))


def test_gaps_that_may_be_another_uplinks_explain_nothing_and_it_is_said_why() -> None:
    found = watch(message(1, 3), message(6, 1), message(8, 1), gap(4, 5), gap(7, 7, "backup"))
    assert found.missing == 3
    said = [click.unstyle(line) for line in verify.conclusion(found)]
    assert "  announced as given up by the uplink backup, which explains nothing here: 1: 7" in said
    assert any("gw has the uplinks backup and cloud." in line and "--uplink ID" in line for line in said)
    assert verify.summary(found)["ambiguous"] == ["gw"]


def test_an_uplink_that_no_event_names_is_pointed_out() -> None:
    found = verify.Watch(Verifier("clod"), None)
    for payload in (message(1, 3), message(6, 1), gap(4, 5)):
        found.verifier.take(payload)
    assert found.missing == 2
    assert any("names the uplink clod; they name cloud." in click.unstyle(line) for line in verify.conclusion(found))


@pytest.mark.parametrize(("uplink", "code"), [("here", 1), ("elsewhere", 0)])
async def test_only_the_named_uplinks_gap_explains_a_hole(broker: Mosquitto, uplink: str, code: int) -> None:
    payloads = [message(1, 2), message(4, 1), gap(3, 3, "elsewhere")]
    found, text = await verifying(broker, payloads, "--uplink", uplink)
    assert found == code, text


def test_the_beginning_counts_only_when_asked_for() -> None:
    assert watch(message(5, 2)).missing == 0
    assert watch(message(5, 2), since=1).missing == 4


def test_what_came_twice_is_told_and_is_no_loss() -> None:
    found = watch(message(1, 3), message(2, 2))
    assert found.missing == 0
    assert any("came twice: 2: 2–3" in line for line in verify.conclusion(found))


def test_many_ranges_are_cut() -> None:
    found = watch(*(message(2 * i + 1, 1) for i in range(40)))
    assert any("and 27 more ranges" in line for line in verify.conclusion(found))


def test_the_table_has_a_row_for_each_stream() -> None:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as capture:
        console.print(verify.table(watch(message(1, 3), message(6, 1), gap(4, 5), message(1, 1, gateway="other"))))
    rows = [line.split() for line in capture.get().splitlines()]
    assert ["gw", "7", "rounds", "1", "6", "4", "0", "2", "0"] in rows
    assert ["gw", "7", "events", "1", "1", "1", "0", "0", "0"] in rows
    assert ["other", "7", "rounds", "1", "1", "1", "0", "0", "0"] in rows


def test_the_summary_for_programs_has_the_ranges() -> None:
    body = verify.summary(watch(message(1, 3), message(6, 1)))
    (stream,) = body["streams"]
    assert (body["missing"], stream["missing"], stream["first"], stream["last"]) == (2, [[4, 5]], 1, 6)


async def test_a_stream_without_holes_is_success(broker: Mosquitto) -> None:
    code, text = await verifying(broker, [message(1, 2), message(3, 1)], "--json", "--from-start")
    assert code == 0, text
    assert json.loads(text)["records"] == 3


async def test_a_hole_is_a_failure(broker: Mosquitto) -> None:
    code, text = await verifying(broker, [message(1, 2), message(4, 1)])
    assert code == 1
    assert "3 records in" in text
    assert "1 of them missing" in text


async def test_another_topic_and_gateway_can_be_named(broker: Mosquitto) -> None:
    words = ("--topic", "plant/{gateway}/x", "--gateway", "gw")
    code, text = await verifying(broker, [message(1, 2)], *words, topic="plant/gw/x")
    assert code == 0, text


async def test_silence_is_a_failure_with_a_question(broker: Mosquitto) -> None:
    code, text = await verifying(broker, [])
    assert code == 1
    assert "No record came" in text


async def test_ctrl_c_ends_with_the_result(broker: Mosquitto) -> None:
    child = await process("verify", "--broker", f"mqtt://127.0.0.1:{broker.port}")
    assert child.stdout is not None
    async with asyncio.timeout(20):
        await child.stdout.readline()
        child.send_signal(signal.SIGINT)
        out, errors = await child.communicate()
    assert child.returncode == 1
    assert "No record came" in out.decode()
    assert errors == b""


async def test_a_broker_that_dies_ends_the_proof(broker: Mosquitto) -> None:
    child = await process("verify", "--broker", f"mqtt://127.0.0.1:{broker.port}")
    assert child.stdout is not None
    async with asyncio.timeout(20):
        await child.stdout.readline()
        broker.stop()
        out, _ = await child.communicate()
    assert child.returncode == 1
    assert "The connection was lost" in out.decode()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--broker", "http://x"], 2, "is not a scheme of brokers"),
        (["--broker", "mqtt://x", "--duration", "soon"], 2, "is not a duration"),
        (["--broker", "mqtts://x", "--cert", "/c"], 2, "give both or neither"),
        (["--broker", "mqtts://x", "--ca", "/nonexistent/ca"], 1, "/nonexistent/ca"),
    ],
)
def test_what_cannot_be_used_is_refused(words: list[str], code: int, says: str) -> None:
    result = CliRunner().invoke(main, ["verify", *words])
    assert result.exit_code == code
    assert says in result.stderr


async def test_a_broker_that_is_not_there_is_told() -> None:
    child = await process("verify", "--broker", f"mqtt://127.0.0.1:{free_port()}")
    async with asyncio.timeout(20):
        _, errors = await child.communicate()
    assert child.returncode == 1
    assert "Is the broker running" in errors.decode()
    assert "Traceback" not in errors.decode()
