"""Secrets whose files are gone: what runs goes on with the copy in memory, as long as the gateway runs.

Secrets are not kept among the last good versions. So an uplink whose credential was deleted has no version that could
be loaded, and only the running gateway can go on with it. Over a restart it is left out (problem
`credential-missing`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from fluxedge.config import credentials
from fluxedge.config.load import Layout, Loaded
from fluxedge.config.structs import Config, UplinkCfg


def hold(running: Config, loaded: Loaded, layout: Layout) -> tuple[Loaded, dict[str, str]]:
    """Put back the running uplinks that `loaded` leaves out because a credential is gone.

    Returns what to apply, and what was put back ("uplink:cloud") with the reason. Blocks on the disk.
    """
    held: dict[str, str] = {}
    uplinks, secrets = dict(loaded.config.uplinks), dict(loaded.config.secrets)
    for key in loaded.left_out:
        kind, _, name = key.partition(":")
        cfg = running.uplinks.get(name) if kind == "uplink" else None
        gone = _gone(cfg, layout) if cfg is not None else ""
        if cfg is None or not gone:
            continue
        held[key] = f"{gone}; the running uplink goes on with the copy in memory, a restart would leave it out"
        uplinks[name] = cfg
        for secret in _secrets(cfg):
            if secret in running.secrets:
                secrets.setdefault(secret, running.secrets[secret])
    if not held:
        return loaded, held
    found = dataclasses.replace(
        loaded,
        config=msgspec.structs.replace(loaded.config, uplinks=uplinks, secrets=secrets),
        kept=loaded.kept | held,
        left_out={key: why for key, why in loaded.left_out.items() if key not in held},
    )
    return found, held


def _secrets(cfg: UplinkCfg) -> list[str]:
    """Return the keys of an uplink's secrets: a credential's name, or the path of a file of [tls]."""
    tls = (cfg.tls.ca, cfg.tls.certificate, cfg.tls.key) if cfg.tls is not None else ()
    return [secret for secret in (cfg.password, *tls) if secret]


def _gone(cfg: UplinkCfg, layout: Layout) -> str:
    """Return why a secret of an uplink cannot be read now; empty = all can."""
    for secret in _secrets(cfg):
        try:
            if secret.startswith("/"):
                credentials.read(Path(secret))
            else:
                credentials.find(secret, layout.credential_dirs)
        except ValueError as exc:
            return str(exc)
    return ""
