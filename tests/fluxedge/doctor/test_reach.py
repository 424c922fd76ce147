"""Reaching brokers: sockets and certificates made here."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fluxedge.config.structs import TlsCfg, UplinkCfg
from fluxedge.doctor import reach as module
from fluxedge.doctor.facts import Reach
from fluxedge.doctor.reach import look_up, reach
from tests.conftest import Mosquitto, free_port
from tests.fluxedge.certificates import Authority


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority(directory)
    authority.issue("broker")
    authority.issue("named", "DNS:broker.example")
    authority.issue("expired", days=0)
    Authority(directory, "other")
    return directory


@pytest.fixture(params=["broker"])
def secured(request: pytest.FixtureRequest, tmp_path: Path, pki: Path) -> Iterator[Mosquitto]:
    """A Mosquitto with TLS; the parameter is its certificate."""
    lines = ("user root", f"certfile {pki / request.param}.crt", f"keyfile {pki / request.param}.key")
    mosquitto = Mosquitto(tmp_path, lines).start()
    yield mosquitto
    mosquitto.close()


def try_tls(mosquitto: Mosquitto, **table: str) -> Reach:
    cfg = UplinkCfg(url=f"mqtts://127.0.0.1:{mosquitto.port}", tls=TlsCfg(**table))  # type: ignore[arg-type]
    (found,) = reach({"cloud": cfg})
    return found


def test_a_broker_that_is_believed_tells_when_its_certificate_ends(secured: Mosquitto, pki: Path) -> None:
    found = try_tls(secured, ca=str(pki / "ca.crt"))
    assert (found.failed, found.verified) == ("", True)
    assert found.tls.startswith("TLSv1.")
    assert found.begins_s is not None
    assert found.ends_s is not None
    assert 86_400 < found.ends_s - found.begins_s <= 3 * 86_400


def test_a_stranger_is_not_believed(secured: Mosquitto, pki: Path) -> None:
    found = try_tls(secured, ca=str(pki / "other.crt"))
    assert found.failed == "tls"
    assert "certificate" in found.why


@pytest.mark.parametrize("secured", ["expired"], indirect=True)
def test_an_expired_certificate_is_said_to_be_that(secured: Mosquitto, pki: Path) -> None:
    assert "expired" in try_tls(secured, ca=str(pki / "ca.crt")).why


@pytest.mark.parametrize("secured", ["named"], indirect=True)
def test_the_name_to_expect_is_the_one_of_the_configuration(secured: Mosquitto, pki: Path) -> None:
    assert try_tls(secured, ca=str(pki / "ca.crt"), server_name="broker.example").failed == ""
    assert try_tls(secured, ca=str(pki / "ca.crt")).failed == "tls"


def test_a_certificate_that_is_not_checked_is_said_to_be_that(secured: Mosquitto) -> None:
    found = try_tls(secured, verify="none")
    assert (found.failed, found.verified, found.ends_s) == ("", False, None)


def test_settings_that_cannot_be_used_are_said_before_anything_is_opened() -> None:
    cfg = UplinkCfg(url="mqtts://127.0.0.1:1", tls=TlsCfg(ca="/no/such/ca.pem"))
    (found,) = reach({"cloud": cfg})
    assert (found.failed, "/no/such/ca.pem" in found.why) == ("settings", True)


def test_a_broker_without_tls_is_only_connected_to(broker: Mosquitto) -> None:
    (found,) = reach({"lan": UplinkCfg(url=f"mqtt://127.0.0.1:{broker.port}")})
    assert (found.failed, found.tls, found.shallow) == ("", "", False)


def test_of_an_uplink_whose_settings_are_closed_the_connection_is_tried(secured: Mosquitto) -> None:
    (found,) = reach({}, {"cloud": [f"mqtts://127.0.0.1:{secured.port}"]})
    assert (found.failed, found.tls, found.shallow) == ("", "", True)


def test_a_refused_connection_names_address_and_port() -> None:
    port = free_port()
    (found,) = reach({"lan": UplinkCfg(url=f"mqtt://127.0.0.1:{port}")})
    assert (found.failed, found.why) == ("connect", f"127.0.0.1 port {port}: connection refused")


@contextlib.contextmanager
def speaking(words: bytes) -> Iterator[int]:
    """Serve one client that hears `words` and is held until it goes; no words: it hears nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    if words:
                        peer.sendall(words)
                    while peer.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("words", "why"), [(b"", "no answer to the handshake"), (b"HTTP/1.1 400 Bad\r\n\r\n", "version")]
)
def test_a_peer_that_is_no_broker_does_not_hold_the_doctor_up(
    words: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    with speaking(words) as port:
        (found,) = reach({"odd": UplinkCfg(url=f"mqtts://127.0.0.1:{port}")})
    assert (found.failed, why in found.why) == ("tls", True), found


def test_names_are_looked_up_in_a_process_that_can_be_left_alone() -> None:
    asked: list[Sequence[str]] = []

    def getent(command: Sequence[str]) -> tuple[int, str]:
        asked.append(command)
        return 0, "192.0.2.1 STREAM b.example\n192.0.2.1 DGRAM\n2001:db8::1 STREAM\n"

    assert look_up("b.example", getent) == (["192.0.2.1", "2001:db8::1"], "")
    assert asked == [("getent", "ahosts", "b.example")]
    assert look_up("b.example", lambda command: (2, "")) == ([], "b.example has no address")
    assert look_up("b.example", lambda command: (124, "getent did not answer within 5 s"))[1].startswith("getent did")


def test_addresses_are_not_looked_up() -> None:
    def never(command: Sequence[str]) -> tuple[int, str]:
        raise AssertionError(command)

    assert look_up("127.0.0.1", never) == (["127.0.0.1"], "")
    assert look_up("fe80::1%eth0", never) == (["fe80::1%eth0"], "")


def test_a_hostile_list_of_brokers_is_cut() -> None:
    urls = [f"mqtt://h{i}.invalid" for i in range(500)]
    assert len(reach({"many": UplinkCfg(url=urls)}, run=lambda command: (2, ""))) == module.MOST_BROKERS


def test_brokers_that_do_not_answer_take_a_minute_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_S", -1.0)
    (found,) = reach({"slow": UplinkCfg(url="mqtt://h.invalid")}, run=lambda command: (2, ""))
    assert found.failed == "skipped"
