from __future__ import annotations

import typing
from dataclasses import replace

import pytest

from fluxedge.config.load import load
from fluxedge.config.uplinks import parse_broker_url

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("mqtt://broker", ("mqtt", "broker", 1883)),
        ("mqtts://broker.example.com/", ("mqtts", "broker.example.com", 8883)),
        ("mqtt://[::1]:1884", ("mqtt", "::1", 1884)),
    ],
)
def test_a_broker_url_has_a_default_port(url: str, parts: tuple[str, str, int]) -> None:
    assert parse_broker_url(url) == parts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("broker", "is not a broker URL"),
        ("ws://a", '"ws" is not a scheme of brokers'),
        ("mqtt://", "has no host"),
        ("mqtt://u:p@a", "does not belong into the URL"),
        ("mqtt://a/topic", "nothing may follow the port"),
        ("mqtt://a:0", "is not a port"),
        ("mqtt://a:99999", "is not a URL"),
        ("mqtt://[a", "is not a URL"),
    ],
)
def test_other_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_broker_url(url)


def test_the_password_in_a_url_is_not_repeated(site: Site) -> None:
    site.write("fluxedge.toml", '[uplinks.a]\nurl = "mqtt://u:hunter2@a"\n')
    assert "hunter2" not in str([mistake.to_json() for mistake in site.load().mistakes])


UPLINK = '[uplinks.a]\nurl = "mqtts://a"\nusername = "u"\npassword = "cloud"\n'


def test_secrets_come_from_credentials_then_from_systemd(site: Site) -> None:
    site.write("fluxedge.toml", UPLINK)
    systemd = site.state / "credentials"
    systemd.mkdir()
    (systemd / "cloud").write_text("two")
    layout = replace(site.layout, systemd_credentials=systemd)
    assert load(layout).config.secrets == {"cloud": "two"}
    site.write("credentials/cloud", "one\n")
    assert load(layout).config.secrets == {"cloud": "one"}


def test_a_missing_credential_has_a_code_of_its_own(site: Site) -> None:
    site.write("fluxedge.toml", UPLINK)
    loaded = site.load()
    assert [(mistake.code, mistake.item) for mistake in loaded.mistakes] == [("credential-missing", "uplink:a")]
    assert loaded.config.uplinks == {}


def test_a_secret_that_everybody_can_read_is_warned_about(site: Site) -> None:
    site.write("fluxedge.toml", UPLINK)
    path = site.write("credentials/cloud", "x")
    path.chmod(0o644)
    assert [warning.text() for warning in site.load().warnings] == [
        f"fluxedge.toml:4: uplinks.a.password: every user of this machine can read {path} — chmod 640 {path}"
    ]
    path.chmod(0o600)
    assert site.load().warnings == ()


def test_certificates_are_paths_or_names_and_a_renewed_one_is_a_difference(site: Site) -> None:
    outside = site.state / "ca.pem"
    outside.write_text("CA")
    site.write("credentials/client.pem", "C")
    site.write("credentials/client.key", "K").chmod(0o600)
    tls = f'[uplinks.a.tls]\nca = "{outside}"\ncertificate = "client.pem"\nkey = "client.key"\n'
    site.write("fluxedge.toml", f'[uplinks.a]\nurl = "mqtts://a"\n{tls}')
    loaded = site.load()
    assert (loaded.mistakes, loaded.warnings) == ((), ())
    found = loaded.config.uplinks["a"].tls
    assert found is not None
    folder = site.folder / "credentials"
    assert (found.ca, found.certificate, found.key) == (str(outside), f"{folder}/client.pem", f"{folder}/client.key")
    outside.write_text("renewed")
    assert site.load().config != loaded.config


def test_a_command_for_a_device_that_does_not_exist_is_warned_about(site: Site) -> None:
    site.write("devices/a.toml", '[devices.pump]\ndriver = "waves"\n')
    site.write("fluxedge.toml", '[uplinks.a]\nurl = "mqtt://a"\ncommands = ["pump.*", "pmp.ramp", "*"]\n')
    loaded = site.load()
    assert loaded.mistakes == ()
    assert [warning.text() for warning in loaded.warnings] == [
        'fluxedge.toml:3: uplinks.a.commands[1]: there is no device "pmp": did you mean "pump"?'
    ]
