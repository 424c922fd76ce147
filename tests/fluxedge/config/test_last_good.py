"""A mistake costs nothing: what was applied last goes on, also over a reboot."""

from __future__ import annotations

import typing

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from fluxedge.config import last_good

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site

MAIN = '[gateway]\nlabel = "Hall A"\n[log]\ncommit = "2s"\n[uplinks.cloud]\nurl = "mqtt://broker"\n'
BUS = '[channels.bus]\nurl = "tcp://10.0.0.1"\n[devices.m1]\ndriver = "own"\nchannel = "bus"\nunit = 1\n'
OWN = 'name = "Own"\nprotocol = "modbus"\nsource = "none"\n[points]\nu = { at = "30001" }\n'

GOOD = {"fluxedge.toml": MAIN, "devices/a.toml": BUS, "drivers/own.toml": OWN}
BROKEN = {
    "fluxedge.toml is not TOML": ("fluxedge.toml", "[gateway\n", {"gateway", "log", "uplink:cloud"}),
    "a bad gateway": ("fluxedge.toml", MAIN.replace('"Hall A"', "5"), {"gateway"}),
    "a bad log": ("fluxedge.toml", MAIN.replace('"2s"', '"2 hours"'), {"log"}),
    "a bad uplink": ("fluxedge.toml", MAIN.replace("mqtt:", "http:"), {"uplink:cloud"}),
    "a device file that is not TOML": ("devices/a.toml", "[devices.m1]\ndriver = \n", {"channel:bus", "device:m1"}),
    "a device file without tables": ("devices/a.toml", "devices = 1\nchannels = 2\n", {"channel:bus", "device:m1"}),
    "a bad device": ("devices/a.toml", BUS.replace("unit = 1", "unit = 300"), {"device:m1"}),
    "a device with another driver that does not exist": ("devices/a.toml", BUS.replace('"own"', '"x"'), {"device:m1"}),
    "a bad channel": ("devices/a.toml", BUS.replace("tcp://", "udp://"), {"channel:bus"}),
    "a driver that is not TOML": ("drivers/own.toml", "name =\n", {"driver:own"}),
    "a bad driver": ("drivers/own.toml", OWN.replace("30001", "30001\nx"), {"driver:own"}),
    "a bad point": ("drivers/own.toml", OWN.replace("at =", "att ="), {"driver:own"}),
    "a driver in another encoding": ("drivers/own.toml", OWN.replace("Own", "\udcff"), {"driver:own"}),
}


def write_all(site: Site) -> None:
    for name, text in GOOD.items():
        site.write(name, text)


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_item_goes_on_as_its_last_good_version(site: Site, case: str) -> None:
    write_all(site)
    good = site.apply().config
    name, text, kept = BROKEN[case]
    site.write(name, text.encode(errors="surrogateescape"))
    for _start in ("reload", "after a reboot", "after another"):
        loaded = site.reload()
        assert loaded.config == good
        assert set(loaded.kept) == kept
        assert {mistake.file for mistake in loaded.mistakes} == {name}
        assert (loaded.left_out, loaded.fatal) == ({}, False)
    site.write(name, GOOD[name].replace("Hall A", "Hall B").replace("unit = 1", "unit = 2").replace("30001", "30003"))
    repaired = site.apply()
    assert repaired.kept == {}
    assert repaired.config != good


@pytest.mark.parametrize("case", BROKEN)
def test_without_a_last_good_version_the_item_is_left_out(site: Site, case: str) -> None:
    write_all(site)
    name, text, kept = BROKEN[case]
    site.write(name, text.encode(errors="surrogateescape"))
    loaded = site.load()
    assert loaded.kept == {}
    assert loaded.fatal == bool({"gateway", "log"} & kept)
    running = {f"device:{id_}" for id_ in loaded.config.devices} | {f"driver:{id_}" for id_ in loaded.config.drivers}
    assert not running & (kept | {"device:m1"} if name != "fluxedge.toml" else kept)


def test_good_items_apply_beside_a_bad_one(site: Site) -> None:
    write_all(site)
    site.apply()
    site.write("devices/a.toml", BUS.replace("unit = 1", "unit = 300"))
    site.write("devices/b.toml", '[devices.m2]\ndriver = "own"\nchannel = "bus"\nunit = 7\n')
    site.write("fluxedge.toml", MAIN.replace("Hall A", "Hall B"))
    config = site.load().config
    assert {id_: cfg.unit for id_, cfg in config.devices.items()} == {"m1": 1, "m2": 7}
    assert config.gateway.label == "Hall B"


