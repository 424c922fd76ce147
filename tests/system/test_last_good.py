"""Broken configuration files and the real daemon: what is wrong goes on as it was, also after kill -9."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.system.arrivals import wait_until
from tests.system.consumer import Consumer
from tests.system.daemon import Daemon
from tests.system.peers import TcpPeer

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

BAD_CONFIG = 78
DRIVER = """\
name = "Meter"
protocol = "modbus"
source = "tests"
[points]
level = { at = "ir:7", type = "uint16" }
"""
TANK = """\
name = "Tank"
protocol = "simulator"
source = "tests"
[points]
level = { wave = "constant", from = 5.0 }
"""


class Site:
    """Two devices in two files, two drivers, an uplink with a password, and the daemon that runs them."""

    def __init__(self, folder: Path, peer: TcpPeer, broker: Mosquitto) -> None:
        self.daemon = Daemon(folder)
        self.consumer = Consumer(broker.port)
        self.files = {
            "fluxedge.toml": f"""\
[gateway]
id = "gw"
[log]
commit = "50ms"
[uplinks.cloud]
url = "mqtt://127.0.0.1:{broker.port}"
username = "gw"
password = "broker"
""",
            "devices/meter.toml": f"""\
[channels.line]
url = "{peer.url}"
timeout = "250ms"
[devices.m1]
driver = "meter"
channel = "line"
every = "100ms"
""",
            "devices/tank.toml": '[devices.tank]\ndriver = "tank"\nevery = "100ms"\n',
            "drivers/meter.toml": DRIVER,
            "drivers/tank.toml": TANK,
            "credentials/broker": "secret\n",
        }
        for name, text in self.files.items():
            self.daemon.write(name, text)

    def all_well(self) -> bool:
        return self.daemon.devices() == {"m1": "ok", "tank": "ok"} and not self.daemon.problems()


@pytest.fixture
def site(tmp_path: Path, broker: Mosquitto) -> Iterator[Site]:
    peer = TcpPeer()
    made = Site(tmp_path, peer, broker)
    yield made
    made.daemon.close()
    made.consumer.close()
    peer.stop()


BROKEN = {
    "device file, syntax": ("devices/meter.toml", "[devices.m1\n", "config:file:devices/meter.toml"),
    "device file, value": ("devices/meter.toml", ("every = ", "every = 7 #"), "config:device:m1"),
    "device file, key": ("devices/meter.toml", ("every", "evry"), "config:device:m1"),
    "channel": ("devices/meter.toml", ("tcp://", "ftp://"), "config:channel:line"),
    "driver file, syntax": ("drivers/meter.toml", "[points", "config:file:drivers/meter.toml"),
    "driver file, value": ("drivers/meter.toml", ("ir:7", "ir:99999"), "config:driver:meter"),
    "driver of a device": ("devices/meter.toml", ('driver = "meter"', 'driver = "metre"'), "config:device:m1"),
    "uplink": ("fluxedge.toml", ("mqtt://", "mqqt://"), "config:uplink:cloud"),
    "main file, syntax": ("fluxedge.toml", "[gateway\n", "config:file:fluxedge.toml"),
    "log table": ("fluxedge.toml", ('commit = "50ms"', 'commit = "1h"'), "config:log"),
}


def spoil(site: Site, name: str, how: str | tuple[str, str]) -> None:
    if isinstance(how, tuple):
        assert how[0] in site.files[name]
        site.daemon.write(name, site.files[name].replace(*how))
    else:
        site.daemon.write(name, how)


@pytest.mark.parametrize(("name", "how", "item"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_goes_on_as_its_last_good_version_also_after_a_kill(
    site: Site, name: str, how: str | tuple[str, str], item: str
) -> None:
    daemon = site.daemon
    daemon.start()
    wait_until(site.all_well, what="everything runs")
    spoil(site, name, how)
    wait_until(daemon.problems, 5, "the broken file is noticed without being told")
    assert daemon.devices() == {"m1": "ok", "tank": "ok"}
    daemon.kill()

    daemon.start()
    assert item in daemon.problems(), daemon.problems()
    wait_until(lambda: daemon.devices() == {"m1": "ok", "tank": "ok"}, what="all devices answer")
    assert daemon.value("m1.level") == 7
    arrived = len(site.consumer.payloads)
    wait_until(lambda: len(site.consumer.payloads) > arrived, what="the uplink delivers")

    daemon.write(name, site.files[name])
    wait_until(site.all_well, 5, "the corrected file clears the problem")
    assert daemon.stop() == 0


@pytest.mark.parametrize("text", ["[gateway\n", '[gateway]\nid = "NOT AN ID"\n'])
def test_an_unusable_main_file_without_a_last_good_version_ends_with_78_and_clear_words(site: Site, text: str) -> None:
    site.daemon.write("fluxedge.toml", text)
    process = site.daemon.spawn()
    try:
        assert process.wait(20) == BAD_CONFIG
    except subprocess.TimeoutExpired:
        pytest.fail(f"it runs: {site.daemon.log()}")
    site.daemon.process = None
    said = site.daemon.log()
    assert "fluxedge.toml:" in said
    assert "fluxedge.toml cannot be used and there is no last good version; nothing was started." in said
    assert not (site.daemon.state / "log.db").exists()


def test_a_bad_device_without_a_last_good_version_is_left_out_and_the_others_run(site: Site) -> None:
    site.daemon.write("devices/meter.toml", site.files["devices/meter.toml"].replace("100ms", "soon"))
    site.daemon.start()
    wait_until(lambda: site.daemon.devices() == {"tank": "ok"}, what="the tank runs")
    assert site.daemon.problems() == {"config:device:m1": "config-invalid"}
    assert "devices/meter.toml:7: devices.m1.every" in site.daemon.log()


def test_a_credential_that_is_missing_costs_its_uplink_only_and_nothing_that_it_is_owed(site: Site) -> None:
    daemon = site.daemon
    daemon.start()
    wait_until(site.all_well)
    (daemon.config / "credentials/broker").unlink()
    wait_until(lambda: daemon.problems() == {"config:uplink:cloud": "credential-missing"}, 5)
    daemon.kill()
    daemon.start()  # secrets are not kept among the last good versions
    wait_until(lambda: daemon.devices() == {"m1": "ok", "tank": "ok"})
    assert daemon.problems() == {"config:uplink:cloud": "credential-missing"}
    held = {lane["lane"]: lane["head"] for lane in daemon.ask("status")["log"]["lanes"]}
    daemon.write("credentials/broker", site.files["credentials/broker"])
    wait_until(site.all_well, 5)
    epoch = daemon.ask("status")["gateway"]["epoch"]
    wait_until(lambda: all(site.consumer.seen_upto(lane, epoch) >= head for lane, head in held.items()))
    assert site.consumer.verifier.missing == 0


def test_a_dropped_file_is_noticed_within_about_a_second_and_a_removed_one_too(site: Site) -> None:
    daemon = site.daemon
    daemon.start()
    wait_until(site.all_well)
    begun_s = time.monotonic()
    daemon.write("devices/more.toml", '[devices.more]\ndriver = "tank"\nevery = "100ms"\n')
    wait_until(lambda: daemon.devices().get("more") == "ok", 5, "the new device runs")
    (daemon.config / "devices/more.toml").unlink()
    wait_until(lambda: "more" not in daemon.devices(), 5, "the removed device is gone")
    assert time.monotonic() - begun_s < 4
    assert site.all_well()


def test_sighup_applies_what_changed_and_a_restart_is_asked_for_where_it_is_needed(site: Site) -> None:
    daemon = site.daemon
    daemon.start()
    wait_until(site.all_well)
    daemon.write("credentials/broker", "another\n")
    since_us = daemon.ask("uplinks")[0]["connected_since_us"]
    daemon.reload()
    wait_until(lambda: daemon.ask("uplinks")[0]["connected_since_us"] > since_us, 5, "it takes the new password")
    daemon.write("fluxedge.toml", site.files["fluxedge.toml"].replace("[gateway]", '[gateway]\nlabel = "roof"'))
    daemon.reload()
    wait_until(lambda: daemon.problems() == {"config:restart": "restart-needed"}, 5)
    daemon.stop()
    daemon.start()
    wait_until(site.all_well)
