"""Uplinks whose credentials are gone go on with what the running gateway holds."""

from __future__ import annotations

import typing

import msgspec
import pytest

from fluxedge.config.held import hold
from fluxedge.config.load import Loaded, load

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site

CLOUD = """
[uplinks.cloud]
url = "mqtt://127.0.0.1"
username = "gw"
password = "broker"
"""


@pytest.fixture
def running(site: Site) -> Loaded:
    site.write("fluxedge.toml", CLOUD)
    site.write("credentials/broker", "hunter2\n").chmod(0o640)
    return site.apply()


def again(site: Site, running: Loaded) -> tuple[Loaded, dict[str, str]]:
    return hold(running.config, load(site.layout), site.layout)


def test_a_deleted_credential_does_not_stop_its_uplink(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    loaded, held = again(site, running)
    assert loaded.config == running.config
    assert [mistake.code for mistake in loaded.mistakes] == ["credential-missing"]
    assert list(held) == ["uplink:cloud"]
    assert 'there is no credential "broker"' in held["uplink:cloud"]
    assert loaded.kept == held
    assert loaded.left_out == {}


def test_it_is_held_through_one_reload_after_the_other(site: Site, running: Loaded) -> None:
    site.write("credentials/broker", "")
    first, _ = again(site, running)
    second, held = again(site, first)
    assert second.config == running.config
    assert held


def test_an_uplink_that_was_changed_too_goes_on_as_it_was(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    site.write("fluxedge.toml", CLOUD.replace("127.0.0.1", "127.0.0.2"))
    loaded, held = again(site, running)
    assert loaded.config == running.config
    assert held


def test_a_file_that_is_broken_at_the_same_time_changes_nothing(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    site.write("fluxedge.toml", "[uplinks.cloud\n")
    assert again(site, running)[0].config == running.config


def test_a_missing_certificate_does_not_stop_its_uplink(site: Site) -> None:
    site.write("fluxedge.toml", '[uplinks.cloud]\nurl = "mqtts://127.0.0.1"\n[uplinks.cloud.tls]\nca = "ca.pem"\n')
    path = site.write("credentials/ca.pem", "certificate\n")
    running = site.apply()
    path.unlink()
    loaded, held = again(site, running)
    assert loaded.config == running.config
    assert held


def test_a_deleted_uplink_ends(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    site.write("fluxedge.toml", "")
    loaded, held = again(site, running)
    assert (loaded.config.uplinks, held) == ({}, {})


def test_an_uplink_that_did_not_run_is_left_out(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    started = msgspec.structs.replace(running.config, uplinks={})
    loaded, held = hold(started, load(site.layout), site.layout)
    assert list(loaded.left_out) == ["uplink:cloud"]
    assert held == {}


def test_the_credential_is_used_again_as_soon_as_it_is_back(site: Site, running: Loaded) -> None:
    path = site.folder / "credentials/broker"
    path.unlink()
    held, _ = again(site, running)
    path.write_text("another\n")
    loaded, none = again(site, held)
    assert none == {}
    assert loaded.config.secrets == {"broker": "another"}


def test_no_message_holds_the_secret(site: Site, running: Loaded) -> None:
    (site.folder / "credentials/broker").unlink()
    loaded, held = again(site, running)
    assert "hunter2" not in repr((loaded, held))
