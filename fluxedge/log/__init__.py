"""The log: the one append-only store, its cursors, its retention and its queries."""

from fluxedge.log.batch import Batch
from fluxedge.log.damage import LogFault
from fluxedge.log.retention import Gap
from fluxedge.log.store import Log

__all__ = ["Batch", "Gap", "Log", "LogFault"]
