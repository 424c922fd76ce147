"""Run the bare road and kill it between two steps: STATE MODBUS_PORT MQTT_PORT BACKLOG [STEP NTH].

A step is a place in the program; NTH is how often it is passed before the process kills itself there. Without a step
the road runs until it is killed from outside. BACKLOG is the log's cap in KiB.
"""

from __future__ import annotations

import inspect
import os
import runpy
import signal
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from fluxedge.app import Gateway
from fluxedge.config.quantities import Bytes
from fluxedge.log import database, retention
from fluxedge.log.batch import Commit
from fluxedge.log.cursors import Cursors
from fluxedge.log.store import Log
from fluxedge.log.upkeep import Upkeep
from fluxedge.log.writer import Writer
from fluxedge.pipeline import Pipeline
from fluxedge.uplinks.mqtt import MqttUplink


@dataclass(frozen=True)
class Place:
    """Before or after a function runs, where its arguments are of interest."""

    owner: typing.Any
    function: str
    when: typing.Literal["before", "after"]
    matters: Callable[..., bool] = lambda *_, **__: True


STEPS: dict[str, Place] = {
    "a round is packed": Place(Log, "add_round", "after"),
    "the batch is handed over, nothing has begun": Place(Writer, "_transact", "before"),
    "the rows are written, COMMIT has not run": Place(Commit, "write", "after"),
    "COMMIT has run, the loop does not know": Place(Writer, "_transact", "after"),
    "the loop knows, nobody has been told": Place(Log, "_committed", "after"),
    "rows are read, nothing is published": Place(Log, "read", "after"),
    "a message is published, nothing is acknowledged": Place(MqttUplink, "send", "after"),
    "a PUBACK has come, the cursor has not moved": Place(Cursors, "settle", "before"),
    "the cursor has moved, nothing is saved": Place(Cursors, "settle", "after"),
    "the cursors are taken for a commit": Place(Cursors, "take_changes", "after"),
    "the epoch is judged, the witness is not written": Place(database, "write_witness", "before"),
    "the witness is written, nothing has begun": Place(database, "write_witness", "after"),
}
EVICTION_STEPS: dict[str, Place] = {
    "a segment is dropped, COMMIT has not run": Place(retention, "evict", "after"),
    "a segment is gone, the loop does not know": Place(Upkeep, "_evicted", "before"),
    "the loop knows of a gap, nobody has been told": Place(Upkeep, "_evicted", "after"),
    "a gap's event is packed, COMMIT has not run": Place(
        Pipeline, "submit", "after", lambda _, kind, *__: kind == "gap"
    ),
    "a gap's event is written, COMMIT has not run": Place(
        Commit, "write", "after", lambda commit, _: bool(commit.batch.announced)
    ),
    "a gap's event is durable, the loop does not know": Place(
        Log, "_committed", "before", lambda _, commit, __: bool(commit.batch.announced)
    ),
}


def kill_at(place: Place, nth: int) -> None:
    """Make the process kill itself when it passes a place for the `nth` time."""
    honest: Callable[..., typing.Any] = getattr(place.owner, place.function)
    passed = 0

    def passing(when: str, *arguments: typing.Any, **named: typing.Any) -> None:
        nonlocal passed
        if when == place.when and place.matters(*arguments, **named):
            passed += 1
            if passed >= nth:
                os.kill(os.getpid(), signal.SIGKILL)

    def hooked(*arguments: typing.Any, **named: typing.Any) -> typing.Any:
        passing("before", *arguments, **named)
        result = honest(*arguments, **named)
        passing("after", *arguments, **named)
        return result

    async def hooked_later(*arguments: typing.Any, **named: typing.Any) -> typing.Any:
        passing("before", *arguments, **named)
        result = await honest(*arguments, **named)
        passing("after", *arguments, **named)
        return result

    later = inspect.iscoroutinefunction(honest)
    setattr(place.owner, place.function, hooked_later if later else hooked)


async def main() -> None:
    state, modbus_port, mqtt_port, backlog_kib, *step = sys.argv[1:]
    if step:
        kill_at((STEPS | EVICTION_STEPS)[step[0]], int(step[1]))
    # by its path: some libraries install a package of the name `tests`
    config = runpy.run_path(str(Path(__file__).with_name("road.py")))["config"]
    wanted = config(int(modbus_port), int(mqtt_port))
    backlog = int(backlog_kib) << 10
    sizes = {"backlog_bytes": Bytes(backlog), "segment_bytes": Bytes(backlog // 16), "free_space_bytes": Bytes(0)}
    log = msgspec.structs.replace(wanted.log, **sizes)
    gateway = Gateway(msgspec.structs.replace(wanted, log=log), Path(state))
    await gateway.start()
    assert gateway.failed is not None
    raise await gateway.failed


if __name__ == "__main__":
    uvloop.run(main())
