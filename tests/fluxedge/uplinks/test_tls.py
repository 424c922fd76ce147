"""TLS of an uplink, against a real Mosquitto with certificates made here."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxedge.config.structs import TlsCfg, UplinkCfg
from fluxedge.problems import LinkProblem
from fluxedge.uplinks import tls
from fluxedge.uplinks.mqtt import MqttUplink
from tests.conftest import Mosquitto
from tests.fluxedge.certificates import Authority


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A credentials directory: ca.crt, broker (for 127.0.0.1), named (for broker.example), client, stranger's CA."""
    directory = tmp_path_factory.mktemp("credentials")
    authority = Authority(directory)
    authority.issue("broker")
    authority.issue("named", "DNS:broker.example")
    authority.issue("client")
    authority.issue("expired", days=0)
    Authority(directory, "other").issue("stranger")
    return directory


@pytest.fixture(params=["broker"])
def secured(request: pytest.FixtureRequest, tmp_path: Path, pki: Path) -> Iterator[Mosquitto]:
    """A Mosquitto with TLS; its certificate's name and more lines are the parameter."""
    name, *more = request.param.split("|")
    lines = ("user root", f"cafile {pki / 'ca.crt'}", f"certfile {pki / name}.crt", f"keyfile {pki / name}.key", *more)
    mosquitto = Mosquitto(tmp_path, lines).start()
    yield mosquitto
    mosquitto.close()


async def connect(mosquitto: Mosquitto, pki: Path, **table: str) -> None:
    url = f"mqtts://127.0.0.1:{mosquitto.port}"
    cfg = UplinkCfg(url=url, tls=TlsCfg(**table) if table else None)  # type: ignore[arg-type]
    uplink = MqttUplink("cloud", cfg, url, "gw", "", tls.tls_context(cfg, url, pki), "5", None)
    try:
        await asyncio.wait_for(uplink.open(), 10)
    finally:
        await uplink.close()


async def refused(mosquitto: Mosquitto, pki: Path, **table: str) -> LinkProblem:
    with pytest.raises(LinkProblem) as caught:
        await connect(mosquitto, pki, **table)
    assert caught.value.code == "uplink-tls"
    return caught.value


async def test_the_right_authority_connects(secured: Mosquitto, pki: Path) -> None:
    await connect(secured, pki, ca="ca.crt")
    await connect(secured, pki, ca=str(pki / "ca.crt"))  # an absolute path, as the loader makes it


async def test_a_wrong_authority_is_named_as_the_reason(secured: Mosquitto, pki: Path) -> None:
    problem = await refused(secured, pki, ca="other.crt")
    assert "issuer certificate" in problem.message or "self-signed certificate in" in problem.message
    assert "tls.ca" in problem.hint


async def test_the_systems_authorities_do_not_know_a_private_one(secured: Mosquitto, pki: Path) -> None:
    problem = await refused(secured, pki)
    assert "the broker's certificate" in problem.message


async def test_verification_can_be_switched_off(secured: Mosquitto, pki: Path) -> None:
    await connect(secured, pki, verify="none")


@pytest.mark.parametrize("secured", ["named"], indirect=True)
async def test_the_name_in_the_certificate_counts(secured: Mosquitto, pki: Path) -> None:
    problem = await refused(secured, pki, ca="ca.crt")
    assert "IP address mismatch" in problem.message
    assert "tls.server_name" in problem.hint
    await connect(secured, pki, ca="ca.crt", server_name="broker.example")
    await refused(secured, pki, ca="ca.crt", server_name="other.example")


@pytest.mark.parametrize("secured", ["broker|require_certificate true"], indirect=True)
async def test_a_client_certificate_is_shown_where_it_is_wanted(secured: Mosquitto, pki: Path) -> None:
    await connect(secured, pki, ca="ca.crt", certificate="client.crt", key="client.key")
    problem = await refused(secured, pki, ca="ca.crt")
    assert "client certificate" in problem.hint


@pytest.mark.parametrize("secured", ["expired"], indirect=True)
async def test_an_expired_certificate_of_the_broker_is_told_with_the_clock_as_a_suspect(
    secured: Mosquitto, pki: Path
) -> None:
    problem = await refused(secured, pki, ca="ca.crt")
    assert "certificate has expired" in problem.message
    assert "clock" in problem.hint


