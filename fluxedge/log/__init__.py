"""The log: the one append-only store, its cursors, its retention and its queries.

What is named here is imported when it is used: children that only read history must not load the whole store.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from fluxedge.log.batch import Batch
    from fluxedge.log.damage import LogFault
    from fluxedge.log.retention import Gap
    from fluxedge.log.store import Log

__all__ = ["Batch", "Gap", "Log", "LogFault"]

_HOMES = {"Batch": "batch", "Gap": "retention", "Log": "store", "LogFault": "damage"}


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
