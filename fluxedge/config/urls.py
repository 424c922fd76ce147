"""Channel URLs: what a channel opens, as users write it.

    tcp://HOST[:502]                Modbus TCP
    rtu+tcp://HOST:PORT             RTU frames over TCP: serial device servers, transparent gateways
    serial:///dev/PATH?KEY=VALUE&…  RTU on a serial line

    baud=9600  parity=N (N E O M S)  bits=8 (5…8)  stop=1 (1 1.5 2)
    rs485=kernel                    the kernel drives RTS; further: rts_on_send=1  rts_after_send=0
                                    delay_before_send=0  delay_after_send=0 (ms)

An IPv6 address stands in brackets: tcp://[fe80::1]:502.
"""

from __future__ import annotations

import ipaddress
import re
import typing
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

Scheme = typing.Literal["tcp", "rtu+tcp", "serial"]
SCHEMES: tuple[Scheme, ...] = ("tcp", "rtu+tcp", "serial")
MODBUS_PORT = 502  # IANA: mbap
FRAMINGS: dict[Scheme, str] = {"tcp": "tcp", "rtu+tcp": "rtu-tcp", "serial": "rtu"}  # spi.Channel.framing

_PARITIES = ("N", "E", "O", "M", "S")
_STOPS = {"1": 1.0, "1.5": 1.5, "2": 2.0}
_RS485_KEYS = ("rts_on_send", "rts_after_send", "delay_before_send", "delay_after_send")
_SERIAL_KEYS = ("baud", "parity", "bits", "stop", "rs485", *_RS485_KEYS)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")  # RFC 1123, 2.1; _ is common in the field
_LONGEST_NAME = 253  # RFC 1035, 2.3.4: 255 bytes on the wire
_ZONE = re.compile(r"[A-Za-z0-9_.-]+")
_EXAMPLE = "serial:///dev/serial/by-id/usb-…?baud=9600&parity=N"


@dataclass(frozen=True, slots=True)
class Rs485:
    """How the kernel's serial driver switches the transceiver (struct serial_rs485)."""

    rts_on_send: bool = True
    rts_after_send: bool = False
    delay_before_send_ms: int = 0
    delay_after_send_ms: int = 0


@dataclass(frozen=True, slots=True)
class ChannelUrl:
    """A channel URL in parts. `str()` gives its canonical form: equal wires with equal settings are equal texts."""

    scheme: Scheme
    host: str = ""  # tcp, rtu+tcp; lower case
    port: int = 0
    path: str = ""  # serial: the device file
    baud: int = 9600
    parity: str = "N"
    bits: int = 8
    stop: float = 1.0  # 1, 1.5 or 2
    rs485: Rs485 | None = None

    @property
    def framing(self) -> str:
        """Return what spi.Channel.framing says: "tcp", "rtu" or "rtu-tcp"."""
        return FRAMINGS[self.scheme]

    @property
    def endpoint(self) -> str:
        """Return what only one channel may open: the device file, or host:port."""
        if self.scheme == "serial":
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.scheme != "serial":
            return f"{self.scheme}://{self.endpoint}"
        text = f"serial://{quote(self.path)}?baud={self.baud}&parity={self.parity}&bits={self.bits}&stop={self.stop:g}"
        if self.rs485 is not None:
            text += (
                f"&rs485=kernel&rts_on_send={self.rs485.rts_on_send:d}&rts_after_send={self.rs485.rts_after_send:d}"
                f"&delay_before_send={self.rs485.delay_before_send_ms}"
                f"&delay_after_send={self.rs485.delay_after_send_ms}"
            )
        return text


