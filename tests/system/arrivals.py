"""What arrived upstream, out of either payload format."""

from __future__ import annotations

import json
import time
import typing
from collections.abc import Callable, Iterator

from fluxedge.model import Quality
from tests.system.consumer import Consumer


class Arrival(typing.NamedTuple):
    """One point of one round."""

    topic: str
    device: str
    point: str
    value: object
    quality: str
    at_us: int


def arrivals(consumer: Consumer, topic: str = "", since: int = 0) -> Iterator[Arrival]:
    """Iterate over the points of the messages from number `since` on."""
    for of, payload in consumer.payloads[since:]:
        if topic and of != topic:
            continue
        body = json.loads(payload)
        if body["lane"] != "rounds":
            continue
        for record in body.get("records", []):
            marks = record.get("quality", {})
            for name, value in record["values"].items():
                yield Arrival(of, record["device"], name, value, marks.get(name, "GOOD"), record["at_us"])
        for group in body.get("groups", []):
            for _seq, device, at_us, values, *more in group["rows"]:
                marks = more[0].get("quality", []) if more else []
                for i, (name, value) in enumerate(zip(group["points"], values, strict=True)):
                    quality = Quality(marks[i]).name if marks else "GOOD"
                    yield Arrival(of, device, name, value, quality, at_us)


def wait_until(reached: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Return when `reached` says so."""
    deadline_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline_s, f"not reached in {timeout_s} s: {what}"
        time.sleep(0.01)
