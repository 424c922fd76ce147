"""The log: the one append-only store, its cursors, its retention and its queries."""

from fluxedge.log.store import Batch, Log, LogFault

__all__ = ["Batch", "Log", "LogFault"]
