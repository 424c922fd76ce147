"""Promised = delivered + quarantined + announced gap: what of it is still outstanding."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fluxedge.log.ranges import RangeSet
from fluxedge.verify import Ledger, Verifier

Promise = dict[tuple[int, str], int]  # (epoch, lane) -> last committed seq
Ranges = dict[tuple[int, str], list[tuple[int, int]]]


def heads(state: Path) -> Promise:
    """Return the last committed seqs, read without any code of the gateway."""
    connection = sqlite3.connect(f"file:{state / 'log.db'}?mode=ro", uri=True)
    try:
        found: Promise = {}
        for lane, number, epoch in connection.execute("SELECT lane, number, epoch FROM segments").fetchall():
            name = ("rounds", "events")[lane]
            (last,) = connection.execute(f"SELECT max(seq + n - 1) FROM {name}_{number:03d}").fetchone()
            found[(epoch, name)] = max(found.get((epoch, name), 0), last or 0)
        return found
    finally:
        connection.close()


def quarantined(state: Path) -> Ranges:
    """Return what was put aside, read without any code of the gateway."""
    connection = sqlite3.connect(f"file:{state / 'log.db'}?mode=ro", uri=True)
    try:
        found: Ranges = {}
        for epoch, lane, lo, hi in connection.execute("SELECT epoch, lane, lo, hi FROM quarantine").fetchall():
            found.setdefault((epoch, ("rounds", "events")[lane]), []).append((lo, hi))
        return found
    finally:
        connection.close()


def outstanding(verifier: Verifier, promised: Promise, aside: Ranges | None = None) -> Ranges:
    """Return the ranges that were promised, and have neither come nor been put aside nor been announced as a gap."""
    found = {}
    for (epoch, lane), head in promised.items():
        ledger = verifier.ledgers.get(("gw", epoch, lane), Ledger())
        wanted = RangeSet([(1, head)])
        for lo, hi in [*ledger.seen, *ledger.gaps, *(aside or {}).get((epoch, lane), ())]:
            wanted.remove(lo, hi)
        if wanted:
            found[epoch, lane] = list(wanted)
    return found
