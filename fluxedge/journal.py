"""Where log lines go: to the journal with fields of our own under systemd, as readable text elsewhere.

    journalctl FLUXEDGE_DEVICE=meter-1        journalctl FLUXEDGE_CODE=no-reply

and what systemd is told: READY, one STATUS line, RELOADING, STOPPING, WATCHDOG; no-ops without systemd-python.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import typing

_daemon: typing.Any = None
_journal: typing.Any = None
try:
    _daemon = importlib.import_module("systemd.daemon")
    _journal = importlib.import_module("systemd.journal")
except ImportError:  # Debian's package python3-systemd is not installed
    pass

TEXT = "%(asctime)s %(levelname)-8s %(message)s"


def set_up(level: int = logging.INFO) -> None:
    """Send log lines to the journal when systemd reads our output, to standard error otherwise."""
    handler: logging.Handler
    if _journal is not None and "JOURNAL_STREAM" in os.environ:
        handler = _journal.JournalHandler(SYSLOG_IDENTIFIER="fluxedge")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp.access", "watchfiles.main"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def fields(item: str, code: str = "") -> dict[str, typing.Any]:
    """Return the journal fields of a line about an item such as "device:meter-1"."""
    kind, _, name = item.partition(":")
    found = {"FLUXEDGE_ITEM": item}
    if name:
        found[f"FLUXEDGE_{kind.upper()}"] = name
    if code:
        found["FLUXEDGE_CODE"] = code
    return found


def notify(message: str) -> None:
    """Tell systemd something, for instance "READY=1"; a no-op where nobody listens."""
    if _daemon is not None:
        _daemon.notify(message)


def watchdog_s() -> float:
    """Return how often systemd wants to hear from us at the latest; 0 = never."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