@pytest.mark.parametrize("secured", ["broker|require_certificate true"], indirect=True)
@pytest.mark.parametrize(("name", "said"), [("stranger", "authority"), ("expired", "expired")])
async def test_a_client_certificate_that_the_broker_does_not_take_is_named(
    secured: Mosquitto, pki: Path, name: str, said: str
) -> None:
    problem = await refused(secured, pki, ca="ca.crt", certificate=f"{name}.crt", key=f"{name}.key")
    assert "tls.certificate" in problem.hint
    assert said in problem.hint or "may refuse" in problem.hint  # with TLS 1.3 the broker's alert may be lost


@pytest.mark.parametrize("secured", ["broker|require_certificate true|tls_version tlsv1.2"], indirect=True)
async def test_without_tls_1_3_a_refused_client_certificate_is_told_in_words(secured: Mosquitto, pki: Path) -> None:
    problem = await refused(secured, pki, ca="ca.crt", certificate="expired.crt", key="expired.key")
    assert "tls.certificate" in problem.hint


async def test_tls_to_a_plain_port_says_so(broker: Mosquitto, pki: Path) -> None:
    problem = await refused(broker, pki, ca="ca.crt")
    assert "TLS" in problem.hint


async def test_plain_to_a_tls_port_says_so(secured: Mosquitto) -> None:
    url = f"mqtt://127.0.0.1:{secured.port}"
    uplink = MqttUplink("cloud", UplinkCfg(url=url), url, "gw", "", None, "5", None)
    with pytest.raises(LinkProblem) as caught:
        await uplink.open()
    assert (caught.value.code, "TLS" in caught.value.hint) == ("uplink-down", True)


# --- the context ------------------------------------------------------------------------------------------------------


def context(directory: Path, **table: str) -> ssl.SSLContext | None:
    cfg = UplinkCfg(url="mqtts://b", tls=TlsCfg(**table))  # type: ignore[arg-type]
    return tls.tls_context(cfg, "mqtts://b", directory)


def unusable(directory: Path, **table: str) -> LinkProblem:
    with pytest.raises(LinkProblem) as caught:
        context(directory, **table)
    assert caught.value.code == "uplink-tls"
    return caught.value


def test_mqtt_without_s_has_no_tls(pki: Path) -> None:
    assert tls.tls_context(UplinkCfg(url="mqtt://b"), "mqtt://b", pki) is None


def test_verification_is_on_unless_it_is_switched_off(pki: Path) -> None:
    verified, open_ = context(pki, ca="ca.crt"), context(pki, verify="none")
    assert verified is not None
    assert open_ is not None
    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert verified.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (open_.verify_mode, open_.check_hostname) == (ssl.CERT_NONE, False)


def test_a_missing_file_is_named(pki: Path) -> None:
    assert str(pki / "gone.crt") in unusable(pki, ca="gone.crt").message
    assert str(pki / "gone.key") in unusable(pki, certificate="client.crt", key="gone.key").message


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("hello")
    problem = unusable(tmp_path, ca="ca.crt")
    assert str(tmp_path / "ca.crt") in problem.message
    assert "PEM" in problem.hint


def test_a_key_of_another_certificate_is_told(pki: Path) -> None:
    assert "another certificate" in unusable(pki, certificate="client.crt", key="broker.key").hint


def test_an_encrypted_key_is_told_and_nobody_is_asked(pki: Path) -> None:
    subprocess.run(
        ["openssl", "ec", "-in", pki / "client.key", "-aes256", "-passout", "pass:x", "-out", pki / "locked.key"],
        check=True,
        capture_output=True,
    )
    problem = unusable(pki, certificate="client.crt", key="locked.key")
    assert "locked.key: the key is encrypted" in problem.message


def test_files_are_read_once_and_again_when_they_were_replaced(pki: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ca.crt"
    copy.write_bytes((pki / "ca.crt").read_bytes())
    first = context(tmp_path, ca="ca.crt")
    assert context(tmp_path, ca="ca.crt") is first
    new = tmp_path / "new"
    new.write_bytes((pki / "other.crt").read_bytes())
    os.replace(new, copy)
    second = context(tmp_path, ca="ca.crt")
    assert second is not None
    assert second is not first
    assert "other" in str(second.get_ca_certs())


def test_a_bounded_number_of_contexts_is_kept(pki: Path) -> None:
    for number in range(40):
        context(pki, ca="ca.crt", server_name=f"b{number}")
    assert len(tls._made) <= 16
