"""Instants as people write them: "1h" (an hour ago), "2026-03-01", "2026-03-01T12:00:00+08:00"."""

from __future__ import annotations

import datetime

from fluxedge.config.quantities import Seconds


def instant_ns(text: str, now_ns: int) -> int:
    """Return an instant, UTC in ns; a time without offset is local.

    Raises:
        ValueError: with a remedy.
    """
    try:
        return now_ns - int(Seconds.parse(text) * 10**9)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ValueError(f'"{text}" is no time; write "1h" (ago), "2026-03-01" or "2026-03-01T12:00:00+08:00"') from exc
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
