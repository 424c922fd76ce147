"""The terms of an MQTT connection: settings, sizes, and what a broker's reason codes mean. Tables and pure functions.

CONNACK     MQTT 5, 3.2.2.2, and MQTT 3.1.1, 3.2.2.3
DISCONNECT  MQTT 5, 3.14.2.1
TLS alerts  RFC 8446, section 6
"""

from __future__ import annotations

import os
import socket
import ssl
import typing
from dataclasses import dataclass, field

from fluxedge.problems import Advice, LinkProblem

WRONG_VERSION = (1, 0x84)
PACKET_TOO_LARGE = 0x95

_REFUSED = {
    1: "the broker does not speak this MQTT version", 2: "client identifier rejected", 3: "server unavailable",
    4: "bad user name or password", 5: "not authorised", 10: "its answer cannot be read",
    0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x83: "implementation specific error",
    0x84: "the broker does not speak this MQTT version", 0x85: "client identifier not valid",
    0x86: "bad user name or password", 0x87: "not authorised", 0x88: "server unavailable", 0x89: "server busy",
    0x8A: "banned", 0x8C: "bad authentication method", 0x90: "the topic of the last will is not valid",
    0x95: "packet too large", 0x97: "quota exceeded", 0x99: "payload format of the last will is not valid",
    0x9A: "retained messages are not supported", 0x9B: "QoS 1 is not supported", 0x9C: "use another server",
    0x9D: "server moved", 0x9F: "connection rate exceeded",
}  # fmt: skip
_BUSY = (3, 0x88, 0x89, 0x97, 0x9F)

# reason -> (problem code, sentence, what to do differently)
_ENDED: dict[int, tuple[str, str, Advice]] = {
    0x87: ("uplink-refused", "not authorised", ""),
    0x89: ("uplink-throttled", "server busy", ""),
    0x8B: ("uplink-down", "server shutting down", ""),
    0x8D: ("uplink-down", "keep-alive time-out", ""),
    0x8E: ("uplink-clash", "another client took this client identifier", "longer-pause"),
    0x93: ("uplink-throttled", "receive maximum exceeded", "smaller-window"),
    0x95: ("uplink-throttled", "packet too large", "smaller-messages"),
    0x96: ("uplink-throttled", "message rate too high", "smaller-window"),
    0x97: ("uplink-throttled", "quota exceeded", ""),
    0x98: ("uplink-down", "administrative action", ""),
}

# A broker that ends the connection with one of these, or without a word, may have been killed by what we sent.
_UNEXPLAINED = (0x00, 0x80, 0x81, 0x82, 0x83, 0x99)

_TLS_HINTS = {
    "WRONG_VERSION_NUMBER": "The broker does not speak TLS on this port; use mqtt://, or its TLS port.",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "The broker wants a client certificate: set tls.certificate and tls.key.",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "Does the broker want a client certificate (tls.certificate, tls.key)?",
    "TLSV1_ALERT_UNKNOWN_CA": "The broker does not trust the authority that signed tls.certificate.",
    "SSLV3_ALERT_BAD_CERTIFICATE": "The broker does not accept tls.certificate.",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "tls.certificate has expired.",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "tls.certificate was revoked.",
}


_AUTHORITY_HINT = "Does tls.ca name the authority that signed the broker's certificate? Empty means the system's."
_NAME_HINT = "Use a host name that the certificate carries in the URL, or give the name as tls.server_name."
_CERTIFICATE_HINTS = {  # OpenSSL, X509_STORE_CTX_get_error(3)
    9: "Is this machine's clock right? If it is, the broker's certificate begins to be valid later.",
    10: "Is this machine's clock right? If it is, the broker needs a new certificate.",
    23: "The broker needs a new certificate.",
    62: _NAME_HINT,
    64: _NAME_HINT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and how to connect."""

    host: str
    port: int
    client_id: str
    keepalive_s: float = 30.0
    window: int = 64
    version: str = "5"
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    will_topic: str = ""
    will_payload: bytes = b""
    connect_s: float = 10.0
    ack_s: float = 30.0  # the oldest unacknowledged message may be this old
    close_s: float = 1.0  # the broker may take this long to hang up after our DISCONNECT

    @property
    def where(self) -> str:
        """Return host and port, as messages name the broker."""
        return f"{self.host}:{self.port}"


class Incoming(typing.NamedTuple):
    """A message that came down."""

    topic: str
    payload: bytes
    retained: bool
    properties: dict[str, typing.Any]  # name -> list of values


class Rejected(Exception):
    """A PUBACK with a reason code >= 0x80 (MQTT 5, 3.4.2.1), or 0x95: a packet that was not even sent."""

    def __init__(self, code: int) -> None:
        super().__init__(f"PUBACK 0x{code:02X}")
        self.code = code


class WrongVersion(LinkProblem):
    """The broker does not speak MQTT 5; the next attempt is made with 3.1.1."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "uplink-old-version",
            f"{where}: the broker does not speak MQTT 5; 3.1.1 is used",
            "It acknowledges messages that it then discards when access is denied. Update the broker if you can.",
            advice="older-version",
        )


