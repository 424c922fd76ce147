"""A connection to a broker for one verb: MQTT 5, and 3.1.1 where the broker does not speak it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fluxedge.mqtt import Incoming, Session, Settings
from fluxedge.problems import LinkProblem

FIRST_CONNECT_S = 4.0


async def connect(settings: Settings, on_message: Callable[[Incoming], None] | None = None) -> Session:
    """Return an open session.

    Raises:
        LinkProblem: what is in the way.
    """
    first = settings
    if settings.version == "5":  # one that knows 3.1.1 only may say nothing at all: then ask again soon
        first = dataclasses.replace(settings, connect_s=min(settings.connect_s, FIRST_CONNECT_S))
    session = Session(first, on_message)
    try:
        await session.open()
    except LinkProblem as problem:
        if settings.version != "5" or problem.code == "uplink-tls":
            raise
        # Brokers that do not know MQTT 5 refuse it in words, by closing, or by silence.
        older = Session(dataclasses.replace(settings, version="3.1.1"), on_message)
        try:
            await older.open()
        except LinkProblem as still:
            raise (still if "MQTT 5" in problem.message else problem) from None
        return older
    return session
