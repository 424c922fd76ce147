"""`fluxedge check` says every mistake at once, what would run, and what is in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from tests.conftest import Mosquitto, free_port
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.cli.sites import Folder, served

METER = """
    [devices.meter-1]
    driver = "eastron-sdm120"
    channel = "tcp://127.0.0.1:{port}"
    unit = {unit}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def check(folder: Folder, *words: str) -> Result:
    return CliRunner().invoke(main, ["check", *folder.options, *words])


def test_all_mistakes_are_printed_with_file_and_line_and_the_exit_code_is_78(folder: Folder) -> None:
    folder.write("fluxedge.toml", '[log]\ncommit = "1 fortnight"\n')
    folder.write("devices/a.toml", METER.format(port=502, unit=300))
    result = check(folder)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("devices/a.toml:4: devices.meter-1.unit: 300 is not in")
    assert lines[1].startswith("fluxedge.toml:2: log.commit: ")
    assert "2 mistakes" in lines[-1]
    assert result.exit_code == 78


def test_a_configuration_without_mistakes_shows_its_read_plan(folder: Folder) -> None:
    folder.write("devices/a.toml", METER.format(port=502, unit=3))
    result = check(folder)
    assert result.exit_code == 0
    assert "FC04, unit 3: registers 0–31 (30001–30032), 6 points" in result.stdout
    assert "address 0, 2 registers" not in result.stdout
    assert "1 device, 13 points, 0 uplinks; no mistakes" in result.stdout


def test_the_plan_of_every_point_is_shown_on_request(folder: Folder) -> None:
    folder.write("devices/a.toml", METER.format(port=502, unit=3))
    assert "u: 30001 → FC04, address 0, 2 registers, ABCD" in check(folder, "-v").stdout


def test_the_json_form_has_mistakes_and_what_would_run(folder: Folder) -> None:
    folder.write("devices/a.toml", METER.format(port=502, unit=300) + '\n[devices.here]\ndriver = "host"\n')
    result = check(folder, "--format", "json")
    body = json.loads(result.stdout)
    assert (result.exit_code, body["ok"], body["fatal"]) == (78, False, False)
    assert [(m["file"], m["line"], m["path"]) for m in body["mistakes"]] == [
        ("devices/a.toml", 4, "devices.meter-1.unit")
    ]
    assert [device["id"] for channel in body["channels"] for device in channel["devices"]] == ["here"]
    assert list(body["left_out"]) == ["device:meter-1"]


def test_a_missing_directory_is_named_with_the_option_to_name_another(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    result = CliRunner().invoke(main, ["check", "--config", missing, "--state", str(tmp_path)])
    assert result.exit_code == 78
    assert f"{missing}: there is no such directory" in result.stdout
    assert "--config" in result.stdout


def test_a_configuration_without_devices_shows_how_a_first_one_is_written(folder: Folder) -> None:
    result = check(folder)
    assert result.exit_code == 0
    assert str(folder.etc / "devices" / "first.toml") in result.stdout
    assert 'driver  = "eastron-sdm630"' in result.stdout


def test_a_bad_item_with_a_last_good_version_says_that_it_goes_on(folder: Folder) -> None:
    from fluxedge.config import last_good
    from fluxedge.config.load import Layout
    from fluxedge.service import load_all

    folder.write("devices/a.toml", METER.format(port=502, unit=3))
    layout = Layout(folder.etc, folder.state)
    last_good.remember(layout, load_all(layout))
    folder.write("devices/a.toml", METER.format(port=502, unit=300))
    result = check(folder)
    assert "device meter-1 would go on as its last good version." in result.stdout
    assert "What would run: 1 channel, 1 device" in result.stdout


async def test_connect_asks_every_device_and_every_broker(folder: Folder, broker: Mosquitto) -> None:
    async with served(u1="eastron-sdm120") as server:
        folder.write("fluxedge.toml", f'[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{broker.port}"\n')
        folder.write("devices/a.toml", METER.format(port=server.port, unit=1))
        result = await verb("check", *folder.options, "--connect")
        assert result.exit_code == 0, result.output
        assert "device meter-1: answers in" in result.stdout
        assert f"uplink cloud: mqtt://127.0.0.1:{broker.port} takes this client" in result.stdout


async def test_connect_names_what_is_in_the_way_and_fails(folder: Folder) -> None:
    async with served(u1="eastron-sdm120") as server:
        folder.write("fluxedge.toml", f'[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{free_port()}"\n')
        folder.write(
            "devices/a.toml",
            METER.format(port=server.port, unit=7) + 'timeout = "100ms"\n'
            '[devices.line]\ndriver = "xy-md02"\nchannel = "serial:///dev/not-there"\n',
        )
        result = await verb("check", *folder.options, "--connect", "--json")
    trials = {trial["item"]: trial for trial in json.loads(result.stdout)["connect"]}
    assert result.exit_code == 1
    assert trials["device meter-1"]["code"] == "no-reply"
    assert "unit id" in trials["device meter-1"]["hint"]
    (serial,) = [trial for item, trial in trials.items() if item.startswith("channel serial")]
    assert serial["code"] == "port-missing"
    assert trials["uplink cloud"]["code"] == "uplink-down"