def refused(where: str, code: int) -> LinkProblem:
    """Return what a CONNACK with this code means."""
    text = _REFUSED.get(code, f"code 0x{code:02X}")
    if code in _BUSY:
        return LinkProblem("uplink-throttled", f"{where}: {text}")
    hint = "Check username, password, client_id and the broker's access list."
    return LinkProblem("uplink-refused", f"{where}: {text}", hint)


def ended(where: str, code: int) -> LinkProblem:
    """Return what a DISCONNECT from the broker with this reason means."""
    other: Advice = "suspect-records" if code in _UNEXPLAINED else ""
    problem, text, advice = _ENDED.get(code, ("uplink-down", _REFUSED.get(code, f"code 0x{code:02X}"), other))
    hint = "Give each gateway and uplink a client_id of its own." if problem == "uplink-clash" else ""
    return LinkProblem(problem, f"{where}: the broker ended the connection: {text}", hint, advice=advice)


def tls_failed(where: str, error: ssl.SSLError) -> LinkProblem:
    """Return what a failed TLS handshake means, from our side or by the broker's alert."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _CERTIFICATE_HINTS.get(error.verify_code, _AUTHORITY_HINT)
        return LinkProblem("uplink-tls", f"{where}: the broker's certificate: {error.verify_message}", hint)
    reason = getattr(error, "reason", None) or ""  # one that Python raised itself has none
    text = reason.lower().replace("_", " ") or str(error)
    return LinkProblem("uplink-tls", f"{where}: TLS: {text}", _TLS_HINTS.get(reason, ""))


def hung_up(where: str, *, tls: bool) -> LinkProblem:
    """Return what it means that the broker closed the connection before it answered CONNECT.

    With TLS 1.3 a client certificate is judged after the handshake, and the alert that says so is often lost: the
    broker closes with our CONNECT unread, which resets the connection.
    """
    if tls:
        hint = "It may refuse tls.certificate, want a client certificate, or not speak TLS on this port."
        return LinkProblem("uplink-tls", f"{where}: the broker closed the connection without a word", hint)
    hint = "Does it expect TLS (mqtts://)?"
    return LinkProblem("uplink-down", f"{where}: the broker closed the connection before answering", hint)


def lost(where: str, error: Exception | None) -> LinkProblem:
    """Return what it means that a connection which worked is gone, with what the transport told.

    Only an end that the peer made makes records suspicious; the system's own (a time-out, no route) does not.
    """
    if isinstance(error, ssl.SSLError):
        return tls_failed(where, error)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return unreachable(where, error)
    text = "the broker closed the connection" if error is None else os.strerror(getattr(error, "errno", 0) or 104)
    return LinkProblem("uplink-down", f"{where}: {text}", advice="suspect-records")


def unreachable(where: str, error: OSError) -> LinkProblem:
    """Return what a failure of the operating system means."""
    if isinstance(error, socket.gaierror):
        text = f"the name cannot be resolved: {error.strerror}"
    else:
        text = os.strerror(error.errno) if error.errno else str(error) or "the broker closed the connection"
    return LinkProblem("uplink-down", f"{where}: {text}", "Is the broker running and the address right?")


def packet_bytes(topic: str, payload_bytes: int, properties: dict[str, typing.Any]) -> int:
    """Return the size of a QoS 1 PUBLISH packet, or a few bytes more (MQTT 5, 3.3)."""
    size = 1 + 4 + 2 + len(topic.encode()) + 2 + 4 + payload_bytes  # lengths of packet and properties take up to 4
    for value in properties.values():
        for item in value if isinstance(value, list) else [value]:
            size += 1
            for part in item if isinstance(item, tuple) else (item,):
                size += 4 if isinstance(part, int) else 2 + len(part.encode() if isinstance(part, str) else part)
    return size
