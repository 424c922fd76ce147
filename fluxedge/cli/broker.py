"""A connection to a broker for one verb: MQTT 5, and 3.1.1 where the broker does not speak it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fluxedge.mqtt import Incoming, Session, Settings
from fluxedge.problems import LinkProblem


async def connect(settings: Settings, on_message: Callable[[Incoming], None] | None = None) -> Session:
    """Return an open session.

    Raises:
        LinkProblem: what is in the way.
    """
    session = Session(settings, on_message)
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
