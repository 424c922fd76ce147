"""`fluxedge schema` prints schemas that are valid and that fit what is written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from fluxedge.cli.main import main
from fluxedge.cli.schema import schemas


def schema(*words: str) -> Result:
    return CliRunner().invoke(main, ["schema", *words])


def test_the_list_names_every_kind() -> None:
    names = [line.split()[0] for line in schema().stdout.splitlines()[1:]]
    assert names == list(schemas())
    assert {"fluxedge", "devices", "driver-modbus"} <= set(names)


@pytest.mark.parametrize("name", list(schemas()))
def test_each_is_a_valid_schema(name: str) -> None:
    body = json.loads(schema(name).stdout)
    jsonschema.Draft202012Validator.check_schema(body)


def test_all_are_written_into_a_folder(tmp_path: Path) -> None:
    result = schema("--dir", str(tmp_path / "out"))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"{name}.schema.json" for name in schemas())
    assert result.stdout.splitlines()[0] == str(tmp_path / "out" / "fluxedge.schema.json")


def test_an_unknown_kind_gets_a_suggestion_and_writes_nothing(tmp_path: Path) -> None:
    result = schema("device", "--dir", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert 'did you mean "devices"?' in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_demos_files_fit_their_schemas(tmp_path: Path) -> None:
    from fluxedge.cli import demo_site

    names = {"mqtt_port": "1883", "mqtt_version": "5", "meter_port": "1", "io_port": "2", "line_path": "/dev/pts/1"}
    demo_site.write_files(tmp_path, names)
    for path in tmp_path.rglob("*.toml"):
        kind = "fluxedge" if path.name == "fluxedge.toml" else "devices"
        jsonschema.validate(tomllib.loads(path.read_text()), json.loads(schema(kind).stdout))