def parse_channel_url(url: str) -> ChannelUrl:
    """Return the parts of a channel URL.

    Raises:
        ValueError: it is not one; the text says what to write.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(f'"{url}" is not a channel URL; write for example tcp://192.168.1.10:502 or {_EXAMPLE}')
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ValueError(f'"{url}" is not a URL: {exc}') from exc
    if parts.fragment:
        raise ValueError(f'"{url}": nothing may follow a #')
    if scheme == "serial":
        if parts.netloc or len(parts.path) < 2:
            raise ValueError(f'"{url}": write three slashes and the device file, for example {_EXAMPLE}')
        return _serial(unquote(parts.path), parts.query)
    if scheme == "tcp" or scheme == "rtu+tcp":
        if parts.path not in ("", "/") or parts.query:
            raise ValueError(f'"{url}": nothing may follow the port')
        return _tcp(typing.cast(Scheme, scheme), url, parts.netloc)
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    raise ValueError(f'"{scheme}" is not a scheme of channels; known are {known}')


def _tcp(scheme: Scheme, url: str, netloc: str) -> ChannelUrl:
    """netloc: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT."""
    if "@" in netloc:
        raise ValueError(f'"{url}": a channel has no user name and no password')
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", netloc)
    if bracketed:
        host, port_text = bracketed[1], bracketed[2]
    else:
        host, colon, rest = netloc.partition(":")
        port_text = rest if colon else None
    if not host or (":" in host) != bool(bracketed):
        raise ValueError(f'"{url}": "{host}" is not a host name or address; write an IPv6 address in brackets')
    wrong = host_mistake(host)
    if wrong:
        raise ValueError(f'"{url}": {wrong}')
    if port_text is None:
        if scheme == "rtu+tcp":
            raise ValueError(f'"{url}": a port is missing; write {scheme}://{netloc}:PORT as its manual says')
        return ChannelUrl(scheme, host.lower(), MODBUS_PORT)
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
        raise ValueError(f'"{url}": "{port_text}" is not a port in 1..65535')
    return ChannelUrl(scheme, host.lower(), int(port_text))


def host_mistake(host: str) -> str:
    """Return why a text is no host name and no address, "" when it is one. What it accepts can be looked up."""
    if ":" in host:
        address, percent, zone = host.partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return f'"{host}" is not an IPv6 address'
        return "" if not percent or _ZONE.fullmatch(zone) else f'"{host}" names no network interface behind the %'
    name = host.removesuffix(".")  # one dot at the end marks a complete name
    labels = name.split(".")
    if len(labels) > 1 and all(re.fullmatch("[0-9]+", label) for label in labels):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            return f'"{host}" is not an IPv4 address; write four numbers in 0..255, without zeros before them'
        return ""
    if len(name) > _LONGEST_NAME:
        return f'"{host[:40]}…" is not a host name: it is longer than {_LONGEST_NAME} characters'
    for label in labels:
        if not _LABEL.fullmatch(label):
            what = f'its part "{label}"' if label and label != host else "it" if label else "a part between its dots"
            why = "is empty" if not label else "is longer than 63 characters" if len(label) > 63 else ""
            why = why or "has a character that names have not; letters, digits, - and _ are possible"
            return f'"{host}" is not a host name or address: {what} {why}'
    return ""


def _serial(path: str, query: str) -> ChannelUrl:
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _SERIAL_KEYS:
            known = ", ".join(_SERIAL_KEYS)
            raise ValueError(f'"{key}" is not a setting of a serial line; known are {known}')
        if key in options:
            raise ValueError(f"{key} is given twice")
        options[key] = value
    parity = options.get("parity", "N").upper()
    if parity not in _PARITIES:
        raise ValueError(f'parity: "{parity}" is not one of {", ".join(_PARITIES)}')
    stop = options.get("stop", "1")
    if stop not in _STOPS:
        raise ValueError(f'stop: "{stop}" is not one of {", ".join(_STOPS)}')
    return ChannelUrl(
        "serial",
        path=path,
        baud=_number(options, "baud", 9600, 50, 4_000_000),
        parity=parity,
        bits=_number(options, "bits", 8, 5, 8),
        stop=_STOPS[stop],
        rs485=_rs485(options),
    )


def _rs485(options: dict[str, str]) -> Rs485 | None:
    mode = options.get("rs485", "off")
    if mode not in ("off", "kernel"):
        raise ValueError(f'rs485: "{mode}" is not one of off, kernel')
    if mode == "off":
        lonely = [key for key in _RS485_KEYS if key in options]
        if lonely:
            raise ValueError(f"{lonely[0]} has no effect without rs485=kernel")
        return None
    return Rs485(
        rts_on_send=bool(_number(options, "rts_on_send", 1, 0, 1)),
        rts_after_send=bool(_number(options, "rts_after_send", 0, 0, 1)),
        delay_before_send_ms=_number(options, "delay_before_send", 0, 0, 1000),
        delay_after_send_ms=_number(options, "delay_after_send", 0, 0, 1000),
    )


def _number(options: dict[str, str], key: str, default: int, low: int, high: int) -> int:
    text = options.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ValueError(f'{key}: "{text}" is not in {low}..{high}')
    return int(text)