def test_deleted_is_not_bad(site: Site) -> None:
    write_all(site)
    site.apply()
    (site.folder / "devices" / "a.toml").unlink()
    (site.folder / "fluxedge.toml").unlink()
    loaded = site.apply()
    assert (loaded.config.devices, loaded.config.uplinks, loaded.kept, loaded.left_out) == ({}, {}, {}, {})
    site.write("devices/a.toml", "[")
    assert site.load().config.devices == {}  # and it does not come back


def test_an_item_removed_from_a_good_file_is_deleted_although_another_file_is_broken(site: Site) -> None:
    write_all(site)
    site.write("devices/b.toml", '[devices.m2]\ndriver = "own"\nchannel = "bus"\nunit = 7\n')
    site.apply()
    site.write("devices/b.toml", "")
    site.write("devices/a.toml", "[")
    assert list(site.load().config.devices) == ["m1"]


def test_an_item_that_moved_to_another_file_is_taken_from_there(site: Site) -> None:
    write_all(site)
    site.apply()
    site.write("devices/a.toml", "[")
    site.write("devices/b.toml", BUS.replace("unit = 1", "unit = 5"))
    loaded = site.load()
    assert loaded.config.devices["m1"].unit == 5
    assert loaded.kept == {}


def test_a_folder_that_cannot_be_read_deletes_nothing(site: Site) -> None:
    write_all(site)
    good = site.apply().config
    folder = site.folder / "devices"
    folder.rename(site.folder / "away")
    folder.write_text("a file in the place of the folder")
    loaded = site.load()
    assert loaded.config == good
    assert [mistake.text() for mistake in loaded.mistakes] == ["devices: cannot be read: Not a directory"]


def test_a_configuration_directory_that_vanished_deletes_nothing(site: Site) -> None:
    write_all(site)
    good = site.apply().config
    site.folder.rename(site.folder.with_name("away"))
    loaded = site.load()
    assert loaded.config == good
    assert not loaded.fatal


def test_defaults_are_a_last_good_version_too(site: Site) -> None:
    site.apply()
    site.write("fluxedge.toml", '[log]\ncommit = "1 day"\n')
    loaded = site.load()
    assert (loaded.fatal, loaded.kept) == (False, {"log": loaded.mistakes[0].text()})
    site.write("fluxedge.toml", "[")
    assert not site.load().fatal


def test_a_broken_main_file_without_a_last_good_is_fatal_but_a_bad_uplink_is_not(site: Site) -> None:
    site.write("fluxedge.toml", "[")
    assert site.load().fatal
    site.write("fluxedge.toml", "[api]\nlisten = 5\n")
    assert site.load().fatal
    site.write("fluxedge.toml", "[uplinks.cloud]\nurl = 5\n")
    assert not site.load().fatal


def test_a_device_whose_driver_was_deleted_goes_on_with_the_last_good_driver(site: Site) -> None:
    write_all(site)
    good = site.apply().config
    (site.folder / "drivers" / "own.toml").unlink()
    loaded = site.load()
    assert loaded.config == good
    assert [mistake.path for mistake in loaded.mistakes] == ["devices.m1.driver"]
    assert set(loaded.kept) == {"device:m1", "driver:own"}


def test_a_driver_that_was_never_good_leaves_its_device_out(site: Site) -> None:
    write_all(site)
    site.apply()
    site.write("devices/b.toml", '[devices.m2]\ndriver = "new"\nchannel = "bus"\nunit = 7\n')
    site.write("drivers/new.toml", OWN.replace("30001", "30001\n"))
    loaded = site.load()
    assert list(loaded.config.devices) == ["m1"]
    assert set(loaded.left_out) == {"driver:new", "device:m2"}


def test_a_good_item_goes_before_the_last_good_version_of_a_bad_one(site: Site) -> None:
    write_all(site)
    site.apply()
    site.write("devices/a.toml", BUS.replace("unit = 1", "unit = 300"))
    site.write("devices/b.toml", '[devices.m2]\ndriver = "own"\nchannel = "bus"\nunit = 1\n')
    loaded = site.load()
    assert list(loaded.config.devices) == ["m2"]
    assert [mistake.path for mistake in loaded.mistakes] == ["devices.m1.unit"]
    assert loaded.left_out == {
        "device:m1": "its last good version cannot be used either: unit 1 of the channel bus is already the device m2"
    }


