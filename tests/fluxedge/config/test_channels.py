from __future__ import annotations

import re
import typing

import pytest

from fluxedge.config.channels import implicit_id
from fluxedge.config.structs import ID_PATTERN
from fluxedge.config.urls import parse_channel_url

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


@pytest.mark.parametrize(
    ("url", "id_"),
    [
        ("tcp://10.0.0.7", "tcp-10-0-0-7-502"),
        ("rtu+tcp://10.0.0.7:4001", "rtu-tcp-10-0-0-7-4001"),
        ("serial:///dev/ttyUSB0?baud=19200", "serial-ttyusb0"),
        ("tcp://meter-1.lan", "tcp-meter-1-lan-502-4fd9ff44"),
        ("tcp://[fe80::1]", "tcp-fe80-1-502-d1a53fcb"),
        ("serial:///dev/serial/by-id/usb-FTDI_FT232R-if00", "serial-usb-ftdi_ft232r-if00-1a2b3c4d"),
    ],
)
def test_a_channel_without_a_name_is_named_after_what_it_opens(url: str, id_: str) -> None:
    found = implicit_id(parse_channel_url(url))
    digest = re.compile(r"-[0-9a-f]{8}$")
    assert digest.sub("", found) == digest.sub("", id_)
    assert bool(digest.search(found)) == bool(digest.search(id_))
    assert re.fullmatch(ID_PATTERN, found)


def test_different_endpoints_have_different_names() -> None:
    urls = ["tcp://a-b.c", "tcp://a.b-c", "tcp://a-b-c", "tcp://1-2.3", "serial:///dev/ttyS0", "serial:///dev/ttys0"]
    urls.append("tcp://" + "long-name." * 8 + "x")
    urls.append("tcp://" + "long-name." * 8 + "y")
    ids = [implicit_id(parse_channel_url(url)) for url in urls]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) <= 64


def test_devices_with_one_url_share_one_channel(site: Site) -> None:
    text = '[devices.{}]\ndriver = "meter"\nchannel = "{}"\nunit = {}\n'
    site.write("devices/a.toml", text.format("m1", "tcp://10.0.0.1", 1) + text.format("m2", "tcp://10.0.0.1:502/", 2))
    site.write(
        "devices/b.toml", text.format("m3", "tcp://10.0.0.1:502", 3) + text.format("m4", "tcp://10.0.0.1:503", 1)
    )
    config = site.load().config
    assert {id_: cfg.url for id_, cfg in config.channels.items()} == {
        "tcp-10-0-0-1-502": "tcp://10.0.0.1:502",
        "tcp-10-0-0-1-503": "tcp://10.0.0.1:503",
    }
    assert [cfg.channel[-3:] for cfg in config.devices.values()] == ["502", "502", "502", "503"]


def test_a_url_in_place_means_the_named_channel_with_that_url(site: Site) -> None:
    site.write("devices/a.toml", '[devices.m1]\ndriver = "meter"\nchannel = "serial:///dev/ttyS0?parity=N&baud=9600"\n')
    site.write("devices/z.toml", '[channels.bus]\nurl = "serial:///dev/ttyS0"\ntimeout = "3s"\n')
    loaded = site.load()
    assert (loaded.mistakes, loaded.warnings) == ((), ())
    assert loaded.config.devices["m1"].channel == "bus"
    assert list(loaded.config.channels) == ["bus"]


def test_a_channel_of_a_refused_device_is_not_opened(site: Site) -> None:
    site.write("devices/a.toml", '[devices.m1]\ndriver = "x"\nchannel = "tcp://a"\n')
    assert site.load().config.channels == {}


def test_a_channel_may_not_take_the_name_of_another_url(site: Site) -> None:
    site.write(
        "devices/a.toml",
        '[channels.tcp-10-0-0-1-502]\nurl = "tcp://10.0.0.2"\n'
        '[devices.m1]\ndriver = "meter"\nchannel = "tcp://10.0.0.1"\n',
    )
    assert [mistake.path for mistake in site.load().mistakes] == ["devices.m1.channel"]
