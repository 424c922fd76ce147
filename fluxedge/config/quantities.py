"""Durations and sizes as users write them: strings with units ("1s", "250ms", "4GiB")."""

from __future__ import annotations

import json
import re

_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_BYTES = {
    "B": 1, "kB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30, "TB": 10**12,
    "TiB": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def _shown(value: object) -> str:
    """Return a value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False, default=str)


class Seconds(float):
    """A duration, in seconds. In TOML: "250ms", "1s", "5m", "24h", "400d"."""

    @classmethod
    def parse(cls, text: object) -> Seconds:
        """Raises ValueError with a remedy."""
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in _DURATION_S:
            raise ValueError(
                f'{_shown(text)} is not a duration; write a string with a unit such as "250ms", "1s", "5m", "24h"'
            )
        return cls(float(match[1]) * _DURATION_S[match[2]])

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            if self >= _DURATION_S[unit] and self % _DURATION_S[unit] == 0:
                return f"{self / _DURATION_S[unit]:.0f}{unit}"
        return f"{self * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


class Bytes(int):
    """A size, in bytes. In TOML: "64KiB", "8MiB", "4GiB"."""

    @classmethod
    def parse(cls, text: object) -> Bytes:
        """Raises ValueError with a remedy."""
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in _SIZE_BYTES:
            raise ValueError(
                f'{_shown(text)} is not a size; write a string with a unit such as "64KiB", "8MiB", "4GiB"'
            )
        return cls(float(match[1]) * _SIZE_BYTES[match[2]])

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self >= _SIZE_BYTES[unit] and self % _SIZE_BYTES[unit] == 0:
                return f"{self // _SIZE_BYTES[unit]}{unit}"
        return f"{int(self)}B"