def test_a_last_good_version_survives_being_left_out(site: Site) -> None:
    write_all(site)
    good = site.apply().config
    site.write("devices/a.toml", BUS.replace("unit = 1", "unit = 300"))
    site.write("devices/b.toml", '[devices.m2]\ndriver = "own"\nchannel = "bus"\nunit = 1\n')
    site.reload()
    (site.folder / "devices" / "b.toml").unlink()
    assert site.reload().config == good


def test_where_two_items_cannot_both_be_the_one_that_changed_has_the_mistake(site: Site) -> None:
    site.write("devices/z.toml", BUS)
    site.write("drivers/own.toml", OWN)
    site.apply()
    site.write("devices/a.toml", '[devices.aa]\ndriver = "own"\nchannel = "bus"\n')
    loaded = site.load()
    assert list(loaded.config.devices) == ["m1"]
    assert [mistake.file for mistake in loaded.mistakes] == ["devices/a.toml"]


def test_nothing_is_written_when_nothing_changed(site: Site) -> None:
    write_all(site)
    assert last_good.remember(site.layout, site.load())
    assert not last_good.remember(site.layout, site.load())
    site.write("devices/a.toml", BUS.replace("unit = 1", "unit = 2"))
    assert last_good.remember(site.layout, site.load())
    assert [path.name for path in (site.state / "last-good").iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"format": 99, "items": {}}', b'{"format": 1, "items": 3}'])
def test_a_damaged_memory_is_no_memory(site: Site, content: bytes) -> None:
    write_all(site)
    good = site.apply().config
    (site.state / "last-good" / "config.json").write_bytes(content)
    loaded = site.load()
    assert (loaded.config, loaded.mistakes) == (good, ())
    assert [warning.file for warning in loaded.warnings] == ["last-good"]
    assert site.apply().warnings == loaded.warnings
    assert site.load().warnings == ()


def test_secrets_are_not_remembered(site: Site) -> None:
    site.write("credentials/cloud", "hunter2\n").chmod(0o600)
    site.write("fluxedge.toml", '[uplinks.a]\nurl = "mqtt://a"\nusername = "u"\npassword = "cloud"\n')
    assert site.apply().config.secrets == {"cloud": "hunter2"}
    assert b"hunter2" not in (site.state / "last-good" / "config.json").read_bytes()


VARIANTS = {
    "fluxedge.toml": [None, MAIN, "[", *[text for name, text, _ in BROKEN.values() if name == "fluxedge.toml"]],
    "devices/a.toml": [None, BUS, *[text for name, text, _ in BROKEN.values() if name == "devices/a.toml"]],
    "devices/b.toml": [
        None,
        '[devices.m2]\ndriver = "own"\nchannel = "bus"\nunits = "1-2"\n',
        '[devices.m2]\ndriver = "meter"\nchannel = "tcp://10.0.0.1"\n',
        '[channels.line]\nurl = "tcp://10.0.0.1"\n[devices.m2]\ndriver = "own"\nchannel = "line"\n',
        "devices.m1.driver = 1",
    ],
    "drivers/own.toml": [None, OWN, "x =", OWN.replace("at =", "att =")],
}


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.lists(st.tuples(*[st.sampled_from(texts) for texts in VARIANTS.values()]), min_size=1, max_size=4))
def test_whatever_happens_to_the_files_what_runs_fits_together(
    site: Site, states: list[tuple[str | None, ...]]
) -> None:
    for state in states:
        for name, text in zip(VARIANTS, state, strict=True):
            if text is not None:
                site.write(name, text)
            else:
                (site.folder / name).unlink(missing_ok=True)
        loaded = site.reload()
        config = loaded.config
        for device in config.devices.values():
            assert device.driver in config.drivers
            assert device.channel in config.channels
        for key in loaded.items:
            kind, _, id_ = key.partition(":")
            assert key not in loaded.left_out
            assert kind not in ("channel", "uplink") or id_ in getattr(config, f"{kind}s")
        assert set(loaded.origins.values()) == {key for key in loaded.items if key.startswith("device:")}
        assert bool(loaded.mistakes) or not (loaded.kept or loaded.left_out)
        again = site.load()
        assert msgspec.structs.asdict(again.config) == msgspec.structs.asdict(config)
        assert (again.mistakes, set(again.kept)) == (loaded.mistakes, set(loaded.kept))
