"""`fluxedge simulate` serves until Ctrl-C and prints a device file that works."""

from __future__ import annotations

import asyncio
import re
import signal
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from fluxedge.cli import simulate
from fluxedge.cli.main import main
from tests.conftest import free_port
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.cli.sites import Folder, process, shipped


@asynccontextmanager
async def simulating(*words: str) -> AsyncIterator[str]:
    """Give what it printed when it serves; end it by Ctrl-C, which must succeed without a word of complaint."""
    child = await process("simulate", *words)
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(20):
            text = (await child.stdout.readuntil(b"Ctrl-C ends.")).decode()
        yield text
        child.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            _, errors = await child.communicate()
        assert (child.returncode, errors) == (0, b"")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_tcp_units_are_served_and_the_printed_device_file_reads_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    async with simulating("xy-md02@3", "eastron-sdm120@7-8", "--tcp", "127.0.0.1:0") as text:
        start = text.index("[channels.simulated]")
        folder.write("devices/a.toml", text[start : text.index("Or read it at once")])
        result = await verb("check", *folder.options, "--connect")
    assert result.exit_code == 0, result.output
    assert [f"device {name}: answers" in result.output for name in ("xy-md02", "eastron-sdm120-7")] == [True, True]


async def test_the_printed_read_works_as_it_is(tmp_path: Path) -> None:
    async with simulating("xy-md02@3", "--tcp", "127.0.0.1:0") as text:
        (line,) = re.findall(r"fluxedge (read .*)", text)
        result = await verb(*line.replace("'", "").split())
    assert result.exit_code == 0, result.output


async def test_a_pseudo_terminal_is_reached_by_its_link_and_the_link_goes_with_it(tmp_path: Path) -> None:
    link = tmp_path / "bus"
    async with simulating("xy-md02", "--pty", str(link), "--baud", "38400"):
        assert link.is_symlink()
        url = f"serial://{link}?baud=38400"
        result = await verb("read", url, "--driver", "xy-md02", "temperature")
        assert result.exit_code == 0, result.output
    assert not link.is_symlink()


def test_units_count_up_from_the_products_own() -> None:
    found = simulate._units(("xy-md02", "xy-md02", "abb-b23@9"), None, None)
    assert {unit: driver.id for unit, driver in found.items()} == {1: "xy-md02", 2: "xy-md02", 9: "abb-b23"}


def test_the_device_file_of_one_unit_has_its_channel_in_place() -> None:
    text = simulate.device_file({3: shipped("xy-md02")}, "tcp://127.0.0.1:5020")
    wanted = {"driver": "xy-md02", "channel": "tcp://127.0.0.1:5020", "unit": 3}
    assert tomllib.loads(text) == {"devices": {"xy-md02": wanted}}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["xy-md02@3", "abb-b23@3"], "unit 3 is both xy-md02 and abb-b23"),
        (["xy-md02@300"], "300 is not in 1..247"),
        (["xy-md02", "--tcp", "here"], "is not HOST:PORT"),
        (["xy-md02", "--rtu", "/dev/x", "--pty", "y"], "give one of them"),
        ([], "Missing argument"),
        (["xy-md20"], 'did you mean "xy-md02"'),
        (["host"], "Modbus can be simulated"),
    ],
)
def test_wrong_usage_is_refused(words: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["simulate", *words])
    assert result.exit_code == 2
    assert says in result.stderr


async def test_a_port_that_is_not_there_is_said_in_one_line() -> None:
    child = await process("simulate", "xy-md02", "--rtu", "/dev/not-there")
    async with asyncio.timeout(20):
        _, errors = await child.communicate()
    assert child.returncode == 1
    assert "/dev/not-there" in errors.decode()
    assert "Traceback" not in errors.decode()


def test_a_driver_file_with_mistakes_is_explained(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("drivers/broken.toml", 'name = "Broken"\n')
    result = CliRunner().invoke(main, ["simulate", "broken", *folder.options])
    assert result.exit_code == 1
    assert "broken.toml:1: " in result.stderr


async def test_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    async with server:
        child = await process("simulate", "xy-md02", "--tcp", f"127.0.0.1:{port}")
        async with asyncio.timeout(20):
            _, errors = await child.communicate()
    assert child.returncode == 1
    assert f"127.0.0.1:{port}" in errors.decode()
