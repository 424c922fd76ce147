from __future__ import annotations

import typing

import pytest

from fluxedge.config.devices import parse_units, unit_of
from fluxedge.config.drivers import merged_options
from fluxedge.config.structs import DeviceCfg, DriverCfg, HostOptionsCfg, ModbusOptionsCfg

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("1-3", [1, 2, 3]),
        ("1,3,5-7", [1, 3, 5, 6, 7]),
        (" 9 , 2 - 3", [9, 2, 3]),
        ("247", [247]),
        ("1-247", [*range(1, 248)]),
    ],
)
def test_units_are_numbers_and_ranges(text: str, units: list[int]) -> None:
    assert parse_units(text) == units


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a list of units"),
        ("1;2", "is not a list of units"),
        ("1-2-3", "is not a list of units"),
        ("5-3", "5-3: 5 is greater than 3"),
        ("0-2", "0-2 is not in 1..247"),
        ("248", "248 is not in 1..247"),
        ("1-5,3", "3 is given twice"),
    ],
)
def test_other_units_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_units(text)


def test_units_make_a_device_each_on_one_channel(site: Site) -> None:
    site.write(
        "devices/a.toml",
        """
        [devices.bank]
        driver = "meter"
        label = "Bank"
        channel = "tcp://10.0.0.1"
        units = "1-2,7"
        every = "5s"
        """,
    )
    loaded = site.load()
    assert loaded.mistakes == ()
    devices = loaded.config.devices
    assert {id_: (cfg.unit, cfg.units, cfg.label) for id_, cfg in devices.items()} == {
        "bank-1": (1, "", "Bank 1"),
        "bank-2": (2, "", "Bank 2"),
        "bank-7": (7, "", "Bank 7"),
    }
    assert {cfg.channel for cfg in devices.values()} == set(loaded.config.channels) == {"tcp-10-0-0-1-502"}
    assert loaded.origins["bank-7"] == "device:bank"
    assert loaded.place("device:bank-7", ("units",)) == "devices/a.toml:5"


def test_a_hundred_devices_need_one_table(site: Site) -> None:
    site.write("devices/a.toml", '[devices.d]\ndriver = "meter"\nchannel = "tcp://a"\nunits = "1-100"\n')
    assert len(site.load().config.devices) == 100


def test_the_unit_is_the_devices_else_the_products_else_one() -> None:
    def driver(unit: int | None) -> DriverCfg:
        return DriverCfg(name="x", protocol="modbus", source="none", options=ModbusOptionsCfg(unit=unit))

    assert unit_of(driver(5), DeviceCfg(driver="x", unit=0)) == 0
    assert unit_of(driver(5), DeviceCfg(driver="x", options={"unit": 6})) == 6
    assert unit_of(driver(5), DeviceCfg(driver="x")) == 5
    assert unit_of(driver(None), DeviceCfg(driver="x")) == 1


def test_a_device_at_rest_blocks_no_unit(site: Site) -> None:
    text = '[devices.{}]\ndriver = "meter"\nchannel = "tcp://a"\nenabled = {}\n'
    site.write("devices/a.toml", text.format("m1", "false") + text.format("m2", "true"))
    loaded = site.load()
    assert loaded.mistakes == ()
    assert {id_: cfg.enabled for id_, cfg in loaded.config.devices.items()} == {"m1": False, "m2": True}


def test_devices_without_a_channel_load(site: Site) -> None:
    site.write(
        "devices/a.toml",
        '[devices.pc]\ndriver = "host"\noptions.disk = "/data"\n[devices.sim]\ndriver = "waves"\n',
    )
    loaded = site.load()
    assert loaded.mistakes == ()
    assert (loaded.config.devices["pc"].channel, loaded.config.channels) == ("", {})
    assert merged_options(loaded.config.drivers["host"], loaded.config.devices["pc"]) == HostOptionsCfg(disk="/data")
