"""What a broker's codes and failures mean. The tables are of the standards named in the module."""

from __future__ import annotations

import errno
import socket
import ssl
import struct

import pytest

from fluxedge import mqtt_terms as terms

WHERE = "broker:1883"


@pytest.mark.parametrize(
    ("code", "problem", "words"),
    [
        (5, "uplink-refused", "not authorised"),  # 3.1.1
        (0x87, "uplink-refused", "not authorised"),
        (0x86, "uplink-refused", "bad user name or password"),
        (3, "uplink-throttled", "server unavailable"),
        (0x89, "uplink-throttled", "server busy"),
        (0x9F, "uplink-throttled", "connection rate exceeded"),
        (0xFE, "uplink-refused", "code 0xFE"),
    ],
)
def test_a_refused_connection_says_why_and_whether_to_change_something(code: int, problem: str, words: str) -> None:
    found = terms.refused(WHERE, code)
    assert (found.code, found.message) == (problem, f"{WHERE}: {words}")
    assert bool(found.hint) == (problem == "uplink-refused")


@pytest.mark.parametrize(
    ("code", "problem", "advice"),
    [
        (0x8E, "uplink-clash", "longer-pause"),
        (0x93, "uplink-throttled", "smaller-window"),
        (0x95, "uplink-throttled", "smaller-messages"),
        (0x8B, "uplink-down", ""),
        (0x98, "uplink-down", ""),
        (0x00, "uplink-down", "suspect-records"),
        (0x81, "uplink-down", "suspect-records"),
        (0x82, "uplink-down", "suspect-records"),
    ],
)
def test_the_end_of_a_connection_says_what_to_do_differently(code: int, problem: str, advice: str) -> None:
    found = terms.ended(WHERE, code)
    assert (found.code, found.advice) == (problem, advice)


def test_a_failed_handshake_names_the_key_to_set() -> None:
    error = ssl.SSLError(1, "[SSL] alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    found = terms.tls_failed(WHERE, error)
    assert (found.code, found.message) == ("uplink-tls", f"{WHERE}: TLS: tlsv13 alert certificate required")
    assert "tls.certificate" in found.hint
    error.reason = "UNEXPECTED_MESSAGE"
    assert terms.tls_failed(WHERE, error).hint == ""


def test_a_broker_that_closes_at_once_is_suspected_by_what_was_spoken() -> None:
    assert terms.hung_up(WHERE, tls=True).code == "uplink-tls"
    plain = terms.hung_up(WHERE, tls=False)
    assert (plain.code, plain.hint) == ("uplink-down", "Does it expect TLS (mqtts://)?")


@pytest.mark.parametrize(
    "error", [None, ConnectionResetError(errno.ECONNRESET, "x"), BrokenPipeError(errno.EPIPE, "x")]
)
def test_a_peer_that_hangs_up_makes_what_was_sent_suspicious(error: Exception | None) -> None:
    found = terms.lost(WHERE, error)
    assert (found.code, found.advice) == ("uplink-down", "suspect-records")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(errno.ETIMEDOUT, "x"), "uplink-down"),
        (OSError(errno.EHOSTUNREACH, "x"), "uplink-down"),
        (ssl.SSLError(1, "x"), "uplink-tls"),
    ],
)
def test_a_link_that_fails_by_itself_makes_nothing_suspicious(error: Exception, code: str) -> None:
    found = terms.lost(WHERE, error)
    assert (found.code, found.advice) == (code, "")


@pytest.mark.parametrize(
    ("code", "word"), [(9, "clock"), (10, "clock"), (62, "tls.server_name"), (64, "tls.server_name"), (20, "tls.ca")]
)
def test_a_certificate_that_is_not_believed_has_a_remedy(code: int, word: str) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, "why"
    found = terms.tls_failed(WHERE, error)
    assert found.message == f"{WHERE}: the broker's certificate: why"
    assert word in found.hint


def test_what_the_operating_system_says_is_told_in_words() -> None:
    assert terms.unreachable(WHERE, OSError(errno.ECONNREFUSED, "x")).message == f"{WHERE}: Connection refused"
    name = terms.unreachable(WHERE, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert name.message == f"{WHERE}: the name cannot be resolved: Name or service not known"
    assert terms.unreachable(WHERE, OSError()).message == f"{WHERE}: the broker closed the connection"


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(terms.Settings(host="a", port=1, client_id="c", password="hunter2"))


def test_a_packets_size_is_never_underestimated() -> None:
    topic, payload = "fluxedge/一号/rounds", b"x" * 300
    properties = {
        "message_expiry_interval": 60,
        "content_type": "json",
        "user_property": [("gateway", "g"), ("lane", "r")],
    }
    # MQTT 5, 3.3.2.3: identifier, then four bytes, a text with its length, or two of them
    encoded = struct.pack(">BI", 2, 60)
    for parts in ((b"json",), (b"gateway", b"g"), (b"lane", b"r")):
        encoded += b"\x03" + b"".join(struct.pack(">H", len(part)) + part for part in parts)
    body = struct.pack(">H", len(topic.encode())) + topic.encode() + b"\0\1" + bytes([len(encoded)]) + encoded + payload
    packet = b"\x32" + bytes([len(body) % 128 | 0x80, len(body) // 128]) + body
    assert len(packet) <= terms.packet_bytes(topic, len(payload), properties) <= len(packet) + 8
