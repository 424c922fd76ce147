"""Uplinks: broker URLs, credentials, and what may be commanded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from fluxedge.config import credentials
from fluxedge.config.decode import decode, decode_rest
from fluxedge.config.mistakes import Findings, unknown
from fluxedge.config.sources import Item, Layout
from fluxedge.config.structs import TlsCfg, UplinkCfg
from fluxedge.config.urls import host_mistake

SCHEMES = {"mqtt": 1883, "mqtts": 8883}  # scheme -> default port (IANA: mqtt, secure-mqtt)

_NAME = "[a-z0-9_-]+"
_COMMANDS = re.compile(rf"\*|{_NAME}\.(\*|{_NAME})")


@dataclass(slots=True)
class Uplinks:
    """The uplinks of a configuration while it is put together."""

    findings: Findings
    layout: Layout
    cfgs: dict[str, UplinkCfg] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    _clients: dict[tuple[str, str], str] = field(default_factory=dict)  # (broker, client id) -> uplink

    def add(self, item: Item) -> None:
        """Take an uplink in, or note everything that is wrong with it."""
        before = len(self.findings.errors)
        cfg = decode(UplinkCfg, item.table, self.findings.noting(item.key))
        if cfg is None:  # go on with what is right in it: all mistakes are told at once
            cfg = decode_rest(UplinkCfg, item.table)
        if cfg is None:
            return
        self._check_urls(item, cfg)
        for i, pattern in enumerate(cfg.commands):
            if not _COMMANDS.fullmatch(pattern):
                text = f'"{pattern}" is not "DEVICE.POINT", "DEVICE.*" or "*"'
                self.findings.error(item.key, ("commands", i), text)
        if cfg.password:
            self._secret(item, ("password",), cfg.password)
        if cfg.tls is not None:
            cfg = msgspec.structs.replace(cfg, tls=self._tls(item, cfg.tls))
        if len(self.findings.errors) == before:
            self.cfgs[item.id] = cfg

    def check_commands(self, item: Item, devices: Iterable[str]) -> None:
        """Warn about a device that does not exist (yet)."""
        cfg = self.cfgs.get(item.id)
        known = list(devices)
        for i, pattern in enumerate(cfg.commands if cfg else ()):
            device = pattern.partition(".")[0]
            if device != "*" and device not in known:
                self.findings.warn(item.key, ("commands", i), unknown("device", device, known))

    def _check_urls(self, item: Item, cfg: UplinkCfg) -> None:
        for i, url in enumerate(cfg.urls):
            path = ("url",) if isinstance(cfg.url, str) else ("url", i)
            try:
                scheme, host, port = parse_broker_url(url)
            except ValueError as exc:
                self.findings.error(item.key, path, str(exc))
                continue
            if cfg.tls is not None and scheme == "mqtt":
                self.findings.error(item.key, path, f"{url}: [tls] has no effect on mqtt://", "Write mqtts://.")
            if cfg.client_id:
                other = self._clients.setdefault((f"{host}:{port}", cfg.client_id), item.id)
                if other != item.id:
                    text = f'"{cfg.client_id}" is already the client id of the uplink {other} at this broker'
                    self.findings.error(item.key, ("client_id",), text, "A broker keeps one connection per client id.")

    def _tls(self, item: Item, tls: TlsCfg) -> TlsCfg:
        """Return the table with absolute paths instead of credentials' names."""
        changes: dict[str, str] = {}
        for key in ("ca", "certificate", "key"):
            name: str = getattr(tls, key)
            if name:
                found = self._secret(item, ("tls", key), name, private=key == "key")
                changes[key] = str(found.path) if found else name
        return msgspec.structs.replace(tls, **changes)

    def _secret(
        self, item: Item, path: tuple[str, ...], name: str, *, private: bool = True
    ) -> credentials.Credential | None:
        file_wanted = path[0] == "tls"
        try:
            if file_wanted and name.startswith("/"):
                found = credentials.read(Path(name))
            else:
                found = credentials.find(name, self.layout.credential_dirs)
        except ValueError as exc:
            hint = f"Put it into {self.layout.credential_dirs[0]}/, readable by the user fluxedge only."
            self.findings.error(item.key, path, str(exc), hint, "credential-missing")
            return None
        if private and found.exposed:
            text = f"every user of this machine can read {found.path}"
            self.findings.warn(item.key, path, text, f"chmod 640 {found.path}")
        self.secrets[str(found.path) if file_wanted else name] = found.text
        return found


def parse_broker_url(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of mqtt://host[:1883] or mqtts://host[:8883].

    Raises:
        ValueError: it is not one; the text says what to write.
    """
    if "://" not in url:
        raise ValueError(f'"{url}" is not a broker URL; write for example mqtts://broker.example.com:8883')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f'"{url}" is not a URL: {exc}') from exc
    if parts.scheme not in SCHEMES:
        raise ValueError(f'"{parts.scheme}" is not a scheme of brokers; known are mqtt:// and mqtts://')
    if "@" in parts.netloc:
        raise ValueError(
            "a user name or password does not belong into the URL; write username, and name a file below credentials/ "
            "in password"
        )
    if not parts.hostname:
        raise ValueError(f'"{url}" has no host')
    wrong = host_mistake(parts.hostname)
    if wrong:
        raise ValueError(f'"{url}": {wrong}')
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f'"{url}": nothing may follow the port')
    if port == 0:
        raise ValueError(f'"{url}": 0 is not a port in 1..65535')
    return parts.scheme, parts.hostname, port or SCHEMES[parts.scheme]
