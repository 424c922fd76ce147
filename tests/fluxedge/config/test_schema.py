"""The published schemas, judged by a validator that is not ours."""

from __future__ import annotations

import tomllib
import typing
from pathlib import Path

import jsonschema
import pytest

from fluxedge.config import schema, structs
from fluxedge.config.sources import shipped_driver_dirs

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site

SCHEMAS = schema.all_schemas()
SHIPPED = sorted(path for directory in shipped_driver_dirs() for path in directory.glob("*.toml"))


def valid(name: str, text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMAS[name]).is_valid(tomllib.loads(text)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_every_kind_of_file_and_every_protocol_has_a_schema() -> None:
    assert set(SCHEMAS) == {"fluxedge", "devices", "driver-modbus", "driver-host", "driver-simulator"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_drivers_are_valid(path: Path) -> None:
    document = tomllib.loads(path.read_text())
    jsonschema.validate(document, SCHEMAS[f"driver-{document['protocol']}"])


MAIN = """
[gateway]
id = "hall-a"
[log]
commit = "1s"
backlog = "4GiB"
[api]
listen = "127.0.0.1:8080"
[uplinks.cloud]
url = ["mqtts://a", "mqtts://b:8883"]
format = "json-columns"
expiry = "1h"
lanes = ["rounds"]
topics.rounds = "plant/{gateway}"
tls = { verify = "none" }
"""
DEVICES = """
[channels.bus]
url = "serial:///dev/ttyS0"
timeout = "500ms"
[devices.m1]
driver = "meter"
channel = "bus"
units = "1-3"
every = "1s"
options.max_registers = 5
points.u = { rename = "v", scale = 0.1, drop = false }
"""


@pytest.mark.parametrize(
    ("name", "file", "text"), [("fluxedge", "fluxedge.toml", MAIN), ("devices", "devices/a.toml", DEVICES)]
)
def test_schema_and_loader_accept_the_same_file(site: Site, name: str, file: str, text: str) -> None:
    assert valid(name, text)
    site.write(file, text)
    assert site.load().mistakes == ()


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("fluxedge", "fluxedge.toml", "[gateway]", "[gatway]"),
        ("fluxedge", "fluxedge.toml", '"hall-a"', '"Hall A"'),
        ("fluxedge", "fluxedge.toml", '"1s"', '"1 second"'),
        ("fluxedge", "fluxedge.toml", '"4GiB"', "4"),
        ("fluxedge", "fluxedge.toml", '["rounds"]', '["round"]'),
        ("fluxedge", "fluxedge.toml", "uplinks.cloud]", 'uplinks."my cloud"]'),
        ("fluxedge", "fluxedge.toml", "expiry", "expires"),
        ("devices", "devices/a.toml", "timeout", "time_out"),
        ("devices", "devices/a.toml", 'driver = "meter"', ""),
        ("devices", "devices/a.toml", "drop = false", "drop = 0"),
        ("devices", "devices/a.toml", 'units = "1-3"', "unit = 248"),
        ("devices", "devices/a.toml", "scale = 0.1", 'scale = "0.1"'),
    ],
)
def test_schema_and_loader_refuse_the_same_file(site: Site, name: str, file: str, old: str, new: str) -> None:
    text = {"fluxedge": MAIN, "devices": DEVICES}[name].replace(old, new, 1)
    assert text not in (MAIN, DEVICES)
    assert not valid(name, text)
    site.write(file, text)
    assert site.load().mistakes != ()


def test_options_are_explained_where_they_are_defined() -> None:
    notes = schema.option_notes(structs.UplinkCfg)
    assert notes["expiry"] == "MQTT 5 message expiry"
    assert SCHEMAS["fluxedge"]["$defs"]["Uplink"]["properties"]["expiry"]["description"] == notes["expiry"]
    assert schema.option_notes(structs.ModbusPointCfg)["unit"] == 'UCUM: "V", "kW.h", "Cel", "%"'


def test_defaults_are_written_as_toml_has_them() -> None:
    log = SCHEMAS["fluxedge"]["$defs"]["Log"]["properties"]
    assert (log["commit"]["default"], log["backlog"]["default"]) == ("1s", "4GiB")
    assert SCHEMAS["devices"]["$defs"]["Device"]["properties"]["enabled"]["default"] is True
