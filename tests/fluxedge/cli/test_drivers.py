"""`fluxedge drivers` lists products and shows what a driver file says."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from tests.fluxedge.cli.sites import Folder


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("drivers"))


def drivers(folder: Folder, *words: str) -> Result:
    return CliRunner().invoke(main, ["drivers", words[0], *folder.options, *words[1:]])


def test_the_list_has_every_shipped_driver_with_its_number_of_points(folder: Folder) -> None:
    lines = drivers(folder, "ls").stdout.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("eastron-sdm120 ")]
    assert row[-4:] == ["modbus", "13", "document", "shipped"]


def test_an_own_driver_is_listed_with_its_layer(folder: Folder) -> None:
    folder.write(
        "drivers/xy-md02.toml",
        'name = "Mine"\nprotocol = "modbus"\nsource = "me"\n[points]\na = { at = "40001" }\n',
    )
    listed = {row["id"]: row for row in json.loads(drivers(folder, "ls", "--json").stdout)}
    assert (listed["xy-md02"]["name"], listed["xy-md02"]["layer"]) == ("Mine", "config")
    assert listed["eastron-sdm120"]["layer"] == "shipped"


def test_a_driver_with_mistakes_stays_in_the_list_and_is_explained_by_show(folder: Folder) -> None:
    folder.write("drivers/broken.toml", 'name = "Broken"\n')
    assert "mistakes: fluxedge drivers show broken" in drivers(folder, "ls").stdout
    result = drivers(folder, "show", "broken")
    assert result.exit_code == 1
    assert "broken.toml:1: " in result.stderr


def test_show_says_what_goes_on_the_wire_and_what_can_be_written(folder: Folder) -> None:
    text = drivers(folder, "show", "xy-md02").stdout
    (temperature,) = [line for line in text.splitlines() if line.startswith("temperature ")]
    assert "ir:1 → FC04, address 1, 1 register" in temperature
    assert "int16 × 0.1" in temperature
    (correction,) = [line for line in text.splitlines() if line.startswith("t_correction")]
    assert correction.endswith("writable")


def test_show_of_a_driver_without_a_wire_lists_its_points(folder: Folder) -> None:
    result = drivers(folder, "show", "host")
    assert result.exit_code == 0
    assert any(line.startswith("cpu_percent") for line in result.stdout.splitlines())


def test_show_as_json_has_the_whole_table(folder: Folder) -> None:
    body = json.loads(drivers(folder, "show", "xy-md02", "--json").stdout)
    assert body["verified"] == "document"
    assert [(row["name"], row["scale"]) for row in body["table"][:1]] == [("temperature", 0.1)]


def test_an_unknown_driver_gets_a_suggestion(folder: Folder) -> None:
    result = drivers(folder, "show", "xy-md20")
    assert result.exit_code == 2
    assert 'did you mean "xy-md02"?' in result.stderr
