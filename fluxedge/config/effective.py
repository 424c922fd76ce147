"""The configuration in effect, for people and scripts to look at: plain data, without secrets."""

from __future__ import annotations

import typing

import msgspec

from fluxedge.config.credentials import Secret
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import Config


def effective(config: Config) -> dict[str, typing.Any]:
    """Return the whole configuration, defaults included, as JSON can carry it; secrets are named, not shown."""
    hidden = msgspec.structs.replace(config, secrets=dict.fromkeys(config.secrets, "***"))
    plain = msgspec.to_builtins(hidden, enc_hook=_plain)
    return typing.cast("dict[str, typing.Any]", plain)


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Seconds | Bytes):
        return str(value)
    raise NotImplementedError(f"no plain form of {type(value)}")
