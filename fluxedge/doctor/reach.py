"""Look whether brokers can be reached: name, TCP, TLS and its certificate. No MQTT is spoken, nothing is sent.

Names are looked up by getent(1), in a process of its own: the resolver has no time-out that a caller could set, and
asks each server for ten seconds and more.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fluxedge.config.structs import TlsCfg, UplinkCfg
from fluxedge.config.uplinks import parse_broker_url
from fluxedge.doctor.facts import Reach
from fluxedge.doctor.machine import Ask, ask
from fluxedge.problems import LinkProblem
from fluxedge.uplinks.tls import tls_context

CONNECT_S = 3.0
MOST_ADDRESSES = 4  # of one name
ALL_S = 60.0  # then the rest is not tried
MOST_BROKERS = 32  # a hostile configuration does not keep the doctor for hours


def reach(
    uplinks: Mapping[str, UplinkCfg], others: Mapping[str, Iterable[str]] | None = None, run: Ask = ask
) -> list[Reach]:
    """Return what came of connecting to every broker, one after the other.

    `others` are uplinks of which only the URLs are known: name and TCP are tried, TLS is not.
    """
    wanted: list[tuple[str, UplinkCfg | None, str]] = [
        (name, cfg, url) for name, cfg in uplinks.items() for url in cfg.urls
    ]
    wanted += [(name, None, url) for name, urls in (others or {}).items() for url in urls]
    until_s = time.monotonic() + ALL_S
    found = []
    for name, cfg, url in wanted[:MOST_BROKERS]:
        late = time.monotonic() > until_s
        found.append(Reach(name, url, failed="skipped") if late else _reach(name, cfg, url, run))
    return found


def _reach(name: str, cfg: UplinkCfg | None, url: str, run: Ask) -> Reach:
    _, host, port = parse_broker_url(url)
    addresses, why = look_up(host, run)
    if not addresses:
        return Reach(name, url, failed="name", why=why)
    begun_s = time.monotonic()
    try:
        context = tls_context(cfg, url, Path("/")) if cfg is not None else None  # the loader made absolute paths
    except LinkProblem as problem:
        return Reach(name, url, tuple(addresses), "settings", problem.message)
    sock, why = _connect(addresses[:MOST_ADDRESSES], port)
    if sock is None:
        return Reach(name, url, tuple(addresses), "connect", why)
    with sock:
        took_ms = (time.monotonic() - begun_s) * 1000
        if cfg is None or context is None:
            shallow = cfg is None and url.startswith("mqtts:")
            return Reach(name, url, tuple(addresses), took_ms=took_ms, shallow=shallow)
        expected = (cfg.tls or TlsCfg()).server_name or host
        return _shake(Reach(name, url, tuple(addresses), took_ms=took_ms), sock, context, expected)


def look_up(host: str, run: Ask = ask) -> tuple[list[str], str]:
    """Return the addresses of a host, or why there are none."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return [host], ""
    code, text = run(("getent", "ahosts", host))
    if code == 0:
        return list(dict.fromkeys(line.split()[0] for line in text.splitlines() if line.strip())), ""
    if code == 2:  # getent(1): a key could not be found; it does not tell a wrong name from a silent server
        return [], f"{host} has no address"
    return [], text.strip()[:200] or f"getent ended with {code}"


def _connect(addresses: Iterable[str], port: int) -> tuple[socket.socket | None, str]:
    why = ""
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=CONNECT_S), ""
        except TimeoutError:
            why = why or f"{address} port {port} did not answer within {CONNECT_S:g} s"
        except OSError as exc:
            why = why or f"{address} port {port}: {(exc.strerror or str(exc)).lower()}"
    return None, why


def _shake(found: Reach, sock: socket.socket, context: ssl.SSLContext, expected: str) -> Reach:
    """Add what came of the TLS handshake."""
    failed = Reach(found.uplink, found.url, found.addresses, "tls", took_ms=found.took_ms)
    try:
        with context.wrap_socket(sock, server_hostname=expected) as tls:
            certificate = tls.getpeercert() or {}
            return Reach(
                found.uplink,
                found.url,
                found.addresses,
                took_ms=found.took_ms,
                tls=tls.version() or "",
                verified=context.verify_mode == ssl.CERT_REQUIRED,
                ends_s=_instant(certificate.get("notAfter")),
                begins_s=_instant(certificate.get("notBefore")),
            )
    except ssl.SSLCertVerificationError as exc:
        return _because(failed, exc.verify_message)
    except TimeoutError:
        return _because(failed, f"no answer to the handshake within {CONNECT_S:g} s")
    except ssl.SSLError as exc:
        return _because(failed, (exc.reason or str(exc)).lower().replace("_", " "))
    except OSError as exc:
        return _because(failed, (exc.strerror or str(exc)).lower())


def _because(failed: Reach, why: str) -> Reach:
    return Reach(failed.uplink, failed.url, failed.addresses, "tls", why, failed.took_ms)


def _instant(text: object) -> float | None:
    return float(ssl.cert_time_to_seconds(text)) if isinstance(text, str) else None
