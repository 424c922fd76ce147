"""`fluxedge read`: by URL without a daemon, by name through the running gateway."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from tests.conftest import free_port
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.cli.sites import Folder, served


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_a_device_is_read_by_its_driver_file(folder: Folder) -> None:
    async with served(u1="eastron-sdm120") as server:
        server.set(1, "u", 230.2)
        result = await verb("read", f"tcp://127.0.0.1:{server.port}", "--driver", "eastron-sdm120", *folder.options)
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("u ")]
    assert row.split() == ["u", "230.2", "V", "GOOD", "4366", "3333", "电压", "/", "Voltage"]
    assert "13 points in" in result.stdout


async def test_a_register_is_read_by_its_address_and_its_bytes_are_traced(folder: Folder) -> None:
    async with served(u3="eastron-sdm120") as server:
        result = await verb(
            "read", f"tcp://127.0.0.1:{server.port}", "--at", "30001", "--type", "float32", "--unit", "3", "--trace",
            *folder.options,
        )  # fmt: skip
    sent, received = result.stdout.splitlines()[:2]
    assert sent.endswith("ms  → 00 01 00 00 00 06 03 04 00 00 00 02")
    assert "ms  ← 00 01 00 00 00 07 03 04 04 " in received


async def test_a_low_word_first_value_is_read_with_its_order(folder: Folder) -> None:
    async with served(u1="carlo-gavazzi-em24-e1") as server:
        server.set(1, "p", -1.5)
        url = f"tcp://127.0.0.1:{server.port}"
        result = await verb("read", url, "--at", "hr:0x28", "--type", "int32", "--order", "CDAB", "--json")
    (point,) = json.loads(result.stdout)["points"]
    assert (point["value"], point["words"]) == (-15, "FFF1 FFFF")


async def test_a_point_that_could_not_be_read_makes_the_verb_fail(folder: Folder) -> None:
    async with served(u1="moxa-iologik-e1212") as server:
        result = await verb("read", f"tcp://127.0.0.1:{server.port}", "--at", "40900", *folder.options)
    assert result.exit_code == 1
    assert "exception 02" in result.stderr
    assert "BAD" in result.stdout


def test_a_port_that_a_gateway_may_own_is_explained(folder: Folder) -> None:
    (folder.state / "api.sock").touch()
    url = f"tcp://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(main, ["read", url, "--driver", "xy-md02", *folder.options])
    assert result.exit_code == 1
    assert "nothing listens on" in result.stderr
    assert "fluxedge read DEVICE" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tcp://x"], "give --driver NAME, or --at ADDRESS"),
        (["tcp://x", "--driver", "a", "--at", "40001"], "give --driver NAME, or --at ADDRESS"),
        (["192.168.1.10", "--at", "40001"], "tcp://192.168.1.10"),
        (["tcp://x", "u", "--at", "40001"], "--count"),
        (["tcp://x", "--at", "40001", "--timeout", "soon"], "is not a duration"),
        (["tcp://x", "--at", "99999"], "--at: "),
        (["tcp://x", "--at", "30001", "--type", "float33"], 'did you mean "float32"?'),
        (["tcp://x", "--driver", "xy-md20"], 'did you mean "xy-md02"?'),
        (["tcp://x", "humidty", "--driver", "xy-md02"], 'did you mean "humidity"?'),
        (["http://x", "--at", "40001"], "is not a scheme"),
        (["meter-1.u", "i"], "DEVICE POINT"),
    ],
)
def test_wrong_usage_says_what_to_write(words: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["read", *words])
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_driver_file_with_mistakes_is_no_wrong_usage(folder: Folder) -> None:
    folder.write("drivers/broken.toml", 'name = "Broken"\n')
    result = CliRunner().invoke(main, ["read", "tcp://x", "--driver", "broken", *folder.options])
    assert result.exit_code == 1
    assert "broken.toml:1: " in result.stderr


async def test_a_device_of_the_running_gateway_is_read_by_its_name(say: Callable[..., Awaitable[Result]]) -> None:
    listed = json.loads((await say("points", "--json")).stdout)
    device, _, name = listed[0]["id"].partition(".")
    whole = json.loads((await say("read", device, "--json")).stdout)
    assert [point["id"] for point in whole] == [point["id"] for point in listed if point["device"] == device]
    one = json.loads((await say("read", device, name, "--json")).stdout)
    assert one["id"] == listed[0]["id"]
    names = [point["id"].partition(".")[2] for point in listed if point["device"] == device][:2]
    two = json.loads((await say("read", device, *names, "--json")).stdout)
    assert [point["id"] for point in two] == [f"{device}.{name}" for name in names]
    assert len((await say("read", device, *names)).stdout.splitlines()) == 3


def test_without_a_gateway_a_name_is_answered_with_helpful_words(folder: Folder) -> None:
    result = CliRunner().invoke(main, ["read", "meter-1", "--state", str(folder.state)])
    assert result.exit_code == 3
    assert "fluxedge does not run" in result.stderr
